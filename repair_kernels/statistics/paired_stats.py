"""The moments of every tap as one value: merged, reordered, saved.

`statistics_file.py` says what a file of them holds.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from repair_kernels.errors import ArchitectureMismatchError, ArgumentError, RepairKernelsError
from repair_kernels.moments import Indices, PairedMoments
from repair_kernels.moments.totals import check_count
from repair_kernels.statistics.fingerprint import Fingerprint, combined
from repair_kernels.statistics.statistics_file import read, write

REPR_TAPS = 8


class UnknownTapError(ArgumentError, KeyError):
    """A tap was asked for that the statistics do not hold."""

    __str__ = Exception.__str__


class DeadCount(NamedTuple):
    """How many channels of each network are dead at one tap."""

    a: int
    b: int


class PairedStats(Mapping[str, PairedMoments]):
    """The moments of two networks at every tap, by tap name, in the order of the graph.

    Args:
        moments: moments of each tap
        n_images: images that were seen; `n_samples` of a tap is images x positions
        fingerprint: what they are of, where that is known

    Example:
        >>> stats = PairedStats({"conv": PairedMoments.empty(2, 3)}, n_images=0)
        >>> list(stats), stats.merge(stats).n_images
        (['conv'], 0)
    """

    def __init__(
        self,
        moments: Mapping[str, PairedMoments],
        *,
        n_images: int,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        check_count("n_images", n_images)
        for tap, value in moments.items():
            if not isinstance(tap, str) or not isinstance(value, PairedMoments):
                raise ArgumentError(
                    "`moments` must map tap names to PairedMoments; got "
                    f"{type(tap).__name__} -> {type(value).__name__}."
                )
        self._moments = dict(moments)
        self._n_images = n_images
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Which networks, taps and images they are of; None where that is not known, or changed."""
        return self._fingerprint

    @property
    def n_images(self) -> int:
        """Images that were seen."""
        return self._n_images

    @property
    def dead(self) -> dict[str, DeadCount]:
        """How many channels are dead at each tap: see `ChannelMoments.dead`."""
        return {
            tap: DeadCount(int(moments.dead_a.sum()), int(moments.dead_b.sum()))
            for tap, moments in self.items()
        }

    def __getitem__(self, tap: str) -> PairedMoments:
        if tap not in self._moments:
            self._refuse(tap)
        return self._moments[tap]

    def __contains__(self, tap: object) -> bool:
        return tap in self._moments

    def __iter__(self) -> Iterator[str]:
        return iter(self._moments)

    def __len__(self) -> int:
        return len(self._moments)

    def __repr__(self) -> str:
        lines = [f"PairedStats({self.n_images:,} images, {len(self)} taps)"]
        shown = list(self.items())[:REPR_TAPS]
        width = max((len(tap) for tap, _ in shown), default=0)
        for tap, moments in shown:
            shape = f"{moments.mean_a.numel()} x {moments.mean_b.numel()}"
            products = "" if moments.products == "none" else moments.products
            line = f"  {tap:{width}}  {shape:>11}  n = {moments.n_samples:,}  {products}"
            lines.append(line.rstrip())
        if len(self) > len(shown):
            lines.append(f"  ... and {len(self) - len(shown)} more")
        return "\n".join(lines)

    def merge(self, other: PairedStats) -> PairedStats:
        """Return the statistics of both sets of images together.

        Statistics without images and taps, `PairedStats({}, n_images=0)`, change nothing.

        Raises:
            ArchitectureMismatchError: the taps, or the channels at one of them, differ
            StatisticsMismatchError: fingerprints tell of other networks or data, or of images that
                are in both
        """
        fingerprint = combined([self.fingerprint, other.fingerprint])
        for one, rest in ((self, other), (other, self)):
            if not one and one.n_images == 0:
                if one.fingerprint is None or rest.fingerprint is None:
                    return rest
                return PairedStats(rest, n_images=rest.n_images, fingerprint=fingerprint)
        for tap in [*self, *other]:
            if tap not in self or tap not in other:
                raise ArchitectureMismatchError(
                    f"statistics to merge must have the same taps, but only one of the two has "
                    f"{tap!r}. Merge statistics of one architecture with the same `taps`."
                )
        merged = {}
        for tap, moments in self.items():
            try:
                merged[tap] = moments.merge(other[tap])
            except RepairKernelsError as error:
                raise type(error)(f"at tap {tap!r}: {error}") from error
        n_images = self.n_images + other.n_images
        return PairedStats(merged, n_images=n_images, fingerprint=fingerprint)

    def permuted_b(self, indices: Mapping[str, Indices]) -> PairedStats:
        """Reorder b's channels at the taps named: channel i becomes channel `indices[tap][i]`.

        A tap without an entry stays as it is.
        """
        for tap in indices:
            if tap not in self:
                self._refuse(tap)
        permuted = dict(self)
        for tap in indices:
            try:
                permuted[tap] = self[tap].permuted_b(indices[tap])
            except RepairKernelsError as error:
                raise type(error)(f"at tap {tap!r}: {error}") from error
        return PairedStats(permuted, n_images=self.n_images)

    def to(self, device: torch.device | str) -> PairedStats:
        """Return the same statistics on another device."""
        moved = {tap: moments.to(device) for tap, moments in self.items()}
        return PairedStats(moved, n_images=self.n_images, fingerprint=self.fingerprint)

    def scaled_b(self, scales: Mapping[str, Tensor]) -> PairedStats:
        """Multiply b's channels at the taps named: what b returns once it is balanced.

        A tap without an entry stays as it is.
        """
        for tap in scales:
            if tap not in self:
                self._refuse(tap)
        scaled = {
            tap: moments.scaled_b(scales[tap]) for tap, moments in self.items() if tap in scales
        }
        return PairedStats({**self, **scaled}, n_images=self.n_images)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a statistics file, at once or not at all: a reader never sees half of it.

        Raises:
            CheckpointError: the file cannot be written there
        """
        write(path, self, n_images=self.n_images, fingerprint=self.fingerprint)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PairedStats:
        """Read a statistics file; nothing of it is executed, and all of it is checked.

        Raises:
            CheckpointError: the file is missing, broken, or holds no statistics
        """
        moments, n_images, fingerprint = read(path)
        return cls(moments, n_images=n_images, fingerprint=fingerprint)

    def _refuse(self, tap: object) -> NoReturn:
        close = difflib.get_close_matches(str(tap), self._moments, n=3, cutoff=0.4)
        hint = (
            f"the closest are {', '.join(map(repr, close))}" if close else f"there are {len(self)}"
        )
        raise UnknownTapError(f"no tap {tap!r} in these statistics; {hint}. See `list(stats)`.")
