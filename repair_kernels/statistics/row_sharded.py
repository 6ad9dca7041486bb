"""Sums of products of all ranks' images, of which each rank keeps some rows.

`row_layout.py` says which. The ranks go in step: at each step a rank has one batch, or none any
more. A step's batches are merged as `all_reduce` merges ranks, about the mean of all of them, and
with the steps before as `running` merges batches (Chan et al.; for `cross`, the others likewise):

    mean = Σ_r n_r mean_r / n                                       a sum over ranks, of vectors
    step = Σ_r cross_r + n_r (a_r - mean_a)(b_r - mean_b)ᵀ          a reduce-scatter by rows
    rows += step's rows + n_before n / (n_before + n) δ_a δ_bᵀ      δ = mean - mean before

so that nothing cancels, wherever the means lie and however they drift. In front of each group of
taps that is merged the ranks exchange messages: an error of one ends all of them there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from repair_kernels.moments import PairedMoments
from repair_kernels.moments.totals import add_outer_, between, merge_means_
from repair_kernels.ops import PairedSums
from repair_kernels.ranks import Ranks
from repair_kernels.statistics.paired_stats import PairedStats
from repair_kernels.statistics.row_layout import RowLayout


class RowShardedProducts:
    """This rank's rows of the sums of products, over the images of all ranks so far.

    Args:
        layout: which rows of what
        ranks: all call `add` at every batch for every tap, then `end`, then `gathered`
        device: where the rows are kept, and sums come from
    """

    def __init__(self, layout: RowLayout, ranks: Ranks, device: torch.device):
        self._layout, self._ranks = layout, ranks
        self._device = device
        self._held: dict[str, tuple[int, PairedSums]] = {}
        self._merged = 0
        self._n = dict.fromkeys(layout.matrices, 0)
        self._means = {tap: self._no_means(tap) for tap in layout.matrices}
        self.rows = {tap: self._no_rows(tap) for tap in layout.matrices}

    def add(self, tap: str, n_samples: int, sums: PairedSums) -> PairedSums:
        """Take what `ops.paired_moments` returned for this rank's batch; it is written over.

        Returns:
            the means and m2 alone
        Raises:
            FailedRankError, LostRankError: as by `Ranks.exchange`
        """
        self._held[tap] = n_samples, sums
        groups = self._layout.groups
        while self._merged < len(groups) and self._held.keys() >= {*groups[self._merged]}:
            self._merge(groups[self._merged])
            self._merged += 1
        self._merged %= len(groups)
        return sums._replace(cross=None, within_a=None, within_b=None)

    def end(self) -> None:
        """Take part in the steps of those ranks that have batches yet.

        Raises:
            FailedRankError, LostRankError: as by `Ranks.exchange`
        """
        first, *others = self._layout.groups
        while self._merge(first):
            for group in others:
                self._merge(group)

    def gathered(self, stats: PairedStats) -> PairedStats:
        """Return statistics of all ranks with their products, on the host; rows are used up.

        Args:
            stats: the same means and m2 on every rank
        Raises:
            FailedRankError, LostRankError: as by `Ranks.exchange`
        """
        whole: dict[str, PairedMoments] = {}
        for tap, moments in stats.items():
            self._ranks.exchange("rows", tap)
            rows = self.rows.pop(tap, {})
            products = {name: self._whole(tap, own) for name, own in rows.items()}
            whole[tap] = replace(moments.to("cpu"), **products)
        return PairedStats(whole, n_images=stats.n_images, fingerprint=stats.fingerprint)

    def _merge(self, group: tuple[str, ...]) -> bool:
        """Merge what all ranks' batches gave at some taps; tell whether there was any."""
        mine = {tap: self._held.pop(tap) for tap in group if tap in self._held}
        everyone = self._ranks.exchange("products", {tap: n for tap, (n, _) in mine.items()})
        n_samples = {tap: sum(counts.get(tap, 0) for counts in everyone) for tap in group}
        if not any(n_samples.values()):
            return False
        means = {tap: self._no_means(tap) for tap in group}
        for tap, (n, sums) in mine.items():
            for mean, own in zip(means[tap], (sums.mean_a, sums.mean_b), strict=True):
                mean.add_(own, alpha=n / n_samples[tap])
        self._ranks.add_up_([mean for pair in means.values() for mean in pair])
        for tap in group:
            self._merge_tap(tap, mine.get(tap), means[tap], n_samples[tap])
        return True

    def _merge_tap(
        self,
        tap: str,
        mine: tuple[int, PairedSums] | None,
        means: tuple[Tensor, Tensor],
        n_samples: int,
    ) -> None:
        before = self._n[tap]
        delta_a, delta_b = (
            merge_means_(total, before, mean, n_samples)
            for total, mean in zip(self._means[tap], means, strict=True)
        )
        own = self._layout.rows(tap, self._ranks.rank)
        for name, rows in self.rows[tap].items():
            matrix = None
            if mine is not None:
                n, sums = mine
                matrix = getattr(sums, name)
                _spread_(matrix, name, sums.mean_a - means[0], sums.mean_b - means[1], n)
            for at, share in self._shared(tap, matrix):
                kept = rows[at : at + len(share)]
                kept.add_(share[: len(kept)])
            _spread_(rows, name, delta_a, delta_b, between(before, n_samples), own)
        self._n[tap] = before + n_samples

    def _shared(self, tap: str, matrix: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """Yield this rank's rows of the ranks' sum, some at a time, each with the first's place.

        A rank with fewer rows than others gets some that it has no place for.
        """
        share, width, size = self._layout.share(tap), self._layout.channels[tap], self._ranks.size
        for at in range(0, share, at_once := self._layout.at_once(tap)):
            count = min(at_once, share - at)
            if matrix is None:
                parts = torch.zeros(size, count, width, dtype=torch.float64, device=self._device)
            else:
                starts = torch.arange(size, device=matrix.device)[:, None] * share + at
                places = starts + torch.arange(count, device=matrix.device)
                chosen = matrix.index_select(0, places.clamp_(max=width - 1).flatten())
                parts = chosen.view(size, count, width)
            yield at, self._ranks.add_up_shares(parts)

    def _whole(self, tap: str, rows: Tensor) -> Tensor:
        """Return a matrix of which every rank has its rows."""
        share, width = self._layout.share(tap), self._layout.channels[tap]
        whole = torch.empty(width, width, dtype=torch.float64)
        for at in range(0, share, at_once := self._layout.at_once(tap)):
            count = min(at_once, share - at)
            sent = rows.new_zeros(count, width)
            own = rows[at : at + count]
            sent[: len(own)] = own
            for rank, theirs in enumerate(self._ranks.from_everyone(sent)):
                place = whole[rank * share + at : rank * share + at + count]
                place.copy_(theirs[: len(place)])
        return whole

    def _no_means(self, tap: str) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(2, self._layout.channels[tap], dtype=torch.float64)
        a, b = zeros.to(self._device).unbind()
        return a, b

    def _no_rows(self, tap: str) -> dict[str, Tensor]:
        own = self._layout.rows(tap, self._ranks.rank)
        shape = own.stop - own.start, self._layout.channels[tap]
        return {
            name: torch.zeros(shape, dtype=torch.float64, device=self._device)
            for name in self._layout.matrices[tap]
        }


def _spread_(
    total: Tensor,
    name: str,
    a: Tensor,
    b: Tensor,
    weight: float,
    rows: slice = slice(None),
) -> None:
    """Add to some rows of a matrix what the difference of two means contributes."""
    if name == "cross":
        total.addr_(a[rows], b, alpha=weight)
    else:
        add_outer_(total, a if name == "within_a" else b, weight, rows)
