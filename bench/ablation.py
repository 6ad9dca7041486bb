"""Change one choice at a time in how a pair is merged, and write what the midpoint is worth.

    python bench/ablation.py                  all pairs, into bench/results/ablation.json
    python bench/ablation.py --pairs embedded
    python bench/ablation.py --ways "sequential"     one way, into a file that has the others

The pairs of `real_pairs.py`, and one of two authors (dansun_8_1 / akamaster: other training, other
scales). The first training images without augmentation calibrate, all test images measure; the
ways that matter most are measured on further random draws of the training images, too. The paper's
way is one matching tap per group, b's signs as they are, and "forward" at convolutions and blocks.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.modules.batchnorm import _BatchNorm  # noqa: E402

import repair_kernels as rk  # noqa: E402
from bench.measuring.provenance import provenance  # noqa: E402
from bench.real_pairs import EMBEDDED, PAIRS, Pair  # noqa: E402
from bench.ways import WAYS, Way, realigned  # noqa: E402
from models import datasets  # noqa: E402
from models.augmentation import flip, translate  # noqa: E402
from repair_kernels.alignment import AlignedPair, align  # noqa: E402
from repair_kernels.atomic import atomic_path  # noqa: E402
from repair_kernels.errors import CalibrationWarning  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "ablation.json"
TWO_AUTHORS = replace(
    PAIRS[0],
    name="ResNet20 dansun_8_1 / akamaster, CIFAR-10",
    checkpoints=("resnet20_dansun_8_1.npz", "resnet20_akamaster.npz"),
)
ALL = {
    "mnist": (PAIRS[1],),
    "cifar10": (PAIRS[0],),
    "two_authors": (TWO_AUTHORS,),
    "embedded": EMBEDDED,
}
COUNTS = (50, 150, 500, 1500, 5000, 15000, 50000)
COUNTED = ("forward", "distilled")
LARGEST_SHARE = 0.8
"""Of the training images, so that draws differ."""
Images = tuple[Tensor, Tensor]


def draws(pool: Images, samples: int, number: int) -> Iterator[Images]:
    """Yield sets of calibration images: the first ones of the pool, then random ones."""
    n = min(samples, int(LARGEST_SHARE * len(pool[0])))
    yield pool[0][:n], pool[1][:n]
    for seed in range(1, number):
        order = torch.randperm(len(pool[0]), generator=torch.Generator().manual_seed(seed))
        yield pool[0][order[:n]], pool[1][order[:n]]


def augment(pair: Pair, images: Tensor) -> Tensor:
    """Mirror and shift normalised images as the ResNets' training does, each in one way."""
    generator = torch.Generator().manual_seed(0)
    black = -torch.tensor(pair.mean) / torch.tensor(pair.std)
    return translate(flip(images, generator), 4, generator, black)


def in_batches(images: Images) -> list[Images]:
    """Return batches of 500."""
    return list(zip(images[0].split(500), images[1].split(500), strict=True))


def measure(pair: Pair, folder: Path, samples: int, redraws: int, ways: Mapping[str, Way]) -> dict:
    """Merge one pair in some ways."""
    models, pool = pair.models(folder), pooled(pair)
    evaluate = rk.classifier_metrics(pair.inputs("test"))
    rows: dict[str, dict[str, list[float]]] = {}
    n_images = 0
    for number, images in enumerate(draws(pool, samples, redraws)):
        n_images = len(images[0])
        aligned: dict[bool, AlignedPair] = {}
        for label, way in ways.items():
            is_left_out = number > 0 and not way.redrawn
            if is_left_out or not (has_norms(models[0]) or needs_no_norms(label)):
                continue
            if way.augmented not in aligned:
                inputs = augment(pair, images[0]) if way.augmented else images[0]
                data = in_batches((inputs, images[1]))
                # With "closed_form" the correlations of layers are recorded as well.
                aligned[way.augmented] = align(*models, data, variants=("forward", "closed_form"))
            this_way = realigned(aligned[way.augmented], way)
            if this_way is None:
                continue
            found = evaluate(this_way.merge(0.5, way.variant).model)
            row = rows.setdefault(label, {"accuracy": [], "loss": []})
            for name, values in row.items():
                values.append(found[name])
            print(f"  {number} {label:50}{found['accuracy']:8.2%}", flush=True)
    ends = [evaluate(model) for model in models]
    return {"pair": pair.name, "endpoints": ends, "ways": rows, "n_images": n_images}


def measure_counts(pair: Pair, folder: Path, most: int) -> dict[str, dict[int, dict[str, float]]]:
    """Merge one pair with few and with many calibration images."""
    models, pool = pair.models(folder), pooled(pair)
    evaluate = rk.classifier_metrics(pair.inputs("test"))
    rows: dict[str, dict[int, dict[str, float]]] = {variant: {} for variant in COUNTED}
    for n in sorted({count for count in COUNTS if count <= min(most, len(pool[0]))}):
        data = in_batches((pool[0][:n], pool[1][:n]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)  # fewer images than channels
            aligned = align(*models, data, variants=COUNTED)
        for variant in COUNTED:
            rows[variant][n] = evaluate(aligned.merge(0.5, variant).model)
            print(f"  {n:6} {variant:12}{rows[variant][n]['accuracy']:8.2%}", flush=True)
    return rows


def pooled(pair: Pair) -> Images:
    """Return all training images, normalised, and their labels."""
    batches = pair.inputs("train")
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def has_norms(model: nn.Module) -> bool:
    """Tell whether a network has BatchNorms."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def needs_no_norms(label: str) -> bool:
    """Tell whether a way makes sense for the MLPs, which were not trained on changed images."""
    return WAYS[label].variant != "reset_norm" and not WAYS[label].augmented


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pairs", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--json", type=Path, default=RESULTS, help="file to write")
    parser.add_argument("--samples", type=int, default=5000, help="images to calibrate with")
    parser.add_argument("--draws", type=int, default=3, help="sets of them (default: 3)")
    parser.add_argument("--most", type=int, default=5000, help="most images of the counts")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="(default: all)", metavar="WAY")
    parser.add_argument("--counts", action="store_true", help="with --ways: the counts as well")
    options = parser.parse_args()
    ways = WAYS if options.ways is None else {label: WAYS[label] for label in options.ways}
    kept = json.loads(options.json.read_text()) if options.ways else {"pairs": []}
    found = kept["pairs"]
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
            made = provenance("ablation.py", torch.device("cpu"), sys.argv[1:])
            rows = measure(pair, folder, options.samples, options.draws, ways)
            if options.ways is None:
                found.append({**rows, "counts": measure_counts(pair, folder, options.most)})
                made["pairs"] = found
            else:
                [others] = [held for held in found if held["pair"] == pair.name]
                others["ways"] |= rows["ways"]
                if options.counts:
                    others["counts"] = measure_counts(pair, folder, options.most)
                added = [*kept.get("added", []), {**made, "ways": options.ways}]
                made = {**kept, "added": added, "pairs": found}
            with atomic_path(options.json) as temporary:
                temporary.write_text(json.dumps(made, indent=1) + "\n")
    print(f"written to {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
