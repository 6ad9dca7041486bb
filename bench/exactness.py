"""How exactly corrected networks meet their goals, on the embedded networks and on hard cases.

    python bench/exactness.py [--json bench/results/exactness.json]

Each pair is merged at alpha = .5 by "sequential" and by "forward"; `RepairReport.worst` has the
largest |mean error| / goal std and |std / goal - 1| over all live channels of all corrected taps,
of the folded network in evaluation mode, on the calibration images. The hard cases change both
embedded MLPs, or the ResNets, in one thing. What batches change is measured between the weights
that come of batches of n images and of 500.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import repair_kernels as rk  # noqa: E402
from bench.measuring.provenance import provenance, write_rows  # noqa: E402
from models.datasets import IMAGE_SETS, load_embedded_fashion  # noqa: E402
from models.mlp import MLP  # noqa: E402
from models.pretrained import load_pair  # noqa: E402
from repair_kernels.errors import CalibrationWarning  # noqa: E402

VARIANTS = ("sequential", "forward")
IMAGES = 1600
FEW = 1000
"""Images where each takes long: in 16 bits, and one by one."""
BATCHES = (1, 7, 100)
DEAD = 4
"""Every so many channels of a hidden layer is made dead."""
SMALL = 1e-7
Pair = tuple[nn.Module, nn.Module]
Change = Callable[[nn.Module, Tensor], None]


def calibration_images(n: int) -> Tensor:
    """Return normalised training images."""
    images = load_embedded_fashion("train")[0][:n].float() / 255
    return (images - IMAGE_SETS["fashion"].mean[0]) / IMAGE_SETS["fashion"].std[0]


def hidden(model: nn.Module) -> list[nn.Linear]:
    """Return the linear maps of an MLP."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def kill(model: nn.Module, _: Tensor) -> None:
    """Let channels of the third hidden layer be constant."""
    layer = hidden(model)[2]
    with torch.no_grad():
        layer.weight[::DEAD] = 0


def shrink(model: nn.Module, images: Tensor) -> None:
    """Scale the third hidden layer to a mean variance of 1e-7, and the next one back."""
    layer, behind = hidden(model)[2:4]
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        model(images)
        hook.remove()
        factor = (SMALL / float(seen[0].double().var(dim=0).mean())) ** 0.5
        layer.weight.mul_(factor)
        layer.bias.mul_(factor)
        behind.weight.div_(factor)


def deep_pair() -> Pair:
    """Return untrained MLPs of 50 hidden layers that keep the size of their activations."""
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = MLP(50, 64, in_features=784, classes=10)
        for layer in hidden(model):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        models.append(model.eval())
    return models[0], models[1]


def cases() -> Iterator[tuple[str, str, Pair, Tensor]]:
    """Yield a name, the networks' name, the networks and their images."""
    resnets, mlps = load_pair("fashion_resnet20"), load_pair("fashion_mlp10")
    images = calibration_images(IMAGES)
    for label, pair in (("ResNet20", resnets), ("10-layer MLP", mlps)):
        yield "as trained", label, pair, images
        a, b = (copy.deepcopy(model).bfloat16() for model in pair)
        yield "bfloat16", label, (a, b), images[:FEW].bfloat16()
    a, b = (copy.deepcopy(model).half() for model in mlps)
    yield "float16", "10-layer MLP", (a, b), images[:FEW].half()
    dead = changed(mlps, kill)
    yield "a quarter of a layer's channels dead in both", "10-layer MLP", dead, images
    yield "… dead in one", "10-layer MLP", (dead[0], mlps[1]), images
    yield f"a layer's variances at {SMALL:g}", "10-layer MLP", changed(mlps, shrink), images
    yield "untrained", "50-layer MLP", deep_pair(), images


def changed(pair: Pair, change: Change) -> Pair:
    """Return a copy of both networks, changed."""
    models = copy.deepcopy(pair)
    for model in models:
        change(model, calibration_images(FEW))
    return models


def measure_goals(pair: Pair, images: Tensor) -> dict[str, Any]:
    """Return how far both variants are from their goals."""
    found: dict[str, Any] = {}
    for variant in VARIANTS:
        report = rk.repair(
            *pair, images.split(100), variant=variant, on_worse="warn", verify=False
        ).report
        worst = report.worst()
        assert worst is not None
        found[variant] = {"mean": worst.mean, "std": worst.std}
        found |= {"taps": len(report.exactness), "dead": sum(report.dead_channels.values())}
    return found


def measure_batches(pair: Pair, images: Tensor) -> dict[str, dict[int, float]]:
    """Return the largest change of a weight, relative to its tensor's largest, by batch size."""
    found: dict[str, dict[int, float]] = {}
    for variant in VARIANTS:
        wanted = merged(pair, images.split(500), variant)
        found[variant] = {
            n: max(
                float((value - wanted[name]).abs().max() / wanted[name].abs().max())
                for name, value in merged(pair, images.split(n), variant).items()
                if value.is_floating_point() and wanted[name].abs().max() > 0
            )
            for n in BATCHES
        }
    return found


def merged(pair: Pair, batches: Any, variant: str) -> dict[str, Tensor]:
    """Return the weights of the merged network."""
    result = rk.repair(*pair, batches, variant=variant, verify=False, assess=False)
    return dict(result.model.state_dict())


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, default=ROOT / "bench/results/exactness.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore", CalibrationWarning)
    where, rows = provenance("exactness.py", torch.device("cpu"), sys.argv[1:]), []
    for case, network, pair, images in cases():
        rows.append({"case": case, "network": network, **measure_goals(pair, images)})
        print(rows[-1], flush=True)
    for network, name in (("ResNet20", "fashion_resnet20"), ("10-layer MLP", "fashion_mlp10")):
        found = measure_batches(load_pair(name), calibration_images(FEW))
        rows.append({"case": "batches", "network": network, **found})
        print(rows[-1], flush=True)
    write_rows(options.json, where, rows)
    print(f"written to {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
