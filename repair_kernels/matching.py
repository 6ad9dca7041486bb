"""Matching: which channel of network b plays the part of which channel of network a.

    max_P  sum_i mean_t corr_t(X_i^A, X_{P(i)}^B)

One linear sum assignment per permutation group, on the mean of the correlations at the group's
taps t: the outputs of activation functions and residual blocks, those of them whose correlation
matrix is at hand. One tap would do; channels that a residual stream carries through many blocks are
matched better by all of them (docs/repair.md has the figures).
Where members hold groups of their own, as attention heads hold channels, the score of a pair of
members is that of the best assignments inside of the pair, and what is inside follows the pairs
that are chosen: the sum over all channels is maximal over all nested permutations.

Source:
    REPAIR (Jordan et al., 2023), eq. 2; Li et al. (2015). There each group is matched at one tap.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from repair_kernels.errors import ArchitectureMismatchError, ArgumentError
from repair_kernels.graph.permutation import Permutation, carried
from repair_kernels.graph.symmetry import PermutationGroup
from repair_kernels.moments import PairedMoments

MATCH_BY = ("correlation", "covariance")


def match(
    stats: Mapping[str, PairedMoments],
    groups: Mapping[str, PermutationGroup],
    *,
    by: str = "correlation",
) -> dict[str, Permutation]:
    """Find for every permutation group the order of b's channels that correlates best with a's.

        max_P  sum_i mean_t corr_t[i, P(i)]

    By "covariance" the channels that vary most decide most, which makes the squared distance of
    the two networks' activations smallest, tap by tap in units of its mean variance:

        max_P  sum_i mean_t cov_t[i, P(i)] / sqrt(mean_j var_t[a_j] mean_j var_t[b_j])

    Args:
        stats: from `compute_stats`, with the correlation matrix at one tap of every group at least;
            of several, all those of `match_taps` count (`compute_stats(..., cross=["activation",
            "block"])` has them all)
        groups: `trace(...).groups`
        by: "correlation" or "covariance"
    Returns:
        by group name; live channels are matched with live ones first, dead ones take what is left
        in order; a group that no tap sees stays as it is
    Raises:
        ArgumentError: a group none of whose taps has a correlation matrix; `by` something else
    Source:
        REPAIR (Jordan et al., 2023), eq. 2
    """
    check_match_by(by)
    inside = {one for group in groups.values() for held in group.inner for one in held}
    found: dict[str, Permutation] = {}
    for name in groups:
        if name not in inside:
            found |= _best(stats, groups, name, name, by)[1]
    return {name: found[name] for name in groups}


def matched_correlation(
    stats: Mapping[str, PairedMoments],
    groups: Mapping[str, PermutationGroup],
    permutations: Mapping[str, Permutation],
) -> dict[str, float]:
    """Return for each group that was matched the mean correlation of its pairs, in [-1, 1]."""
    found: dict[str, float] = {}
    for place, name in carried(groups, permutations).items():
        group = groups[name]
        if group.inner and name in permutations:
            parts = [found[one] for held in group.inner for one in held if one in found]
            if parts:
                found[name] = float(np.mean(parts))
        elif name in permutations and group.taps:
            corr, _, _ = likeness(stats, groups[place], group, "correlation")
            order = permutations[name].indices.numpy()
            found[name] = float(corr[np.arange(len(corr)), order].mean())
    return {name: found[name] for name in permutations if name in found}


def assign(score: np.ndarray, dead_a: np.ndarray, dead_b: np.ndarray) -> np.ndarray:
    """Solve one linear sum assignment; dead rows and columns are matched last.

    Returns:
        for each row its column: a bijection; what is left is in order where scores do not tell
    """
    order = np.full(len(score), -1)
    rows, columns = np.flatnonzero(~dead_a), np.flatnonzero(~dead_b)
    at_row, at_column = linear_sum_assignment(score[np.ix_(rows, columns)], maximize=True)
    order[rows[at_row]] = columns[at_column]
    rows, columns = np.flatnonzero(order < 0), np.setdiff1d(np.arange(len(score)), order)
    at_row, at_column = linear_sum_assignment(score[np.ix_(rows, columns)], maximize=True)
    order[rows[at_row]] = columns[at_column]
    return order


def check_match_by(by: str, also: Sequence[str] = ()) -> None:
    """Check what channels are matched by.

    Raises:
        ArgumentError: when it is none of `MATCH_BY`
    """
    known = (*MATCH_BY, *also)
    if by not in known:
        raise ArgumentError(
            f"channels are matched by {' or '.join(map(repr, known))}; got {by!r}; name one of them"
        )


def _best(
    stats: Mapping[str, PairedMoments],
    groups: Mapping[str, PermutationGroup],
    a: str,
    b: str,
    by: str,
) -> tuple[float, dict[str, Permutation]]:
    """Return the best sum of likenesses between group `a` of network a and `b` of b.

    The two are one group, or stand in one place of two members of a group. With the sum come the
    permutations of `b`, and of those inside of it, that attain it.
    """
    if not groups[a].taps:
        return 0.0, {b: Permutation.identity(groups[b].size)}
    if not groups[a].inner:
        score, dead_a, dead_b = likeness(stats, groups[a], groups[b], by)
        order = assign(score, dead_a, dead_b)
        return float(score[np.arange(len(score)), order].sum()), {b: Permutation(order)}
    pairs = [
        [
            [
                _best(stats, groups, one, other, by)
                for one, other in zip(held_a, held_b, strict=True)
            ]
            for held_b in groups[b].inner
        ]
        for held_a in groups[a].inner
    ]
    scores = np.array([[sum(score for score, _ in pair) for pair in row] for row in pairs])
    rows, order = linear_sum_assignment(scores, maximize=True)
    found = {b: Permutation(order)}
    for row, column in zip(rows, order, strict=True):
        for _, inside in pairs[row][column]:
            found |= inside
    return float(scores[rows, order].sum()), found


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
