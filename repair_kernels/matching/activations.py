"""How alike two channels are by their activations.

    by "correlation"   mean_t corr_t[i, j]
    by "covariance"    mean_t cov_t[i, j] / sqrt(mean_k var_t[a_k] mean_k var_t[b_k])

at a group's taps t: the outputs of activation functions and residual blocks, those of them whose
correlation matrix is at hand. One tap would do; channels that a residual stream carries through
many blocks are matched better by all of them (docs/repair.md has the figures).
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from repair_kernels.errors import ArchitectureMismatchError, ArgumentError
from repair_kernels.graph.symmetry import PermutationGroup
from repair_kernels.moments import PairedMoments


def likeness(
    stats: Mapping[str, PairedMoments], group: PermutationGroup, other: PermutationGroup, by: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how alike a group's members in a are to another's in b, and which of them are dead.

    Dead members are those that are dead at all taps.
    """
    taps = _choose_taps(stats, group)
    alike = np.zeros((group.size, other.size))
    dead_a, dead_b = np.ones(group.size, dtype=bool), np.ones(other.size, dtype=bool)
    for tap in taps:
        moments, positions, others = stats[tap], group.taps[tap].numpy(), other.taps[tap].numpy()
        at_tap = _matrix(moments, by).cpu().numpy()
        if max(positions.max(initial=-1), others.max(initial=-1)) >= min(at_tap.shape):
            raise ArchitectureMismatchError(
                f"`stats` and `groups` must be of one architecture; tap {tap!r} has "
                f"{at_tap.shape[0]} and {at_tap.shape[1]} channels in `stats`, but group "
                f"{group.name!r} reaches channel {positions.max()}; trace the networks of the "
                "statistics"
            )
        for of_a, of_b in zip(positions.T, others.T, strict=True):
            alike += at_tap[np.ix_(of_a, of_b)] / (positions.shape[1] * len(taps))
        dead_a &= moments.dead_a.cpu().numpy()[positions].all(axis=1)
        dead_b &= moments.dead_b.cpu().numpy()[others].all(axis=1)
    return alike, dead_a, dead_b


def _matrix(moments: PairedMoments, by: str) -> Tensor:
    if by == "correlation":
        return moments.corr
    unit = (moments.var_a.mean() * moments.var_b.mean()).sqrt()
    return moments.cov / unit if unit > 0 else moments.corr


def _choose_taps(stats: Mapping[str, PairedMoments], group: PermutationGroup) -> list[str]:
    """Return the matching taps that are at hand, or else the last tap that is."""
    held = [tap for tap in group.taps if tap in stats and stats[tap].cross is not None]
    if not held:
        raise ArgumentError(
            "`stats` must hold the correlation matrix at a tap of every group; group "
            f"{group.name!r} has none of "
            f"{', '.join(group.taps)}; compute the statistics with `cross=[{group.match_tap!r}]` "
            "or leave `cross` out"
        )
    wanted = group.match_taps or (group.match_tap,)
    return [tap for tap in held if tap in wanted] or held[-1:]
