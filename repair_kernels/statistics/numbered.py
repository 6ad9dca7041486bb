"""Batches whose images have numbers: one shard of them, and the rest of it after a stop.

Batches of an image source (see `Seekable`) start anywhere, and a shard is a range of images. Any
other iterable is read from its start: a shard is every n-th batch, and to go on means to pass over
the batches that were counted before. It must yield the same batches each time it is read; the
first one is compared.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from repair_kernels.batches import check_iterable, check_samples, input_of
from repair_kernels.digests import digest_of_tensors
from repair_kernels.errors import CalibrationDataError, EmptyDataError
from repair_kernels.shard import Shard
from repair_kernels.statistics.fingerprint import Coverage, Range


class Position(NamedTuple):
    """How far a pass over numbered batches has come.

    Attributes:
        batches: that were read, those of other shards included
        images: the number of the next image
        ranges: the images that were handed out
    """

    batches: int = 0
    images: int = 0
    ranges: tuple[Range, ...] = ()

    def after(self, n_images: int, *, own: bool = True) -> Position:
        """Return the position behind another batch."""
        ranges, start, stop = self.ranges, self.images, self.images + n_images
        if own and n_images:
            is_next = bool(ranges) and ranges[-1][1] == start
            ranges = (*ranges[:-1], (ranges[-1][0], stop)) if is_next else (*ranges, (start, stop))
        return Position(self.batches + 1, stop, ranges)


@runtime_checkable
class Seekable(Protocol):
    """Batches of consecutive images of a source, in order; a copy with other `numbers` has these.

    `source` has a length, a `fingerprint` that is equal for the same images in the same order, and
    `loader(batch_size, start=..., stop=...)`, which returns such batches.
    """

    source: Any
    batch_size: int
    numbers: range

    def __iter__(self) -> Iterator[Any]: ...


class NumberedBatches(ABC):
    """One shard of the data. Iterating yields its inputs from `position` on, which goes along.

    Attributes:
        fingerprint: equal for the same data
        shard: which part of it this is
        position: behind the last batch that was yielded
        total: how many images all shards have, once that is known
        batch_size: images in a batch
    """

    fingerprint: str
    batch_size: int
    total: int | None = None

    def __init__(self, shard: Shard):
        self.shard = shard
        self.position = Position()

    @property
    def coverage(self) -> Coverage:
        """Which images were handed out."""
        return Coverage.of(self.position.ranges, self.total, [str(self.shard)])

    def go_to(self, position: Position) -> None:
        """Go on from where an earlier pass over the same batches stopped.

        Raises:
            CalibrationDataError: at once or when iterating: batches are not as they were then
        """
        self.position = position

    @property
    @abstractmethod
    def example(self) -> Tensor:
        """Some images of the data, of whatever shard."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many batches are to come; 0 where that is not known."""

    @abstractmethod
    def __iter__(self) -> Iterator[Tensor]:
        """Yield the inputs from `position` on."""


def numbered(
    batches: Iterable[Any], *, shard: Shard | str | None = None, n_samples: int | None = None
) -> NumberedBatches:
    """Return one shard of some batches.

    Args:
        batches: `Seekable`, or any iterable that yields the same batches in the same order when it
            is made anew
        shard: which part; default: all
        n_samples: how many images all shards have together at most
    Example:
        >>> third = numbered([Tensor(2, 4)] * 5, shard="2/3")
        >>> [len(x) for x in third], third.coverage.ranges, third.total
        ([2, 2], ((2, 4), (8, 10)), 10)
    """
    check_samples(n_samples)
    check_iterable(batches)
    part = Shard() if shard is None else Shard.parse(shard)
    if isinstance(batches, Seekable):
        return SeekableBatches(batches, part, n_samples)
    return StreamedBatches(batches, part, n_samples)


class SeekableBatches(NumberedBatches):
    """A range of the images of a source."""

    def __init__(self, batches: Seekable, shard: Shard, n_samples: int | None):
        super().__init__(shard)
        self._batches = batches
        self.batch_size = batches.batch_size
        numbers = batches.numbers[:n_samples]
        self._numbers, self._own = numbers, shard.of(numbers, self.batch_size)
        self.fingerprint = batches.source.fingerprint
        is_whole = len(batches.numbers) == len(batches.source)
        self.total = len(numbers) if is_whole else len(batches.source)
        self.position = Position(images=self._own.start)

    def go_to(self, position: Position) -> None:
        """Go on from a position that batches of this size reach in this shard."""
        size, own = self.batch_size, self._own
        images = min(own.start + position.batches * size, own.stop)
        ranges = ((own.start, images),) if images > own.start else ()
        expected = Position(position.batches, images, ranges)
        if position != expected:
            raise CalibrationDataError(
                f"`batches` must be as before the stop, where {position.batches:,} batches went up "
                f"to image {position.images:,}; those of {size} images from image {own.start:,} go "
                f"up to {images:,}; use the same batch size and shard, or start anew"
            )
        self.position = position

    @property
    def example(self) -> Tensor:
        """The first image."""
        if not self._numbers:
            raise EmptyDataError(
                "`batches` must hold at least one image; it is empty; check the source"
            )
        first = self._numbers.start
        one = self._batches.source.loader(1, start=first, stop=first + 1)
        return input_of(next(iter(one)), 0)

    def __len__(self) -> int:
        return -(-(self._own.stop - self.position.images) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        start, stop = self.position.images, self._own.stop
        if start >= stop:
            return
        for number, batch in enumerate(self._of(range(start, stop)), self.position.batches):
            x = input_of(batch, number)
            self.position = self.position.after(len(x))
            yield x
        if self.position.images != stop:
            raise CalibrationDataError(
                f"`batches` must yield images {start:,} to {stop:,}; it ended at "
                f"{self.position.images:,}; check the source"
            )

    def _of(self, numbers: range) -> Iterable[Any]:
        part = copy.copy(self._batches)
        part.numbers = numbers
        return part


class StreamedBatches(NumberedBatches):
    """Every n-th batch of an iterable that is read from its start."""

    def __init__(self, batches: Iterable[Any], shard: Shard, n_samples: int | None):
        super().__init__(shard)
        self._n_samples = n_samples
        self._length = len(batches) if hasattr(batches, "__len__") else 0  # type: ignore[arg-type]
        source = iter(batches)
        taken = list(islice(source, 1))
        if not taken:
            raise EmptyDataError(
                "`batches` must hold at least one batch; it is empty; check the data loader"
            )
        self._example = input_of(taken[0], 0)
        self.batch_size = len(self._example)
        self._source = chain(taken, source)
        limit = "" if n_samples is None else f", {n_samples} images"
        digest = digest_of_tensors({"input": self._example})
        self.fingerprint = f"batches that start with {digest[:16]}{limit}"

    @property
    def example(self) -> Tensor:
        """The first batch."""
        return self._example

    def __len__(self) -> int:
        passed, count = self.position.batches, self.shard.count
        first = passed + (self.shard.number - 1 - passed) % count
        return len(range(first, self._length, count))

    def __iter__(self) -> Iterator[Tensor]:
        wanted, at = self.position, Position()
        for number, batch in enumerate(self._source):
            if at.batches == wanted.batches:
                self._check_place(at, wanted)
            x = input_of(batch, number)
            if self._n_samples is not None:
                x = x[: self._n_samples - at.images]
            own = number % self.shard.count == self.shard.number - 1
            at = at.after(len(x), own=own)
            if at.batches > wanted.batches:
                self.position = at
                if own and len(x):
                    yield x
            if at.images == self._n_samples:
                break
        if at.batches <= wanted.batches:
            self._check_place(at, wanted)
        self.total = at.images

    def _check_place(self, at: Position, wanted: Position) -> None:
        if at != wanted:
            raise CalibrationDataError(
                f"`batches` must be as before the stop, {wanted.images:,} images in "
                f"{wanted.batches:,} batches up to here; now there are {at.images:,} in "
                f"{at.batches:,}; use data in a fixed order, or start anew"
            )
