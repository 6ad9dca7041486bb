"""What statistics are of: which networks and taps, which data, and which of its images.

Parts of one pass over the data are merged as if one process had seen all of it. That is right only
if they are of the same networks, taps and data, and no image is in two of them; so each part says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any

from repair_kernels.errors import (
    ArchitectureMismatchError,
    CheckpointError,
    StatisticsMismatchError,
)

Range = tuple[int, int]
"""The first number, and the one behind the last."""
SHARD = re.compile(r"[1-9]\d{0,5}/[1-9]\d{0,5}")
MAX_RANGES = 2**20
MAX_NUMBER = 2**63 - 1
SHOWN = 3


@dataclass(frozen=True)
class Coverage:
    """Which images of a data set, that has numbers for them, were counted.

    Args:
        ranges: ranges of numbers, sorted, apart from one another; see `of`
        total: how many images there are in all, where that is known
        shards: the shards that these images were, as "3/16"

    Example:
        >>> first, last = Coverage.of([(0, 4)], total=10), Coverage.of([(8, 10)], total=10)
        >>> both = first.merge(last)
        >>> both.n_images, both.missing, str(both)
        (6, ((4, 8),), 'images 0 to 4 and 8 to 10 of 10')
    """

    ranges: tuple[Range, ...]
    total: int | None = None
    shards: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, ranges: Iterable[Range], total: int | None = None, shards: Iterable[str] = ()
    ) -> Coverage:
        """Sort ranges, leave out empty ones, and join those that touch."""
        joined: list[Range] = []
        for start, stop in sorted(ranges):
            if joined and start <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(stop, joined[-1][1])
            elif start < stop:
                joined.append((start, stop))
        return cls(tuple(joined), total, tuple(sorted(set(shards), key=_by_number)))

    @classmethod
    def from_json(cls, ranges: Any, total: Any = None, shards: Any = ()) -> Coverage:
        """Return a coverage from what a file holds.

        Raises:
            CheckpointError: it is something else
        """
        is_list = isinstance(ranges, list) and len(ranges) <= MAX_RANGES
        if not is_list or not all(isinstance(one, list) and len(one) == 2 for one in ranges):
            raise CheckpointError("expected ranges of image numbers, each with its two ends.")
        edges = [edge for one in ranges for edge in one]
        if not all(type(n) is int and 0 <= n <= MAX_NUMBER for n in edges) or any(
            edge >= following for edge, following in pairwise(edges)
        ):
            raise CheckpointError("expected ranges of image numbers, ascending and apart.")
        if total is not None and not (type(total) is int and max(edges, default=0) <= total):
            raise CheckpointError(f"expected the number of all images, got {str(total)[:80]}.")
        if not isinstance(shards, list | tuple) or not all(
            isinstance(shard, str) and SHARD.fullmatch(shard) for shard in shards
        ):
            raise CheckpointError(f"expected shards such as '3/16', got {str(shards)[:80]}.")
        return cls(tuple((start, stop) for start, stop in ranges), total, tuple(shards))

    @property
    def n_images(self) -> int:
        """How many images these are."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def missing(self) -> tuple[Range, ...]:
        """The ranges of `total`, or up to the last number, that are not covered."""
        end = self.total if self.total is not None else max((r[1] for r in self.ranges), default=0)
        edges = [0, *(edge for one in self.ranges for edge in one), end]
        gaps = zip(edges[::2], edges[1::2], strict=True)
        return tuple((start, stop) for start, stop in gaps if start < stop)

    @property
    def missing_shards(self) -> tuple[str, ...]:
        """The shards that are not there, where all that are there are parts of one division."""
        divisions = {shard.partition("/")[2] for shard in self.shards}
        if len(divisions) != 1:
            return ()
        (count,) = divisions
        wanted = (f"{number}/{count}" for number in range(1, int(count) + 1))
        return tuple(shard for shard in wanted if shard not in set(self.shards))

    def overlap(self, other: Coverage) -> Range | None:
        """Return the first range of numbers that both cover."""
        both = [*((*one, 0) for one in self.ranges), *((*one, 1) for one in other.ranges)]
        both.sort()
        reach = [0, 0]
        for start, stop, whose in both:
            if start < reach[1 - whose]:
                return start, min(stop, reach[1 - whose])
            reach[whose] = stop
        return None

    def check_total(self, other: Coverage) -> None:
        """Check that both are of as many images in all, where that is known.

        Raises:
            StatisticsMismatchError: they are not
        """
        if None not in (self.total, other.total) and self.total != other.total:
            raise StatisticsMismatchError(
                f"statistics to merge must be of one selection of images; one is of {self.total:,} "
                f"images in all and the other of {other.total:,}; compute both with the same "
                "number of samples"
            )

    def merge(self, other: Coverage) -> Coverage:
        """Return what both cover together.

        Raises:
            StatisticsMismatchError: some image is in both, or they are of unequal totals
        """
        self.check_total(other)
        twice = self.overlap(other)
        if twice is not None:
            raise StatisticsMismatchError(
                "statistics to merge must be of different images; "
                f"{ranges_in_words([twice])} would be counted twice"
                f"{_of_shards(self.shards, other.shards)}; leave one of them out"
            )
        total = self.total if other.total is None else other.total
        return Coverage.of((*self.ranges, *other.ranges), total, (*self.shards, *other.shards))

    def __str__(self) -> str:
        of = "" if self.total is None else f" of {self.total:,}"
        return f"{ranges_in_words(self.ranges)}{of}"


@dataclass(frozen=True)
class Fingerprint:
    """What statistics are of. Digests are equal only for what is the same.

    Args:
        architecture: digest of the captured graph, with names, shapes and dtypes of all tensors
        weights_a, weights_b: digests of each network's tensors
        taps: digest of the taps with the products that are kept there
        data: name or digest of the selection of images; None where the data does not say
        coverage: which of these images were counted; None where the data has no numbers for them
    """

    architecture: str
    weights_a: str
    weights_b: str
    taps: str
    data: str | None = None
    coverage: Coverage | None = None

    def merge(self, other: Fingerprint) -> Fingerprint:
        """Return that of both sets of images together.

        Where one of the two does not say which images it is of, neither does the result.

        Raises:
            ArchitectureMismatchError: they are of other architectures, or taps
            StatisticsMismatchError: they are of other weights or data, or share images
        """
        self.check_same(other)
        if self.coverage is None or other.coverage is None or None in (self.data, other.data):
            return replace(self, data=None, coverage=None)
        return replace(self, coverage=self.coverage.merge(other.coverage))

    def check_same(self, other: Fingerprint) -> None:
        """Check that both are of the same networks, taps and data, whatever the images.

        Raises:
            ArchitectureMismatchError, StatisticsMismatchError: as in `merge`
        """
        if self.architecture != other.architecture:
            raise ArchitectureMismatchError(
                "statistics to merge must be of one architecture; the graphs or the names, shapes "
                f"and dtypes of weights differ (digests {self.architecture[:8]} and "
                f"{other.architecture[:8]}); compute all parts with the same model, image size and "
                "versions of this package and PyTorch"
            )
        mine, theirs = (self.weights_a, self.weights_b), (other.weights_a, other.weights_b)
        if mine != theirs:
            which = " and ".join(n for n, x, y in zip("ab", mine, theirs, strict=True) if x != y)
            turned = mine == theirs[::-1]
            raise StatisticsMismatchError(
                f"statistics to merge must be of the same two networks; the weights of {which} "
                f"differ{' (a and b have changed places)' if turned else ''}; compute all parts "
                "from the same checkpoints, in the same order"
            )
        if self.taps != other.taps:
            raise ArchitectureMismatchError(
                "statistics to merge must be of the same taps and keep the same products there; "
                "they do not; compute all parts with the same options"
            )
        if self.data != other.data and None not in (self.data, other.data):
            raise StatisticsMismatchError(
                "statistics to merge must be of parts of the same data; one is of "
                f"{self.data!r} and the other of {other.data!r}; compute all parts with the same "
                "data, seed and number of samples"
            )

    def to_json(self) -> dict[str, Any]:
        """Return this as what JSON can hold."""
        held = {name: getattr(self, name) for name in (*DIGESTS, "data")}
        if self.coverage is not None:
            coverage = self.coverage
            held["ranges"] = [list(one) for one in coverage.ranges]
            held |= {"total": coverage.total, "shards": list(coverage.shards)}
        return held

    @classmethod
    def from_json(cls, held: Any) -> Fingerprint:
        """Return what `to_json` was made from.

        Raises:
            CheckpointError: it is something else
        """
        if not isinstance(held, dict) or not all(isinstance(held.get(n), str) for n in DIGESTS):
            raise CheckpointError(
                f"expected a fingerprint with {', '.join(DIGESTS)}, got {str(held)[:80]}."
            )
        data = held.get("data")
        if not (data is None or isinstance(data, str)):
            raise CheckpointError(f"expected the data's fingerprint as text, got {data!r}.")
        coverage = None
        if "ranges" in held:
            coverage = Coverage.from_json(held["ranges"], held.get("total"), held.get("shards"))
        return cls(**{name: held[name] for name in DIGESTS}, data=data, coverage=coverage)


def combined(fingerprints: Sequence[Fingerprint | None]) -> Fingerprint | None:
    """Return that of several sets of images together; None where one of them is not known.

    Raises:
        ArchitectureMismatchError, StatisticsMismatchError: as in `Fingerprint.merge`
    """
    known = [one for one in fingerprints if one is not None]
    return reduce(Fingerprint.merge, known) if known and len(known) == len(fingerprints) else None


DIGESTS = ("architecture", "weights_a", "weights_b", "taps")


def _by_number(shard: str) -> tuple[int, int]:
    number, _, count = shard.partition("/")
    return int(count), int(number)


def ranges_in_words(ranges: Iterable[Range]) -> str:
    """Say ranges of images, the first few of them."""
    ranges = list(ranges)
    if not ranges:
        return "no images"
    said = [f"{start:,} to {stop:,}" for start, stop in ranges[:SHOWN]]
    if len(ranges) > SHOWN:
        said.append(f"{len(ranges) - SHOWN:,} ranges more")
    return f"images {', '.join(said[:-1])}{' and ' if said[1:] else ''}{said[-1]}"


def _of_shards(one: tuple[str, ...], other: tuple[str, ...]) -> str:
    if not one or not other:
        return ""
    return f" (shards {', '.join(one[:SHOWN])} and {', '.join(other[:SHOWN])})"
