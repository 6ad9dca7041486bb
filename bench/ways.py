"""Ways to merge a pair that differ from the default of `repair` in one choice or another."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import repair_kernels as rk  # noqa: E402
from repair_kernels.alignment import AlignedPair  # noqa: E402
from repair_kernels.balancing import balance_state, positive_norms  # noqa: E402
from repair_kernels.graph.network import NetworkGraph, state_of  # noqa: E402
from repair_kernels.graph.permutation import permute_state, tap_indices  # noqa: E402
from repair_kernels.graph.symmetry import PermutationGroup  # noqa: E402
from repair_kernels.matching.activations import likeness  # noqa: E402
from repair_kernels.matching.assignment import assign  # noqa: E402
from repair_kernels.matching.matching import match_states  # noqa: E402
from repair_kernels.statistics.collecting import collect  # noqa: E402

Permutations = Mapping[str, rk.Permutation]


@dataclass(frozen=True)
class Way:
    """One way to merge: the default of `repair`, but for what is named."""

    variant: str = "distilled"
    taps: str | tuple[str, ...] | None = None
    matching: str = "weights"
    """Whose correlations are averaged: "all" activations and blocks that see a group, those of its
    "stage", the "last" in that stage, or outputs of "layers"; "covariance": covariances at all of
    them in place of correlations; "weights": correlations at all, and the cosines of weights;
    "again": at all, with those of b and the network that the first matching gave, merged and
    repaired."""
    balance: str = "sign"
    augmented: bool = False
    """Whether the images are mirrored and shifted as in training."""
    redrawn: bool = False
    """Whether it is measured on further draws of the calibration images."""


PAPER = Way("forward", matching="last", balance="none")
FORWARD = Way("forward", matching="all")
WAYS = {
    "aligned only": Way("none", matching="all", redrawn=True),
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
    "sequential": Way("sequential", matching="all"),
    "BatchNorms reset": Way("reset_norm", matching="all"),
    "BatchNorms reset: augmented images": Way("reset_norm", matching="all", augmented=True),
    "distilled (default)": Way(redrawn=True),
    "distilled: matched as in the paper": Way(matching="last", balance="none", redrawn=True),
    "distilled: matched by covariances": Way(matching="covariance", redrawn=True),
    "distilled: matched by correlations alone": Way(matching="all", redrawn=True),
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
    if matching in ("covariance", "weights"):
        a, b = (positive_norms(pair.graph, state) for state in (pair.state_a, pair.state_plain))
        return match_states(pair.stats, pair.graph.groups, matching, (a, b))
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


def match_again(pair: AlignedPair) -> Permutations | None:
    """Match b with the repaired network as well; None where its corrections stay outside."""
    merged = replace(pair, taps="conv", corrections={}).merge(0.5, "forward")
    if merged.explicit:
        return None
    taps, groups = pair.graph.all_match_taps, pair.graph.groups
    state = state_of(merged.model)
    stats = collect(pair.graph, state, pair.state_plain, pair.data, taps=taps, cross=taps)
    found = {}
    for name, group in groups.items():
        both = [likeness(held, group, group, "correlation") for held in (pair.stats, stats)]
        dead = (both[0][n] | both[1][n] for n in (1, 2))
        found[name] = rk.Permutation(assign(both[0][0] + both[1][0], *dead))
    return found
