"""Batches as users have them: tensors, or tuples, lists and dicts whose first item is the input.

The second item is the labels, if it is one class number per image.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from repair_kernels.errors import CalibrationDataError, EmptyDataError
from repair_kernels.ranks import ALONE, Ranks

PIECE_IMAGES = 500
"""As the paper's batches."""
PIECE_BYTES = 64 * 2**20
ONE_CLASS = (
    "all labels of the calibration data are one class, so that the statistics are not those of the "
    "data at large; calibrate with images of all classes"
)
EXAMPLES = 8
"""Images that one rank shows to all, to capture the networks with and to verify on."""


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


def labels_of(batch: Any, n: int) -> Tensor | None:
    """Return the second item of a batch if it is a vector of n integers: class numbers."""
    held = list(batch.values()) if isinstance(batch, Mapping) else batch
    if not isinstance(held, Sequence) or isinstance(held, str | bytes) or len(held) < 2:
        return None
    labels = held[1]
    if not isinstance(labels, Tensor) or labels.shape != (n,):
        return None
    is_integer = not labels.dtype.is_floating_point and not labels.dtype.is_complex
    return labels if is_integer and labels.dtype != torch.bool else None


def images_in(batches: Iterable[Any]) -> int | None:
    """Return how many images batches have, at most, where that is known before they are read."""
    if isinstance(batches, list | tuple):
        return sum(len(input_of(batch, number)) for number, batch in enumerate(batches))
    size = getattr(batches, "batch_size", None)
    return len(batches) * size if isinstance(batches, Sized) and isinstance(size, int) else None


def check_samples(n_samples: int | None) -> None:
    """Refuse what is no number of images to use at most."""
    if n_samples is not None and (
        isinstance(n_samples, bool) or not isinstance(n_samples, int) or n_samples < 1
    ):
        raise CalibrationDataError(
            f"`n_samples` must be a positive number of images; got {n_samples!r}; omit it to "
            "use all"
        )


def check_iterable(batches: object) -> None:
    """Refuse what does not hold batches."""
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        raise CalibrationDataError(
            f"`batches` must be an iterable of batches; got a {type(batches).__name__}; "
            "pass a DataLoader, or a list with one tensor in it"
        )


def in_pieces(batches: Iterable[Tensor], images: int) -> Iterator[Tensor]:
    """Yield the images of batches in pieces of the same size, wherever the batches end.

    A rest of less than half a piece belongs to the last one, so that none is small unless there is
    but one.
    """
    least = _least_to_cut(images)
    rest: list[Tensor] = []
    n = 0
    for batch in batches:
        rest.append(batch)
        n += len(batch)
        if n < least:
            continue
        joined = torch.cat(rest)
        start = 0
        while n - start >= least:
            # Copies: a view would keep all of what it was cut from.
            yield joined[start : start + images].clone()
            start += images
        rest, n = [joined[start:].clone()], n - start
    if rest:
        yield torch.cat(rest) if len(rest) > 1 else rest[0]


def cuts_of(n: int, images: int) -> list[int]:
    """Return where `in_pieces` cuts n images.

    Example:
        >>> cuts_of(1240, 500), cuts_of(1250, 500)
        ([500], [500, 1000])
    """
    return [start + images for start in range(0, n - _least_to_cut(images) + 1, images)]


def _least_to_cut(images: int) -> int:
    """Return of how many images a piece is cut off."""
    return images + (images + 1) // 2


def piece_size(first: Tensor) -> int:
    """Return how many images a piece has: `PIECE_IMAGES`, or as many as `PIECE_BYTES` hold."""
    per_image = math.prod(first.shape[1:]) * first.element_size()
    return max(1, min(PIECE_IMAGES, PIECE_BYTES // max(1, per_image)))


class Batches:
    """The inputs of an iterable of batches: checked, moved to a device, limited in number.

    Iterating goes over the data once more. `first` is looked at without losing it, also when the
    data can be read only once; `example` are some images of it, the same on every rank.

    Attributes:
        in_step: whether whoever reads the batches meets the other ranks at each of them; otherwise
            reading looks after them now and then, and waits for them at the end
    """

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        device: torch.device | None = None,
        n_samples: int | None = None,
    ):
        check_samples(n_samples)
        check_iterable(batches)
        self.device = device
        self.n_samples = n_samples
        self._source = batches
        self._n_batches = len(batches) if isinstance(batches, Sized) else 0
        self._pending: Iterator[Any] | None = iter(batches)
        taken = list(islice(self._pending, 1))
        if not taken:
            raise EmptyDataError(
                "`batches` must hold at least one batch; it is empty; check the data loader"
            )
        self.first = input_of(taken[0], 0)
        self.example = self.first[:EXAMPLES]
        self._pending = chain(taken, self._pending)
        self.is_repeatable = not isinstance(batches, Iterator)
        self.in_step = False
        self._ranks: Ranks | None = None
        self._counted: int | None = None
        self._classes = _Classes()

    def __len__(self) -> int:
        """Return the number of batches where the source knows it, else 0."""
        return len(self._source) if hasattr(self._source, "__len__") else 0  # type: ignore[arg-type]

    @property
    def n_images(self) -> int | None:
        """How many images the last whole pass saw; None: there was none."""
        return self._counted

    @property
    def expected_images(self) -> int | None:
        """How many images a pass will see: at most, before the first pass; None: not known."""
        if self._counted is not None:
            return self._counted
        known = images_in(self._source) or self._n_batches * len(self.first) or None
        limits = [n for n in (known, self.n_samples) if n is not None]
        return min(limits, default=None)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield inputs on the device, each of the first one's shape but for the batch dimension."""
        return (x for x, _ in self.labelled())

    def doubts(self) -> tuple[str, ...]:
        """Return what users must be told of data that were read, in words; the same on each rank.

        All ranks call it together.
        """
        everyone = [self._classes.span()]
        if self._ranks is not None:
            everyone = self._ranks.exchange("classes", everyone[0])
        spans = [span for span in everyone if span is not None]
        if not spans or len({number for span in spans for number in span}) > 1 or spans[0][0] < 0:
            return ()
        return (ONE_CLASS,)

    def pieces(self) -> "Pieces":
        """Return the same images in pieces that do not depend on where the batches end."""
        return Pieces(self)

    def labelled(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield inputs as iterating does, each with its class numbers where the batch has them."""
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
            labels = labels_of(batch, len(x))
            if left is not None:
                x, labels = x[:left], None if labels is None else labels[:left]
                left -= len(x)
            n_images += len(x)
            if self._counted is None:
                self._classes.add(labels, len(x))
            if len(x):
                yield self._placed(x), None if labels is None else self._placed(labels)
            if self._ranks is not None and not self.in_step:
                self._ranks.meet()
            if left == 0:
                break
        self._counted = n_images
        if self._ranks is not None and not self.in_step:
            self._ranks.wait()
        elif self._ranks is None and n_images == 0:
            raise EmptyDataError(
                "`batches` must hold at least one image; all batches are empty; check the data "
                "loader"
            )

    def _placed(self, x: Tensor) -> Tensor:
        x = x.detach()
        return x if self.device is None else x.to(self.device, non_blocking=True)

    def share(self, example: Tensor, is_repeatable: bool, ranks: Ranks) -> None:
        """Be one rank's part of data that others have parts of: there may be no images in it.

        From now on all ranks read their parts at the same time, and wait for each other at the end.

        Args:
            example: the same images on every rank
            is_repeatable: whether all parts can be read more than once
        """
        self.example, self.is_repeatable, self._ranks = example, is_repeatable, ranks
        if len(self.first) == 0:
            self.first = example


class _Classes:
    """The least and the largest class number of a pass over the data."""

    def __init__(self) -> None:
        self._span: Tensor | None = None
        self._are_all_labelled = True

    def add(self, labels: Tensor | None, n_images: int) -> None:
        if n_images == 0:
            return
        if labels is None:
            self._are_all_labelled = False
        else:
            both = torch.stack(labels.detach().long().aminmax())
            held = both if self._span is None else torch.cat([self._span, both])
            self._span = torch.stack(held.aminmax())

    def span(self) -> tuple[int, int] | None:
        """Return both, (-1, -1) if some images had none, and None if there was no image."""
        if not self._are_all_labelled:
            return -1, -1
        if self._span is None:
            return None
        low, high = self._span.tolist()
        return low, high


class Pieces:
    """The images of batches, in pieces of one size."""

    def __init__(self, data: Batches):
        self._data = data

    @property
    def expected_images(self) -> int | None:
        """See `Batches`."""
        return self._data.expected_images

    def __iter__(self) -> Iterator[Tensor]:
        return in_pieces(self._data, piece_size(self._data.first))


def open_batches(batches: Iterable[Any], n_samples: int | None, ranks: Ranks = ALONE) -> Batches:
    """Open this rank's batches. There may be none if another rank has some.

    Args:
        n_samples: how many images to use at most, of this rank's
    Raises:
        EmptyDataError: no rank has images
        CalibrationDataError: ranks have inputs of different shapes
    """
    try:
        own = Batches(batches, n_samples=n_samples)
    except EmptyDataError:
        if ranks.size == 1:
            raise
        own = None
    if ranks.size == 1 and own is not None:
        return own
    said = None if own is None else (tuple(own.first.shape[1:]), own.first.dtype, len(own.first))
    everyone = ranks.exchange("inputs", (said, own is None or own.is_repeatable))
    known = {rank: theirs for rank, (theirs, _) in enumerate(everyone) if theirs is not None}
    teller = max(known, key=lambda rank: min(known[rank][2], EXAMPLES), default=None)
    if teller is None or known[teller][2] == 0:
        raise EmptyDataError(
            "`batches` must hold at least one image on some rank; there is none on all "
            f"{ranks.size}; check the data loader"
        )
    for rank, theirs in known.items():
        if theirs[:2] != known[teller][:2]:
            raise CalibrationDataError(
                "all ranks must have inputs of one shape and dtype; rank "
                f"{teller} has (n, {_listed(known[teller])} and rank {rank} "
                f"(n, {_listed(theirs)}; prepare the images of all ranks in the same way"
            )
    mine = None if own is None or ranks.rank != teller else own.first[:EXAMPLES]
    example = ranks.from_rank(teller, mine)
    if own is None:
        own = Batches([example[:0]])
    own.share(example, all(is_repeatable for _, is_repeatable in everyone), ranks)
    return own


def _listed(said: tuple[tuple[int, ...], torch.dtype, int]) -> str:
    return f"{', '.join(map(str, said[0]))}) of {said[1]}"
