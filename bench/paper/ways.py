"""The ways to merge a pair: the paper's, and ours.

The paper matches each group at one activation and leaves b's signs as they are. So does every way
here but those that say what else they match at, and "ours", which is the default of `rk.repair`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bench.ways import PAPER, realigned
from repair_kernels.alignment import AlignedPair
from repair_kernels.graph.permutation import Permutation
from repair_kernels.pipeline import repair

ALIGNMENTS = {
    "paper": PAPER,
    "layers": replace(PAPER, matching="layers"),
    "all": replace(PAPER, matching="all"),
}


@dataclass(frozen=True)
class Merge:
    """One way to merge.

    Attributes:
        label: in pictures and tables
        variant: of `AlignedPair.merge`
        alignment: one of `ALIGNMENTS`, "ours", or "none"
        colour: in pictures
        slow: whether each alpha takes a training of its own
    """

    label: str
    variant: str
    alignment: str
    colour: str
    slow: bool = False


WAYS = {
    "plain": Merge("plain average", "plain", "none", "tab:grey"),
    "plain_forward": Merge("REPAIR without alignment", "forward", "none", "tab:purple"),
    "aligned": Merge("aligned, as in the paper", "none", "paper", "tab:red"),
    "closed_form": Merge("REPAIR, closed form (paper)", "closed_form", "paper", "tab:orange"),
    "reset": Merge("BatchNorm reset (paper)", "reset_norm", "paper", "tab:cyan"),
    "forward": Merge("REPAIR, forward (paper)", "forward", "paper", "tab:blue"),
    "forward_layers": Merge("… matched at layers' outputs", "forward", "layers", "tab:brown"),
    "forward_all": Merge("… matched at all activations", "forward", "all", "tab:olive"),
    "ours": Merge("ours: the default of `repair`", "distilled", "ours", "tab:green", slow=True),
}


def matched_by(name: str) -> str:
    """Return what decides the order of b's channels: an activation, or the default of `repair`."""
    return {
        "paper": "correlation at one activation",
        "layers": "correlations at layers' outputs",
        "all": "correlations at all activations",
        "ours": inspect.signature(repair).parameters["match_by"].default,
        "none": "nothing",
    }[WAYS[name].alignment]


def variants_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return the variants for which statistics have to be kept."""
    found = {WAYS[name].variant for name in names} - {"plain", "none"}
    return tuple(sorted(found | {"forward"}))


def aligned_for(pair: AlignedPair, names: Iterable[str]) -> dict[str, AlignedPair]:
    """Return for each way the pair in the order that it asks for."""
    wanted = {WAYS[name].alignment for name in names}
    pairs = {"ours": pair}
    for name in wanted & ALIGNMENTS.keys():
        found = realigned(pair, ALIGNMENTS[name])
        assert found is not None  # none of them matches again
        pairs[name] = found
    if "none" in wanted:
        pairs["none"] = _unaligned(pair)
    return {name: pairs[WAYS[name].alignment] for name in names}


def _unaligned(pair: AlignedPair) -> AlignedPair:
    """Return the pair with b as it was given."""
    groups = pair.graph.groups
    return replace(
        pair,
        state_b=pair.state_plain,
        state_permuted=pair.state_plain,
        aligned_stats=pair.stats,
        permutations={name: Permutation.identity(group.size) for name, group in groups.items()},
        corrections={},
    )
