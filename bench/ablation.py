"""Change one choice at a time in how a pair is merged, and write what the midpoint is worth.

    python bench/ablation.py                  all pairs, into bench/results/ablation.json
    python bench/ablation.py --pairs embedded

The pairs of `real_pairs.py`, and one of two authors (dansun_8_1 / akamaster: other training, other
scales). The first training images without augmentation calibrate, all test images measure. The
paper's way is one matching tap per group, b's signs as they are, and "forward" at convolutions and
blocks.
"""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.modules.batchnorm import _BatchNorm  # noqa: E402

import repair_kernels as rk  # noqa: E402
from bench.provenance import provenance  # noqa: E402
from bench.real_pairs import EMBEDDED, PAIRS, Pair  # noqa: E402
from models import datasets  # noqa: E402
from repair_kernels.alignment import AlignedPair, align  # noqa: E402
from repair_kernels.atomic import atomic_path  # noqa: E402
from repair_kernels.balancing import balance_state  # noqa: E402
from repair_kernels.graph import NetworkGraph  # noqa: E402
from repair_kernels.permutation import permute_state, tap_indices  # noqa: E402
from repair_kernels.symmetry import PermutationGroup  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "ablation.json"
TWO_AUTHORS = replace(
    PAIRS[0],
    name="ResNet20 dansun_8_1 / akamaster, CIFAR-10",
    checkpoints=("resnet20_dansun_8_1.npz", "resnet20_akamaster.npz"),
)
ALL = {"cifar10": (PAIRS[0], TWO_AUTHORS), "mnist": (PAIRS[1],), "embedded": EMBEDDED}


@dataclass(frozen=True)
class Way:
    """One way to merge: the default of `repair`, but for what is named."""

    variant: str = "distilled"
    taps: str | tuple[str, ...] | None = None
    matching: str = "all"
    """Whose correlations are averaged: "all" activations and blocks that see a group, those of its
    "stage", the "last" in that stage, or outputs of "layers"."""
    balance: str = "sign"
    share: float = 1.0
    """How much of the calibration set is used."""


PAPER = Way("forward", matching="last", balance="none")
WAYS = {
    "the paper's way": PAPER,
    "… matched at layers' outputs": replace(PAPER, matching="layers"),
    "… matched at activations of the stage": replace(PAPER, matching="stage"),
    "… matched at all activations": replace(PAPER, matching="all"),
    "… and signs turned": Way("forward"),
    "… scales of layers balanced": Way("forward", balance="layer"),
    "… scales of channels balanced": Way("forward", balance="channel"),
    "… convolutions corrected, not blocks": Way("forward", taps="conv"),
    "… sequential": Way("sequential"),
    "… BatchNorms reset": Way("reset_norm"),
    "distilled (default)": Way(),
    "… matched as in the paper": Way(matching="last", balance="none"),
    "… blocks corrected, too": Way(taps=("conv", "block")),
    "… a tenth of the images": Way(share=0.1),
    "forward, a tenth of the images": Way("forward", share=0.1),
}


def groups_for(graph: NetworkGraph, matching: str) -> dict[str, PermutationGroup]:
    """Return the groups, matched at other taps."""
    if matching == "all":
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


def realigned(pair: AlignedPair, way: Way) -> AlignedPair:
    """Return the pair, matched and balanced in another way."""
    graph = pair.graph
    permutations = rk.match(pair.stats, groups_for(graph, way.matching))
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


def measure(pair: Pair, folder: Path, samples: int) -> dict:
    """Merge one pair in every way."""
    models = pair.models(folder)
    calibration = pair.inputs("train", samples)
    evaluate = rk.classifier_metrics(pair.inputs("test"))
    n_images = sum(len(x) for x, _ in calibration)
    aligned: dict[float, AlignedPair] = {}
    rows = {}
    for label, way in WAYS.items():
        if way.variant == "reset_norm" and not has_norms(models[0]):
            continue
        if way.share not in aligned:  # "closed_form" has layers' correlations recorded as well
            few, variants = int(way.share * n_images), ("forward", "closed_form")
            aligned[way.share] = align(*models, calibration, n_samples=few, variants=variants)
        merged = realigned(aligned[way.share], way).merge(0.5, way.variant)
        rows[label] = {**evaluate(merged.model), "explicit": len(merged.explicit)}
        print(f"  {label:40}{rows[label]['accuracy']:8.2%}", flush=True)
    ends = [evaluate(model) for model in models]
    return {"pair": pair.name, "endpoints": ends, "ways": rows, "n_images": n_images}


def has_norms(model: nn.Module) -> bool:
    """Tell whether a network has BatchNorms."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pairs", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--json", type=Path, default=RESULTS, help="file to write")
    parser.add_argument("--samples", type=int, default=5000, help="images to calibrate with")
    options = parser.parse_args()
    found = []
    for kind in options.pairs:
        folders = [folder / "checkpoints" for folder in datasets.search_path()]
        folder = next((f for f in folders if f.is_dir()), None)
        if kind == "embedded":
            folder = ROOT / "models" / "pretrained"
        if folder is None:
            print(
                f"no checkpoints for {kind}: put the data folder at ../shared/data, or name it in "
                "$REPAIR_DATA; or measure `--pairs embedded`",
                file=sys.stderr,
            )
            return 1
        for pair in ALL[kind]:
            print(pair.name, flush=True)
            found.append(measure(pair, folder, options.samples))
            made = provenance("ablation.py", torch.device("cpu"), sys.argv[1:])
            with atomic_path(options.json) as temporary:
                temporary.write_text(json.dumps({**made, "pairs": found}, indent=1) + "\n")
    print(f"written to {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
