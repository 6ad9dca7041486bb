"""Merge real networks, and write how good the merged ones are.

    python bench/real_pairs.py                  bench/results/real_pairs.json
    python bench/real_pairs.py --embedded       bench/results/embedded_pairs.json

Two CIFAR-10 ResNet20 and two MNIST MLPs that others trained, from the data folder (`$REPAIR_DATA`,
else `../shared/data`): the first 5,000 training images, without augmentation, give the statistics,
the full test set of 10,000 measures. With `--embedded` the pairs that come with the repository, on
its 2,000 training and 2,000 test images. Every row is a merged network at alpha = .5.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.modules.batchnorm import _BatchNorm  # noqa: E402

import repair_kernels as rk  # noqa: E402
from bench.measuring.provenance import provenance  # noqa: E402
from bench.tables.pairs import ROWS  # noqa: E402
from models import datasets  # noqa: E402
from models.mlp import MLP  # noqa: E402
from models.recipes import RECIPES  # noqa: E402
from models.resnet import resnet20  # noqa: E402
from repair_kernels.alignment import align  # noqa: E402
from repair_kernels.atomic import atomic_path  # noqa: E402
from repair_kernels.checkpoints import load_into, load_state_dict  # noqa: E402


@dataclass(frozen=True)
class Pair:
    """Two networks of one architecture, and their data."""

    name: str
    build: Callable[[], nn.Module]
    checkpoints: tuple[str, str]
    dataset: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def models(self, folder: Path) -> tuple[nn.Module, nn.Module]:
        """Return both networks with their weights."""
        models = []
        for file in self.checkpoints:
            model = self.build()
            load_into(model, load_state_dict(folder / file), name=file)
            models.append(model.eval())
        return models[0], models[1]

    def inputs(self, split: str, n: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return normalised batches of 500 images with their labels."""
        images, labels = (
            datasets.load_embedded_fashion(split)
            if self.dataset == "embedded"
            else datasets.load(self.dataset, split, n=n)
        )
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        pieces = zip(images.split(500), labels.split(500), strict=True)
        return [((x.float() / 255 - mean) / std, y) for x, y in pieces]


PAIRS = (
    Pair(
        "ResNet20 dansun_8_1 / 8_2, CIFAR-10",
        resnet20,
        ("resnet20_dansun_8_1.npz", "resnet20_dansun_8_2.npz"),
        "cifar10",
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    ),
    Pair(
        "MLP otfusion_0 / 1, MNIST",
        partial(MLP, widths=(400, 200, 100), bias=False),
        ("mnist_mlp_otfusion_0.npz", "mnist_mlp_otfusion_1.npz"),
        "mnist",
        (0.1307,),
        (0.3081,),
    ),
)
EMBEDDED = tuple(
    Pair(
        f"{label}, FashionMNIST (embedded)",
        RECIPES[name].build,
        (f"{name}_seed0.safetensors", f"{name}_seed1.safetensors"),
        "embedded",
        datasets.IMAGE_SETS["fashion"].mean,
        datasets.IMAGE_SETS["fashion"].std,
    )
    for name, label in (("fashion_resnet20", "ResNet20"), ("fashion_mlp10", "10-layer MLP"))
)


def measure(pair: Pair, folder: Path, samples: int) -> dict:
    """Merge one pair in every way and return what comes out."""
    model_a, model_b = pair.models(folder)
    calibration = pair.inputs("train", samples)
    evaluate = rk.classifier_metrics(pair.inputs("test"))
    started = time.perf_counter()
    variants = list(ROWS)
    if not any(isinstance(module, _BatchNorm) for module in model_a.modules()):
        variants.remove("reset_norm")
    aligned = align(model_a, model_b, calibration, variants=variants)
    seconds = time.perf_counter() - started
    rows: dict[str, dict[str, float]] = {}
    for variant in variants:
        rows[variant] = evaluate(aligned.merge(0.5, variant).model)
        print(f"  {ROWS[variant]:32}{rows[variant]['accuracy']:8.2%}", flush=True)
    return {
        "pair": pair.name,
        "checkpoints": list(pair.checkpoints),
        "endpoints": [evaluate(model_a), evaluate(model_b)],
        "midpoints": rows,
        "permutation_deviation": aligned.deviation,
        "n_images": aligned.stats.n_images,
        "alignment_seconds": round(seconds, 1),
    }


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--embedded", action="store_true", help="the repository's own pairs")
    parser.add_argument("--json", type=Path, help="file to write (default: in bench/results)")
    parser.add_argument("--samples", type=int, default=5000, help="training images for statistics")
    options = parser.parse_args()
    name = "embedded_pairs" if options.embedded else "real_pairs"
    file = options.json or ROOT / "bench" / "results" / f"{name}.json"
    folders = [folder / "checkpoints" for folder in datasets.search_path()]
    folder = next((f for f in folders if f.is_dir()), None)
    if options.embedded:
        folder = ROOT / "models" / "pretrained"
    if folder is None:
        print(
            "no checkpoints found: put the data folder at ../shared/data, or name it in "
            "$REPAIR_DATA; it holds `checkpoints/`, CIFAR-10 and MNIST",
            file=sys.stderr,
        )
        return 1
    results = []
    for pair in EMBEDDED if options.embedded else PAIRS:
        print(pair.name, flush=True)
        results.append(measure(pair, folder, options.samples))
    made = provenance("real_pairs.py", torch.device("cpu"), sys.argv[1:])
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps({**made, "pairs": results}, indent=1) + "\n")
    print(f"written to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
