"""Matching by activations and weights together, group after group until nothing changes.

    max_P  sum_i ( mean_t corr_t[i, P(i)] + like[i, P(i)] )
    like[i, j] = mean_W size · <W_a[i], W_b[j]> / (|W_a| |W_b|)

W are the weight matrices and kernels that have the group on one axis; W[i] is what belongs to its
member i, and the other axes of W_b are in the order that the other groups have so far. A copy has
mean like[i, i] = 1, as it has correlation 1. Each group is one linear sum assignment; the groups
take turns, as they share weights. That they settle is not sure (each weighs a shared W by its own
size), but they do within a few rounds; `MAX_ROUNDS` is the end of it.

Source:
    weights alone: Ainsworth et al. (2023), section 3.2, whose order of groups is random
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from repair_kernels.graph.network import State
from repair_kernels.graph.permutation import Permutation, axis_indices
from repair_kernels.graph.symmetry import AxisSlice, PermutationGroup
from repair_kernels.matching import assign, likeness
from repair_kernels.moments import PairedMoments

MAX_ROUNDS = 30

Groups = Mapping[str, PermutationGroup]


def match_with_weights(
    stats: Mapping[str, PairedMoments],
    groups: Groups,
    state_a: State,
    state_b: State,
    start: Mapping[str, Permutation],
) -> dict[str, Permutation]:
    """Improve a matching of activations by the weights.

    Args:
        stats, groups: see `match`
        state_a, state_b: the weights of both networks as they are given
        start: what `match` found. Groups that hold groups or lie in one stay so
    """
    inside = {one for group in groups.values() for held in group.inner for one in held}
    scores = {
        name: likeness(stats, group, group, "correlation")
        for name, group in groups.items()
        if group.taps and not group.inner and name not in inside
    }
    found = dict(start)
    for _ in range(MAX_ROUNDS):
        before = dict(found)
        for name, (corr, dead_a, dead_b) in scores.items():
            score = corr + weight_likeness(groups, name, state_a, state_b, found)
            found[name] = Permutation(assign(score, dead_a, dead_b))
        if found == before:
            break
    return found


def weight_likeness(
    groups: Groups,
    name: str,
    state_a: State,
    state_b: State,
    permutations: Mapping[str, Permutation],
) -> np.ndarray:
    """Return how alike a group's members are by their weights, a's in rows and b's in columns.

    Args:
        permutations: of the other groups; the group's own plays no part
    """
    group = groups[name]
    others = {key: value for key, value in permutations.items() if key != name}
    weights = [place for place in group.slices if state_a[place.parameter].dim() > 1]
    orders = axis_indices(groups, others, state_b)
    total = np.zeros((group.size, group.size))
    for place in weights:
        weight_b = state_b[place.parameter]
        for axis in range(weight_b.dim()):
            if (place.parameter, axis) in orders:
                order = orders[place.parameter, axis].to(weight_b.device)
                weight_b = weight_b.index_select(axis, order)
        a, b = _rows(state_a[place.parameter], place), _rows(weight_b, place)
        norms = float(a.norm() * b.norm())
        if norms > 0:
            total += group.size / (norms * len(weights)) * (a @ b.T).cpu().numpy()
    return total


def _rows(weight: Tensor, place: AxisSlice) -> Tensor:
    """Return what belongs to each member of a group, flat and in float64."""
    moved = weight.movedim(place.axis, 0)
    return moved[place.positions.to(moved.device)].double().flatten(1)
