"""Moments of several processes merged into those of all their samples, in float64.

    mean = Σ_r mean_r n_r / n        m2 = Σ_r m2_r + n_r (mean_r - mean)²

and all sums of products like m2 (Chan et al., for any number of parts). Moments about the mean of
all samples add up, so there are two sums: one of all means and one of everything else. Shards may
be uneven, and a rank may have seen nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from repair_kernels.errors import ArchitectureMismatchError, ArgumentError
from repair_kernels.moments import ChannelMoments, PairedMoments
from repair_kernels.moments.pairs import add_spread_
from repair_kernels.ranks import Ranks
from repair_kernels.statistics.fingerprint import combined
from repair_kernels.statistics.paired_stats import PairedStats

Key = TypeVar("Key", bound=Hashable)
MEANS = ("mean_a", "mean_b")


class _Layout(NamedTuple):
    """What every rank must know of a tap of another one: its shape, and how much it weighs."""

    n_samples: int
    c_a: int
    c_b: int
    products: str

    @property
    def shape(self) -> tuple[int, int, str]:
        return self[1:]


def all_reduce(
    stats: PairedStats, group: dist.ProcessGroup | None = None, *, overwrite: bool = False
) -> PairedStats:
    """Merge the statistics of all processes of a torch.distributed group, the same bits on each.

    Every rank calls it once, with what it has seen; a rank that saw nothing gives
    `PairedStats({}, n_images=0)`. The result is where this rank's statistics were.

    Args:
        group: default: all processes
        overwrite: whether the totals of `stats` may be used up: half of the memory
    Raises:
        ArgumentError: there is no such group, or this process is not in it
        ArchitectureMismatchError: ranks differ in taps or channels; raised on every rank
        StatisticsMismatchError: fingerprints tell of other networks or data, or of images that two
            ranks have seen; raised on every rank
        FailedRankError, LostRankError: another rank failed, or is gone
    """
    if group is None and dist.is_available() and dist.is_initialized():
        group = dist.group.WORLD
    if group is None:
        raise ArgumentError(
            "`all_reduce` needs a torch.distributed process group, and none was initialised. "
            "Call `torch.distributed.init_process_group` first, and start with torchrun."
        )
    ranks = Ranks(group)
    with ranks.together("all_reduce"):
        return merged_stats(stats, ranks, overwrite=overwrite)


def merged_stats(stats: PairedStats, ranks: Ranks, *, overwrite: bool = False) -> PairedStats:
    """Return the statistics of all ranks' images; see `all_reduce`."""
    said = (stats.n_images, len(stats) > 0, stats.fingerprint)
    everyone = ranks.exchange("images", said)
    # A rank without data may not know the networks either.
    fingerprint = combined([held for _, has_taps, held in everyone if has_taps or held])
    n_images = sum(count for count, _, _ in everyone)
    pairs = merged_pairs(stats, ranks, overwrite=overwrite)
    return PairedStats(pairs, n_images=n_images, fingerprint=fingerprint)


def merged_channels(
    moments: Mapping[Key, ChannelMoments], ranks: Ranks
) -> dict[Key, ChannelMoments]:
    """Return the moments of all ranks' samples of one network; a rank without any gives {}."""
    nothing = torch.empty(0, dtype=torch.float64)
    pairs = {
        key: PairedMoments(m.n_samples, m.mean, m.m2, nothing.to(m.mean), nothing.to(m.mean))
        for key, m in moments.items()
    }
    return {key: pair.a for key, pair in merged_pairs(pairs, ranks).items()}


def merged_pairs(
    moments: Mapping[Key, PairedMoments], ranks: Ranks, *, overwrite: bool = False
) -> dict[Key, PairedMoments]:
    """Return the moments of all ranks' samples; a rank without any gives {}."""
    if ranks.size == 1:
        return dict(moments)
    mine = {
        key: _Layout(m.n_samples, m.mean_a.numel(), m.mean_b.numel(), m.products)
        for key, m in moments.items()
    }
    everyone = ranks.exchange("moments", mine)
    layouts = [layout for layout in everyone if layout]
    if not layouts:
        return {}
    _check_same(layouts)
    device = ranks.device or next((m.mean_a.device for m in moments.values()), None)
    own = {
        key: _empty(layout, device)
        if key not in moments
        else (moments[key] if overwrite else moments[key].clone())
        for key, layout in layouts[0].items()
    }
    counts = {key: sum(one[key].n_samples for one in layouts) for key in own}
    means = {key: _weighted_means(m, counts[key]) for key, m in own.items()}
    ranks.add_up_([mean for pair in means.values() for mean in pair])
    for key, m in own.items():
        mean_a, mean_b = means[key]
        add_spread_(m, m.mean_a - mean_a, m.mean_b - mean_b, m.n_samples)
    sums = {
        key: {name: t.contiguous() for name, t in m.tensors.items() if name not in MEANS}
        for key, m in own.items()
    }
    ranks.add_up_([total for held in sums.values() for total in held.values()])
    return {
        key: PairedMoments(counts[key], mean_a=mean_a, mean_b=mean_b, **sums[key])
        for key, (mean_a, mean_b) in means.items()
    }


def _weighted_means(moments: PairedMoments, n_samples: int) -> tuple[Tensor, Tensor]:
    """Return what the means of this rank's samples are of those of all."""
    share = moments.n_samples / max(1, n_samples)
    return moments.mean_a * share, moments.mean_b * share


def _empty(layout: _Layout, device: torch.device | None) -> PairedMoments:
    cross = {"none": False, "diagonal": "diagonal"}.get(layout.products, True)
    joint = layout.products == "joint"
    return PairedMoments.empty(
        layout.c_a, layout.c_b, cross=cross, joint=joint, device=device or "cpu"
    )


def _check_same(layouts: Sequence[Mapping[Key, _Layout]]) -> None:
    for tap in {tap: None for layout in layouts for tap in layout}:
        found = {layout[tap].shape if tap in layout else None for layout in layouts}
        if len(found) > 1:
            raise ArchitectureMismatchError(
                f"all ranks must record the same taps with the same channels and products, but at "
                f"tap {tap!r} they have {sorted(map(str, found))} (c_a, c_b, products). "
                "Start every rank with the same networks and options."
            )
