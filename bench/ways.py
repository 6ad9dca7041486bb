"""Ways to merge a pair that differ from the default of `repair` in one choice or another."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from scipy.optimize import linear_sum_assignment  # noqa: E402

import repair_kernels as rk  # noqa: E402
from repair_kernels.alignment import AlignedPair  # noqa: E402
from repair_kernels.balancing import balance_state  # noqa: E402
from repair_kernels.graph import NetworkGraph, state_of  # noqa: E402
from repair_kernels.permutation import permute_state, tap_indices  # noqa: E402
from repair_kernels.statistics import collect  # noqa: E402
from repair_kernels.symmetry import PermutationGroup  # noqa: E402

Permutations = Mapping[str, rk.Permutation]
MAX_ROUNDS = 30


@dataclass(frozen=True)
class Way:
    """One way to merge: the default of `repair`, but for what is named."""

    variant: str = "distilled"
    taps: str | tuple[str, ...] | None = None
    matching: str = "all"
    """Whose correlations are averaged: "all" activations and blocks that see a group, those of its
    "stage", the "last" in that stage, or outputs of "layers"; "covariance": covariances at all of
    them in place of correlations; "weights": the correlations and the cosines of weights; "again":
    with those of b and the network that the first matching gave, merged and repaired."""
    balance: str = "sign"
    augmented: bool = False
    """Whether the images are mirrored and shifted as in training."""
    redrawn: bool = False
    """Whether it is measured on further draws of the calibration images."""


PAPER = Way("forward", matching="last", balance="none")
FORWARD = Way("forward")
WAYS = {
    "aligned only": Way("none", redrawn=True),
    "the paper's way": replace(PAPER, redrawn=True),
    "… matched at layers' outputs": replace(PAPER, matching="layers"),
    "… matched at activations of the stage": replace(PAPER, matching="stage"),
    "… matched at all activations": replace(PAPER, matching="all"),
    "… and signs turned (forward)": replace(FORWARD, redrawn=True),
    "forward: matched by covariances": replace(FORWARD, matching="covariance", redrawn=True),
    "forward: matched by weights as well, until stable": replace(
        FORWARD, matching="weights", redrawn=True
    ),
    "forward: matched again after the first repair": replace(FORWARD, matching="again"),
    "forward: scales of layers balanced": replace(FORWARD, balance="layer"),
    "forward: scales of channels balanced": replace(FORWARD, balance="channel"),
    "forward: layers corrected, not blocks": replace(FORWARD, taps="conv"),
    "forward: augmented images": replace(FORWARD, augmented=True),
    "sequential": Way("sequential"),
    "BatchNorms reset": Way("reset_norm"),
    "BatchNorms reset: augmented images": Way("reset_norm", augmented=True),
    "distilled (default)": Way(redrawn=True),
    "distilled: matched as in the paper": Way(matching="last", balance="none", redrawn=True),
    "distilled: matched by weights as well": Way(matching="weights", redrawn=True),
    "distilled: blocks corrected, too": Way(taps=("conv", "block")),
    "distilled: augmented images": Way(augmented=True),
}


def groups_for(graph: NetworkGraph, matching: str) -> dict[str, PermutationGroup]:
    """Return the groups, matched at other taps."""
    if matching not in ("last", "stage", "layers"):
        return graph.groups

    def taps(group: PermutationGroup) -> tuple[str, ...]:
        own = graph.tap(group.match_tap).channels
        found = {
            "last": (),
            "stage": [tap for tap in group.match_taps if graph.tap(tap).channels == own],
            "layers": [tap for tap in group.taps if graph.tap(tap).kind == "layer"],
        }
        return tuple(found[matching]) or (group.match_tap,)

    return {name: replace(group, match_taps=taps(group)) for name, group in graph.groups.items()}


def permutations_for(pair: AlignedPair, matching: str) -> Permutations | None:
    """Match in another way; None where a way has no meaning."""
    if matching == "covariance":
        return _assigned(pair, {name: covariance(pair, name) for name in pair.graph.groups})
    if matching == "weights":
        return match_weights_too(pair)
    if matching == "again":
        return match_again(pair)
    return rk.match(pair.stats, groups_for(pair.graph, matching))


def realigned(pair: AlignedPair, way: Way) -> AlignedPair | None:
    """Return the pair, matched and balanced in another way; None where a way has no meaning."""
    graph, permutations = pair.graph, permutations_for(pair, way.matching)
    if permutations is None:
        return None
    permuted = permute_state(pair.state_plain, graph.groups, permutations)
    balanced = balance_state(graph, pair.state_a, permuted, mode=way.balance)
    widths = {tap: graph.tap(tap).channels for tap in pair.stats}
    aligned = pair.stats.permuted_b(tap_indices(graph.groups, permutations, widths))
    scales = {tap: scale for tap, scale in balanced.scales.items() if tap in aligned}
    return replace(
        pair,
        state_b=balanced.state,
        state_permuted=permuted,
        aligned_stats=aligned.scaled_b(scales),
        permutations=permutations,
        taps=way.taps,
        corrections={},
    )


def correlation(pair: AlignedPair, name: str) -> np.ndarray:
    """Return the mean correlation of a group's members, a's in rows and b's in columns."""
    return _mean_at_taps(pair, name, "corr")


def covariance(pair: AlignedPair, name: str) -> np.ndarray:
    """Return the mean covariance, that of each tap in units of its mean variance."""
    return _mean_at_taps(pair, name, "cov")


def _mean_at_taps(pair: AlignedPair, name: str, products: str) -> np.ndarray:
    group = pair.graph.groups[name]
    found = []
    for tap in group.match_taps or (group.match_tap,):
        moments, positions = pair.stats[tap], group.taps[tap].numpy()
        matrix = getattr(moments, products).numpy()
        if products == "cov":
            matrix = matrix / float((moments.var_a.mean() * moments.var_b.mean()).sqrt())
        found += [matrix[np.ix_(at, at)] for at in positions.T]
    return np.mean(found, axis=0)


def weight_similarity(pair: AlignedPair, name: str, permutations: Permutations) -> np.ndarray:
    """Return how alike the weights of a group's members are, in units of the mean squared norm.

    Mean over the weight matrices W that the group has an axis of, with the other axes of b's as
    permuted so far: size · <W_a[i], W_b[j]> / (|W_a| |W_b|).
    """
    group = pair.graph.groups[name]
    others = {key: value for key, value in permutations.items() if key != name}
    state_b = permute_state(pair.state_plain, pair.graph.groups, others)
    found = [np.zeros((group.size, group.size))]
    for place in group.slices:
        if pair.state_a[place.parameter].dim() > 1:
            a, b = (
                state[place.parameter].movedim(place.axis, 0)[place.positions].double()
                for state in (pair.state_a, state_b)
            )
            a, b = (w.flatten(1).numpy() / float(w.norm()) for w in (a, b))
            found.append(group.size * (a @ b.T))
    return np.sum(found, axis=0) / max(1, len(found) - 1)


def match_weights_too(pair: AlignedPair) -> Permutations:
    """Match by correlations and weights together, group after group until nothing changes."""
    correlations = {name: correlation(pair, name) for name in pair.graph.groups}
    permutations = dict(pair.permutations)
    for _ in range(MAX_ROUNDS):
        before = dict(permutations)
        for name, corr in correlations.items():
            score = corr + weight_similarity(pair, name, permutations)
            permutations |= _assigned(pair, {name: score})
        if permutations == before:
            break
    return permutations


def match_again(pair: AlignedPair) -> Permutations | None:
    """Match b with the repaired network as well; None where its corrections stay outside."""
    merged = replace(pair, taps="conv", corrections={}).merge(0.5, "forward")
    if merged.explicit:
        return None
    taps = pair.graph.all_match_taps
    state = state_of(merged.model)
    stats = collect(pair.graph, state, pair.state_plain, pair.data, taps=taps, cross=taps)
    second = replace(pair, stats=stats)
    names = pair.graph.groups
    return _assigned(pair, {n: correlation(pair, n) + correlation(second, n) for n in names})


def _assigned(pair: AlignedPair, scores: Mapping[str, np.ndarray]) -> dict[str, rk.Permutation]:
    return {
        name: rk.Permutation(linear_sum_assignment(score, maximize=True)[1])
        for name, score in scores.items()
    }
