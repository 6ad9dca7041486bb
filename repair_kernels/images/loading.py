"""Batches of images: decoded in worker processes, copied to a GPU while it works on the last one.

Workers hand over bytes, not floats: a quarter of the memory to share, to pin and to copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from repair_kernels.errors import ArgumentError, CalibrationDataError, RepairKernelsError

if TYPE_CHECKING:
    from repair_kernels.images.source import ImageSource

Loaded = list[Tensor]
"""Images as their source gives them, stacked, and class numbers if they are wanted."""


class ImageLoader:
    """Batches of some images of a source, in order; every iteration starts anew.

    Args: see `ImageSource.loader`
    """

    def __init__(
        self,
        source: ImageSource,
        batch_size: int,
        numbers: range,
        workers: int,
        device: torch.device | str | None,
        labels: bool,
    ):
        for name, value, least, advice in (
            ("batch_size", batch_size, 1, "take as many as memory has room for, such as 128"),
            ("workers", workers, 0, "take 0 to load images in this process"),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ArgumentError(
                    f"`{name}` must be a whole number of at least {least}; got {value!r}; {advice}"
                )
        self.source = source
        self.batch_size = batch_size
        self.numbers = numbers
        self._workers = workers
        self._device = None if device is None else torch.device(device)
        self._labels = labels

    def __len__(self) -> int:
        """Return how many batches there are."""
        return -(-len(self.numbers) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        """Yield batches; raise a CalibrationDataError that names an image that cannot be read."""
        is_cuda = self._device is not None and self._device.type == "cuda"
        batches: Iterable[Loaded] = _sound(
            DataLoader(
                _Stacks(self.source, self.numbers, self.batch_size, self._labels),
                batch_size=None,
                sampler=range(len(self)),
                num_workers=self._workers,
                collate_fn=_as_it_is,
                pin_memory=is_cuda,
                # Without one of its own it would draw from the caller's.
                generator=torch.Generator().manual_seed(0),
            )
        )
        if is_cuda and self._device is not None:
            batches = copied_ahead(batches, self._device)
        for images, *labels in batches:
            ready = self.source.normalised(images)
            yield (ready, labels[0]) if labels else ready


def copied_ahead(batches: Iterable[Loaded], device: torch.device) -> Iterator[Loaded]:
    """Yield batches on a GPU, each while the next one is on its way on a stream of its own."""
    stream = torch.cuda.Stream(device)
    ahead: tuple[Loaded, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            copied = [tensor.to(device, non_blocking=True) for tensor in batch]
        arrived = torch.cuda.Event()
        arrived.record(stream)
        if ahead is not None:
            yield _taken_over(*ahead)
        ahead = copied, arrived
    if ahead is not None:
        yield _taken_over(*ahead)


def _taken_over(batch: Loaded, arrived: torch.cuda.Event) -> Loaded:
    """Let the current stream wait for a copy, and say that it uses the memory."""
    current = torch.cuda.current_stream(batch[0].device)
    current.wait_event(arrived)
    for tensor in batch:
        tensor.record_stream(current)
    return batch


class _Stacks(Dataset["Loaded | RepairKernelsError"]):
    """Batches by number. What is wrong with one is a value: a worker would garble the message."""

    def __init__(self, source: ImageSource, numbers: range, batch_size: int, labels: bool):
        self._source, self._numbers = source, numbers
        self._batch_size, self._labels = batch_size, labels

    def __getitem__(self, batch: int) -> Loaded | RepairKernelsError:
        first = batch * self._batch_size
        try:
            return self._stacked(self._numbers[first : first + self._batch_size])
        except RepairKernelsError as error:
            return error

    def _stacked(self, numbers: range) -> Loaded:
        images = [self._source.image(number) for number in numbers]
        for number, image in zip(numbers, images, strict=True):
            if image.shape != images[0].shape:
                raise CalibrationDataError(
                    "images of a batch must have one size; "
                    f"{self._source.name(numbers[0])} is {_size(images[0])} and "
                    f"{self._source.name(number)} is {_size(image)}; choose a preprocessing that "
                    "brings them to one size, such as 'imagenet'"
                )
        stacked = [torch.stack(images)]
        if self._labels:
            stacked.append(torch.tensor([self._source.label(number) for number in numbers]))
        return stacked


def _sound(batches: Iterable[Loaded | RepairKernelsError]) -> Iterator[Loaded]:
    for batch in batches:
        if isinstance(batch, RepairKernelsError):
            raise batch
        yield batch


def _as_it_is(batch: Loaded | RepairKernelsError) -> Loaded | RepairKernelsError:
    return batch


def _size(image: Tensor) -> str:
    return " x ".join(map(str, image.shape[1:]))
