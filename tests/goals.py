"""Pairs of networks to calibrate, and whether their corrected taps meet their goals."""

import copy
import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tests import oracles
from tests.networks import FAMILIES, PLAIN, Family

VARIANTS = ("forward", "closed_form", "sequential")
# Of the goal's std: what float32 weights and one float32 pass per layer can hold, with a margin
# for the depth; a wrong formula misses by tenths.
MET = 1e-3


def activations(model: nn.Module, inputs: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Return what these modules give to the rest of a network, in float64."""
    model, found = copy.deepcopy(model).double(), {}
    for name in names:
        keep = functools.partial(lambda name, *call: found.update({name: call[2].clone()}), name)
        model.get_submodule(name).register_forward_hook(keep)
    with torch.no_grad():
        model(inputs.double())
    return found


def without_norm(y: Tensor, norms: Sequence[nn.Module], alpha: float) -> Tensor:
    """Return what a BatchNorm with interpolated statistics reads when it gives `y`.

    A correction in front of a BatchNorm is folded into its statistics, so that it can be seen only
    behind it.
    """

    def mixed(name: str) -> Tensor:
        a, b = (getattr(norm, name).detach().double() for norm in norms)
        return ((1 - alpha) * a + alpha * b)[:, None, None]

    std = (mixed("running_var") + norms[0].eps).sqrt()
    return (y - mixed("bias")) / mixed("weight") * std + mixed("running_mean")


def assert_goals_met(
    model: nn.Module,
    ends: Sequence[nn.Module],
    inputs: Tensor,
    taps: dict[str, str | None],
    alpha: float,
    allowed: float = MET,
) -> None:
    """Assert eqs. 3 and 4 at `taps`; a tap's entry is the BatchNorm that reads it, or None."""
    seen = activations(model, inputs, [norm or tap for tap, norm in taps.items()])
    at_a, at_b = (activations(end, inputs, list(taps)) for end in ends)
    for tap, norm in taps.items():
        value = seen[norm or tap]
        if norm is not None:
            value = without_norm(value, [end.get_submodule(norm) for end in ends], alpha)
        mean, std = oracles.goal(at_a[tap], at_b[tap], alpha)
        live = std > 1e-6 * std.max()
        assert live.any(), tap
        values = oracles.rows(value, 1)[:, live]
        assert np.abs(values.mean(axis=0) - mean[live]).max() <= allowed * std[live].min(), tap
        assert np.abs(values.std(axis=0) / std[live] - 1).max() <= allowed, tap


def residual_taps(norm: str | None, shortcut: str | None = None) -> dict[str, str | None]:
    """Return the default taps of a CIFAR ResNet of three blocks, and what reads each."""
    taps = {"conv1": norm and "bn1"}
    for stage in ("layer1.0", "layer2.0", "layer3.0"):
        taps |= {f"{stage}.conv{i}": norm and f"{stage}.bn{i}" for i in (1, 2)}
        if shortcut and stage != "layer1.0":
            taps[f"{stage}.shortcut.0"] = f"{stage}.shortcut.1"
        taps[stage] = None
    return taps


TAPS: dict[str, dict[str, str | None]] = {
    "mlp": {"fc1": None, "fc2": None},
    "plain": {"0": "1", "3": "4"},
    "mlp_without_bias": {"fc1": None, "fc2": None},
    "vgg": {f"features.{i}": None for i in (0, 3, 6, 8, 11, 13, 16, 18)},
    "vgg_batch_norm": {f"features.{i}": f"features.{i + 1}" for i in (0, 4, 8, 11, 15, 18, 22, 25)},
    "resnet_option_a": residual_taps("batch"),
    "resnet_projection": residual_taps("batch", "projection"),
    "resnet_layer_norm": residual_taps(None),
    "resnet_fixup": residual_taps(None),
}


# Convolutions with bias and nothing behind them: the corrected values can be seen themselves.
BIASED = Family(
    lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)
    ),
    (3, 6, 6),
)
NETWORKS = {**FAMILIES, "plain": PLAIN, "biased": BIASED}


def pair(family: str) -> tuple[nn.Module, nn.Module]:
    return NETWORKS[family].network(0), NETWORKS[family].network(1)


def shifted(family: str, n: int, seed: int = 5) -> Tensor:
    """Return inputs whose mean is not 0, so that means matter as well as variances."""
    return NETWORKS[family].inputs(n, seed) * 0.8 + 0.5
