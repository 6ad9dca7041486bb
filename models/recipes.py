"""How the networks are trained, as data: the paper's recipes and those of the embedded pairs.

    learning rate = lr * (t / warmup if t < warmup else decay((t - warmup) / (1 - warmup)))

where t in [0, 1] is the part of the steps done, and decay(s) = 1 - s or (1 + cos(pi s)) / 2.
The paper names its augmentations but not their sizes in pixels; those below are the usual ones.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from torch import nn


@dataclass(frozen=True)
class Recipe:
    """One way to train one network with SGD.

    Attributes:
        model: "package.module:callable" that makes the network.
        dataset: name of the image set, as in `datasets.IMAGE_SETS`.
        batch_size: images of a step; the last, smaller batch of an epoch is left out.
        epochs: passes over the training set.
        lr: peak of the learning rate.
        decay: "linear" or "cosine".
        options: keyword arguments of `model`.
        warmup: part of the steps in which the learning rate rises linearly to `lr`.
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: on all parameters.
        scalar_lr: factor of the learning rate of one-element parameters (Fixup's).
        flip: whether images are mirrored at random.
        translate: largest random shift, in pixels.
        cutout: side of the square that is painted over, in pixels.
        clip: largest norm of the gradient; none by default.
        source: where the recipe comes from.
    """

    model: str
    dataset: str
    batch_size: int
    epochs: int
    lr: float
    decay: str
    options: Mapping[str, object] = field(default_factory=dict)
    warmup: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    scalar_lr: float = 1.0
    flip: bool = False
    translate: int = 0
    cutout: int = 0
    clip: float | None = None
    source: str = "REPAIR (Jordan et al., 2023)"

    def __post_init__(self) -> None:
        if self.decay not in ("linear", "cosine"):
            raise ValueError(f'`decay` must be "linear" or "cosine", got {self.decay!r}')
        if not 0 <= self.warmup < 1:
            raise ValueError(f"`warmup` must be in [0, 1), got {self.warmup}")
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def learning_rate(self, progress: float) -> float:
        """Return the learning rate after the part `progress`, in [0, 1], of the steps."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        done = (progress - self.warmup) / (1 - self.warmup)
        if self.decay == "linear":
            return self.lr * (1 - done)
        return self.lr * (1 + math.cos(math.pi * done)) / 2

    def build(self) -> nn.Module:
        """Return a newly drawn network; the caller seeds the generator."""
        module, _, name = self.model.partition(":")
        make: Callable[..., nn.Module] = getattr(importlib.import_module(module), name)
        return make(**self.options)


def _cifar_resnet20(width: int, **changes) -> Recipe:
    recipe = Recipe(
        model="models.resnet:resnet20",
        options={"width": width},
        dataset="cifar10",
        batch_size=500,
        epochs=200,
        lr=0.4,
        decay="cosine",
        weight_decay=1e-4,
        flip=True,
        translate=4,
        cutout=12,
    )
    return replace(recipe, **changes)


def _mlp(dataset: str, depth: int, width: int) -> Recipe:
    inputs = 3072 if dataset.startswith("cifar") else 784
    return Recipe(
        model="models.mlp:MLP",
        options={"depth": depth, "width": width, "in_features": inputs},
        dataset=dataset,
        batch_size=2000,
        epochs=100,
        lr=0.2,
        decay="linear",
        translate=2,
    )


def _vgg(depth: int) -> Recipe:
    return Recipe(
        model=f"models.vgg:vgg{depth}",
        dataset="cifar10",
        batch_size=500,
        epochs=100,
        lr=0.08,
        decay="cosine",
        weight_decay=5e-4,
        flip=True,
        translate=4,
    )


HERE = "chosen for a few minutes on two CPU cores"

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "fashion_resnet20": Recipe(
            model="models.resnet:resnet20",
            options={"in_channels": 1},
            dataset="fashion",
            batch_size=128,
            epochs=12,
            lr=0.15,
            decay="linear",
            warmup=0.15,
            nesterov=True,
            weight_decay=5e-4,
            flip=True,
            translate=2,
            source=HERE,
        ),
        "fashion_mlp10": Recipe(
            model="models.mlp:MLP",
            options={"depth": 10, "width": 128},
            dataset="fashion",
            batch_size=128,
            epochs=25,
            lr=0.05,
            decay="linear",
            warmup=0.15,
            nesterov=True,
            weight_decay=1e-4,
            flip=True,
            translate=1,
            clip=1.0,
            source=HERE,
        ),
    }
    | {f"cifar10_vgg{depth}": _vgg(depth) for depth in (11, 13, 16, 19)}
    | {f"cifar10_resnet20x{width}": _cifar_resnet20(width) for width in (1, 2, 4, 8, 16, 32)}
    | {
        "cifar10_resnet20x8_layer": _cifar_resnet20(8, options={"width": 8, "norm": "layer"}),
        "cifar10_resnet18": _cifar_resnet20(1, model="models.resnet:cifar_resnet18", options={}),
    }
    | {
        f"cifar10_resnet20x{width}_fixup": _cifar_resnet20(
            width, options={"width": width, "norm": "fixup"}, scalar_lr=0.1
        )
        for width in (1, 4, 16)
    }
    | {f"mnist_mlp{depth}": _mlp("mnist", depth, 128) for depth in (1, 5, 10, 20, 30, 40)}
    | {f"{name}_mlp10x512": _mlp(name, 10, 512) for name in ("mnist", "fashion", "cifar10")}
)
