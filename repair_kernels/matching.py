"""Matching: which channel of network b plays the part of which channel of network a.

    max_P  sum_i corr(X_i^A, X_{P(i)}^B)

One linear sum assignment per permutation group, on the correlations at the group's matching tap.

Source:
    REPAIR (Jordan et al., 2023), eq. 2; Li et al. (2015).
"""

from collections.abc import Mapping

import numpy as np
from scipy.optimize import linear_sum_assignment

from repair_kernels.errors import ArchitectureMismatchError, ArgumentError
from repair_kernels.moments import PairedMoments
from repair_kernels.permutation import Permutation
from repair_kernels.symmetry import PermutationGroup


def match(
    stats: Mapping[str, PairedMoments], groups: Mapping[str, PermutationGroup]
) -> dict[str, Permutation]:
    """Find for every permutation group the order of b's channels that correlates best with a's.

        max_P  sum_i corr[i, P(i)]

    Args:
        stats: from `compute_stats`, with the correlation matrix at one tap of every group
        groups: `trace(...).groups`
    Returns:
        by group name; live channels are matched with live ones first, dead ones take what is left
        in order
    Raises:
        ArgumentError: a group none of whose taps has a correlation matrix
    Source:
        REPAIR (Jordan et al., 2023), eq. 2
    """
    return {name: _match_group(stats, group) for name, group in groups.items()}


def matched_correlation(
    stats: Mapping[str, PairedMoments],
    groups: Mapping[str, PermutationGroup],
    permutations: Mapping[str, Permutation],
) -> dict[str, float]:
    """Return for each permuted group the mean correlation of its matched channels, in [-1, 1]."""
    found = {}
    for name, permutation in permutations.items():
        corr, _, _ = _group_correlation(stats, groups[name])
        found[name] = float(corr[np.arange(len(corr)), permutation.indices.numpy()].mean())
    return found


def assign(corr: np.ndarray, dead_a: np.ndarray, dead_b: np.ndarray) -> np.ndarray:
    """Solve one linear sum assignment; dead rows and columns are matched last.

    Returns:
        for each row its column: a bijection
    """
    order = np.full(len(corr), -1)
    rows, columns = np.flatnonzero(~dead_a), np.flatnonzero(~dead_b)
    at_row, at_column = linear_sum_assignment(corr[np.ix_(rows, columns)], maximize=True)
    order[rows[at_row]] = columns[at_column]
    order[order < 0] = np.setdiff1d(np.arange(len(corr)), order)
    return order


def _match_group(stats: Mapping[str, PairedMoments], group: PermutationGroup) -> Permutation:
    return Permutation(assign(*_group_correlation(stats, group)))


def _group_correlation(
    stats: Mapping[str, PairedMoments], group: PermutationGroup
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean correlations between a group's members, and the dead ones of a and b."""
    tap = _choose_tap(stats, group)
    moments, positions = stats[tap], group.taps[tap].numpy()
    corr = moments.corr.cpu().numpy()
    if positions.max(initial=-1) >= min(corr.shape):
        raise ArchitectureMismatchError(
            f"`stats` and `groups` must be of one architecture; tap {tap!r} has {corr.shape[0]} "
            f"and {corr.shape[1]} channels "
            f"in `stats`, but group {group.name!r} reaches channel {positions.max()}; trace the "
            "networks of the statistics"
        )
    members = sum(corr[np.ix_(column, column)] for column in positions.T) / positions.shape[1]
    dead_a = moments.dead_a.cpu().numpy()[positions].all(axis=1)
    dead_b = moments.dead_b.cpu().numpy()[positions].all(axis=1)
    return np.asarray(members), np.asarray(dead_a), np.asarray(dead_b)


def _choose_tap(stats: Mapping[str, PairedMoments], group: PermutationGroup) -> str:
    held = [tap for tap in group.taps if tap in stats and stats[tap].cross is not None]
    if not held:
        raise ArgumentError(
            "`stats` must hold the correlation matrix at a tap of every group; group "
            f"{group.name!r} has none of "
            f"{', '.join(group.taps)}; compute the statistics with `cross=[{group.match_tap!r}]` "
            "or leave `cross` out"
        )
    return group.match_tap if group.match_tap in held else held[-1]
