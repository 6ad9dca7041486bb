"""Matching by activations and weights together, group after group until nothing changes.

    max_P  sum_i ( mean_t corr_t[i, P(i)] + like[i, P(i)] )
    like[i, j] = mean_W size · <W_a[i], W_b[j]> / (|W_a| |W_b|)

W are the weight matrices and kernels that have the group on one axis; W[i] is what belongs to its
member i, and the other axes of W_b are in the order that the other groups have so far. A copy has
mean like[i, i] = 1, as it has correlation 1. Each group is one linear sum assignment; the groups
take turns, as they share weights. That they settle is not sure (each weighs a shared W by its own
size), but groups of hundreds do within some twenty rounds; `MAX_ROUNDS` is the end of it. All but
the first few gain next to nothing, and cost as much: there wide groups stop.

They start from the best correlations. Channels that one image alone wakes correlate equally well,
and rounding would choose between them, from where turns lead elsewhere: so weights break such ties,
in graph order, as far as the groups on their other axes are ordered already.

Source:
    weights alone: Ainsworth et al. (2023), section 3.2, whose order of groups is random
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from repair_kernels.errors import ArchitectureMismatchError
from repair_kernels.graph.network import State
from repair_kernels.graph.permutation import Permutation, axis_indices
from repair_kernels.graph.symmetry import AxisSlice, PermutationGroup
from repair_kernels.matching.activations import likeness
from repair_kernels.matching.assignment import assign
from repair_kernels.moments import PairedMoments

MAX_ROUNDS = 30
TIE = 1e-3
"""How much of the weights' likeness counts at the start: more than rounding, and little else."""

WIDE = 1024
"""Members from which on"""
SETTLED = 1e-4
"""a group keeps its order unless another one gains so much for each member."""

Groups = Mapping[str, PermutationGroup]


def match_with_weights(
    stats: Mapping[str, PairedMoments],
    groups: Groups,
    state_a: State,
    state_b: State,
    start: Mapping[str, Permutation],
) -> dict[str, Permutation]:
    """Match by activations and weights.

    Args:
        stats, groups: see `match`
        state_a, state_b: the weights of both networks as they are given
        start: what activations say of groups that hold groups or lie in one, which stay so
    """
    _check_weights(groups, state_a, state_b)
    inside = {one for group in groups.values() for held in group.inner for one in held}
    movable = [name for name, group in groups.items() if not group.inner and name not in inside]
    scores = {name: _of_activations(stats, groups[name]) for name in movable}
    neighbours = _neighbours(groups)
    found = {name: order for name, order in start.items() if name not in scores}
    for name, (corr, dead_a, dead_b) in scores.items():
        score = corr + TIE * weight_likeness(groups, name, state_a, state_b, found)
        found[name] = Permutation(assign(score, dead_a, dead_b))
    open_groups = set(movable)
    for _ in range(MAX_ROUNDS):
        for name in movable:
            if name not in open_groups:
                continue
            open_groups.remove(name)
            corr, dead_a, dead_b = scores[name]
            score = corr + weight_likeness(groups, name, state_a, state_b, found)
            order = Permutation(assign(score, dead_a, dead_b))
            if order != found[name] and not _is_settled(score, found[name], order):
                found[name] = order
                open_groups |= neighbours[name] & scores.keys()
        if not open_groups:
            break
    return found


def _is_settled(score: np.ndarray, old: Permutation, new: Permutation) -> bool:
    """Tell whether a wide group gains next to nothing by another order."""
    if len(score) < WIDE:
        return False
    before, after = (
        np.take_along_axis(score, order.indices.numpy()[:, None], axis=1).mean()
        for order in (old, new)
    )
    return bool(after - before < SETTLED)


def weight_likeness(
    groups: Groups,
    name: str,
    state_a: State,
    state_b: State,
    permutations: Mapping[str, Permutation],
) -> np.ndarray:
    """Return how alike a group's members are by their weights, a's in rows and b's in columns.

    Args:
        permutations: of the other groups; the group's own plays no part. Weights that a group
            without one shares say nothing
    """
    group = groups[name]
    others = {key: value for key, value in permutations.items() if key != name}
    unknown = groups.keys() - others.keys() - {name}
    unclear = {place.parameter for other in unknown for place in groups[other].slices}
    weights = [place for place in group.slices if state_a[place.parameter].dim() > 1]
    orders = axis_indices(groups, others, state_b)
    total = np.zeros((group.size, group.size))
    for place in (place for place in weights if place.parameter not in unclear):
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


def _of_activations(
    stats: Mapping[str, PairedMoments], group: PermutationGroup
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the correlations and dead members of a group; none where no tap sees it."""
    if group.taps:
        return likeness(stats, group, group, "correlation")
    alive = np.zeros(group.size, dtype=bool)
    return np.zeros((group.size, group.size)), alive, alive


def _neighbours(groups: Groups) -> dict[str, set[str]]:
    """Return for each group the others that share a weight with it."""
    of_weight: dict[str, set[str]] = {}
    for name, group in groups.items():
        for place in group.slices:
            of_weight.setdefault(place.parameter, set()).add(name)
    return {
        name: set().union(*(of_weight[place.parameter] for place in group.slices)) - {name}
        for name, group in groups.items()
    }


def _check_weights(groups: Groups, state_a: State, state_b: State) -> None:
    for name, group in groups.items():
        for weight in {place.parameter for place in group.slices}:
            shapes = [tuple(s[weight].shape) if weight in s else None for s in (state_a, state_b)]
            if None in shapes or shapes[0] != shapes[1]:
                raise ArchitectureMismatchError(
                    f"both networks must be of the architecture of the groups; {weight!r}, which "
                    f"group {name!r} moves, has the shapes {shapes[0]} in a and {shapes[1]} in b; "
                    "pass the networks that were traced"
                )
