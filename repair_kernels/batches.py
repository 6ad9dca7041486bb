"""Batches as users have them: tensors, or tuples, lists and dicts whose first item is the input."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from repair_kernels.errors import CalibrationDataError, EmptyDataError


def input_of(batch: Any, number: int) -> Tensor:
    """Return the input tensor of a batch.

    Raises:
        CalibrationDataError: when there is none; the message names the batch.
    """
    first = batch
    if isinstance(batch, Mapping):
        first = next(iter(batch.values()), None)
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        first = batch[0] if batch else None
    if not isinstance(first, Tensor) or first.dim() == 0:
        raise CalibrationDataError(
            "`batches` must yield tensors with a batch dimension, or tuples, lists or dicts "
            "whose first item is one; "
            f"batch {number} is a {type(batch).__name__} whose first item is "
            f"{type(first).__name__}; wrap the data in a DataLoader"
        )
    return first


class Batches:
    """The inputs of an iterable of batches: checked, moved to a device, limited in number.

    Iterating goes over the data once more. `first` is looked at without losing it, also when the
    data can be read only once.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        device: torch.device | None = None,
        n_samples: int | None = None,
    ):
        if n_samples is not None and (
            isinstance(n_samples, bool) or not isinstance(n_samples, int) or n_samples < 1
        ):
            raise CalibrationDataError(
                f"`n_samples` must be a positive number of images; got {n_samples!r}; omit it to "
                "use all"
            )
        if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
            raise CalibrationDataError(
                f"`batches` must be an iterable of batches; got a {type(batches).__name__}; "
                "pass a DataLoader, or a list with one tensor in it"
            )
        self.device = device
        self.n_samples = n_samples
        self._source = batches
        self._pending: Iterator[Any] | None = iter(batches)
        taken = list(islice(self._pending, 1))
        if not taken:
            raise EmptyDataError(
                "`batches` must hold at least one batch; it is empty; check the data loader"
            )
        self.first = input_of(taken[0], 0)
        self._pending = chain(taken, self._pending)
        self.is_repeatable = not isinstance(batches, Iterator)

    def __len__(self) -> int:
        """Return the number of batches where the source knows it, else 0."""
        return len(self._source) if hasattr(self._source, "__len__") else 0  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Tensor]:
        """Yield inputs on the device, each of the first one's shape but for the batch dimension."""
        source, self._pending = self._pending, None
        if source is None:
            if not self.is_repeatable:
                raise CalibrationDataError(
                    "`batches` is read more than once here, and it is an iterator that is "
                    "already spent; pass a list or a DataLoader, or give `stats`"
                )
            source = iter(self._source)
        left = self.n_samples
        n_images = 0
        for number, batch in enumerate(source):
            x = input_of(batch, number)
            if x.shape[1:] != self.first.shape[1:]:
                raise CalibrationDataError(
                    "every batch must have inputs of shape (n, "
                    f"{', '.join(map(str, self.first.shape[1:]))}) as the first; "
                    f"batch {number} has {tuple(x.shape)}; resize or crop the data to one size"
                )
            if left is not None:
                x = x[:left]
                left -= len(x)
            n_images += len(x)
            if len(x):
                yield (
                    x.detach()
                    if self.device is None
                    else x.detach().to(self.device, non_blocking=True)
                )
            if left == 0:
                break
        if n_images == 0:
            raise EmptyDataError(
                "`batches` must hold at least one image; all batches are empty; check the data "
                "loader"
            )
