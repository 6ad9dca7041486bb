"""Matching: which channel of network b plays the part of which channel of network a.

    max_P  sum_i score[i, P(i)]

One linear sum assignment per permutation group. The score of two channels is how alike their
activations are (`activations.py`), and, if asked for, their weights (`weights.py`).
Where members hold groups of their own, as attention heads hold channels, the score of a pair of
members is that of the best assignments inside of the pair, and what is inside follows the pairs
that are chosen: the sum over all channels is maximal over all nested permutations.

Source:
    REPAIR (Jordan et al., 2023), eq. 2; Li et al. (2015). There each group is matched at one tap.
"""

from collections.abc import Mapping

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import nn

from repair_kernels.errors import ArgumentError
from repair_kernels.graph.network import State, state_of
from repair_kernels.graph.permutation import Permutation, carried
from repair_kernels.graph.symmetry import PermutationGroup
from repair_kernels.matching.activations import likeness
from repair_kernels.matching.assignment import assign
from repair_kernels.matching.weights import match_with_weights
from repair_kernels.moments import PairedMoments

MATCH_BY = ("weights", "correlation", "covariance")


def match(
    stats: Mapping[str, PairedMoments],
    groups: Mapping[str, PermutationGroup],
    *,
    by: str = "correlation",
    networks: tuple[nn.Module, nn.Module] | None = None,
) -> dict[str, Permutation]:
    """Find for every permutation group the order of b's channels that is most like a's.

        max_P  sum_i mean_t corr_t[i, P(i)]

    By "covariance" the channels that vary most decide most, which makes the squared distance of
    the two networks' activations smallest, tap by tap in units of its mean variance:

        max_P  sum_i mean_t cov_t[i, P(i)] / sqrt(mean_j var_t[a_j] mean_j var_t[b_j])

    By "weights" the cosines of the channels' weights are added to the correlations, in the order
    that the other groups have; groups take turns until nothing changes. This is what `repair` does.

    Args:
        stats: from `compute_stats`, with the correlation matrix at one tap of every group at least;
            of several, all those of `match_taps` count (`compute_stats(..., cross=["activation",
            "block"])` has them all)
        groups: `trace(...).groups`
        by: "correlation", "covariance", or "weights" beside correlations
        networks: a and b, whose weights are compared; only for "weights". A channel whose BatchNorm
            weight is negative compares badly with a positive one; `repair` turns signs first
    Returns:
        by group name; live channels are matched with live ones first, dead ones take what is left
        in order; a group that no tap sees stays as it is, unless weights tell
    Raises:
        ArgumentError: a group none of whose taps has a correlation matrix; `by` something else;
            "weights" without `networks`
        ArchitectureMismatchError: `stats` or `networks` are not of the architecture of `groups`
    Source:
        REPAIR (Jordan et al., 2023), eq. 2; weights: Ainsworth et al. (2023), section 3.2
    """
    states = None if networks is None else (state_of(networks[0]), state_of(networks[1]))
    return match_states(stats, groups, by, states)


def match_states(
    stats: Mapping[str, PairedMoments],
    groups: Mapping[str, PermutationGroup],
    by: str,
    states: tuple[State, State] | None,
) -> dict[str, Permutation]:
    """Match by what is named; see `match`. `states` are the weights of a and of b, as given."""
    check_match_by(by)
    activations = "correlation" if by == "weights" else by
    inside = {one for group in groups.values() for held in group.inner for one in held}
    found: dict[str, Permutation] = {}
    for name in groups:
        if name not in inside:
            found |= _best(stats, groups, name, name, activations)[1]
    found = {name: found[name] for name in groups}
    if by != "weights":
        return found
    if states is None:
        raise ArgumentError(
            "matching by 'weights' needs the two networks, and got statistics alone; pass "
            "`networks=(model_a, model_b)`, or match by 'correlation'"
        )
    return match_with_weights(stats, groups, *states, found)


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


def check_match_by(by: str) -> None:
    """Check what channels are matched by.

    Raises:
        ArgumentError: when it is none of `MATCH_BY`
    """
    if by not in MATCH_BY:
        raise ArgumentError(
            f"channels are matched by {' or '.join(map(repr, MATCH_BY))}; got {by!r}; name one of "
            "them"
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
