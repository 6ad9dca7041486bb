"""How the networks are trained, as data: the paper's recipes and those of the embedded pairs.

    learning rate = lr * (t / warmup if t < warmup else decay((t - warmup) / (1 - warmup)))

where t in [0, 1] is the part of the steps done, and decay(s) = 1 - s or (1 + cos(pi s)) / 2.
The paper names its augmentations but not their sizes in pixels; those below are the usual ones.
"""

from __future__ import annotations

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
        alternate_flip: whether each image is mirrored in every second epoch, in place of `flip`.
        translate: largest random shift, in pixels.
        cutout: side of the square that is painted over, in pixels.
        clip: largest norm of the gradient; none by default.
        label_smoothing: part of the target that is spread over all classes.
        source: where the recipe comes from.
        after: the recipe whose networks, of the same seeds, this one trains on; None: new ones.
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
    alternate_flip: bool = False
    translate: int = 0
    cutout: int = 0
    clip: float | None = None
    label_smoothing: float = 0.0
    source: str = "REPAIR (Jordan et al., 2023)"
    after: Recipe | None = None

    def __post_init__(self) -> None:
        if self.decay not in ("linear", "cosine"):
            raise ValueError(f'`decay` must be "linear" or "cosine", got {self.decay!r}')
        if not 0 <= self.warmup < 1:
            raise ValueError(f"`warmup` must be in [0, 1), got {self.warmup}")
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    @property
    def epochs_before(self) -> int:
        """Epochs of the recipes whose networks this one trains on."""
        return 0 if self.after is None else self.after.epochs_before + self.after.epochs

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
        warmup=0.025,
        weight_decay=1e-4,
        flip=True,
        translate=4,
        cutout=12,
    )
    return replace(recipe, **changes)


def _cifar_resnet18(dataset: str, classes: int) -> Recipe:
    return _cifar_resnet20(
        1,
        model="models.resnet:cifar_resnet18",
        options={"classes": classes},
        dataset=dataset,
        decay="linear",
        weight_decay=5e-4,
        cutout=16,
        label_smoothing=0.1,
    )


def _mlp(dataset: str, depth: int, width: int, **changes) -> Recipe:
    """Return the recipe of figure 6; what limits the gradient is ours, for deep ones."""
    colour = dataset in ("cifar10", "svhn")
    recipe = Recipe(
        model="models.mlp:MLP",
        options={"depth": depth, "width": width, "in_features": 3072 if colour else 784},
        dataset=dataset,
        batch_size=2000,
        epochs=100,
        lr=0.2,
        decay="linear",
        warmup=0.05,
        flip=dataset in ("cifar10", "fashion"),
        translate=4,
        clip=1.0,
    )
    return replace(recipe, **changes)


def _normed_mlp(depth: int) -> Recipe:
    """Return the recipe of figure 3, whose networks' BatchNorms were fused when they were trained.

    The batch is that at which endpoints are as good as the authors': of their two notebooks that
    train so, one says 1000 and one 2000, at which accuracies are lower and losses higher. The limit
    of the gradient is ours: with it networks of 41 layers learn as well as the authors'.
    """
    return _mlp(
        "mnist",
        depth,
        128,
        options={"depth": depth, "width": 128, "in_features": 784, "batch_norm": True},
        batch_size=1000,
        epochs=50,
        lr=0.05,
        warmup=0.1,
        translate=0,
    )


def _vgg(depth: int) -> Recipe:
    return Recipe(
        model=f"models.vgg:vgg{depth}",
        dataset="cifar10",
        batch_size=500,
        epochs=100,
        lr=0.08,
        decay="cosine",
        warmup=0.05,
        weight_decay=5e-4,
        flip=True,
        translate=4,
    )


def fast(recipe: Recipe, epochs: int, batch_size: int = 1000, lr: float | None = None) -> Recipe:
    """Return the recipe as one would train for minutes today.

    One cycle of the learning rate with Nesterov's momentum, each image mirrored every second
    epoch, and neither cutout nor label smoothing, which pay in long trainings. Unless it is given,
    the learning rate goes with the root of the batch. bf16, channels-last and `torch.compile` are
    `models.train.train`'s.
    """
    return replace(
        recipe,
        batch_size=batch_size,
        epochs=epochs,
        lr=recipe.lr * math.sqrt(batch_size / recipe.batch_size) if lr is None else lr,
        decay="linear",
        warmup=0.2,
        nesterov=True,
        weight_decay=5e-4 if recipe.weight_decay else 0.0,
        flip=False,
        alternate_flip=recipe.flip,
        translate=min(recipe.translate, 2),
        cutout=0,
        label_smoothing=0.0,
        source="one cycle, for minutes",
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
    | {
        f"cifar10_vgg{depth}_batch": replace(_vgg(depth), options={"batch_norm": True})
        for depth in (11, 13, 16, 19)
    }
    | {f"cifar10_resnet20x{width}": _cifar_resnet20(width) for width in (1, 2, 4, 8, 16, 32)}
    | {
        f"cifar10_resnet20x{width}_layer": _cifar_resnet20(
            width, options={"width": width, "norm": "layer"}, lr=0.1
        )
        for width in (1, 2, 4, 8, 16)
    }
    | {
        f"cifar10_resnet20x{width}_group": _cifar_resnet20(
            width, options={"width": width, "norm": "group"}, lr=0.1
        )
        for width in (1, 4)
    }
    | {
        f"cifar10_resnet20x{width}_fixup": _cifar_resnet20(
            width, options={"width": width, "norm": "fixup"}, scalar_lr=0.1
        )
        for width in (1, 2, 4, 8, 16)
    }
    | {
        f"{name}_resnet20x{width}": _cifar_resnet20(
            width,
            dataset=name,
            options={"width": width, "in_channels": 3 if name == "svhn" else 1},
            flip=name == "fashion",
        )
        for name in ("mnist", "fashion", "svhn")
        for width in (1, 2, 4, 8)
    }
    | {
        f"cifar{classes}_resnet18": _cifar_resnet18(f"cifar{classes}", classes)
        for classes in (10, 100)
    }
    | {
        f"mnist_mlp{depth}": _mlp("mnist", depth, 128, epochs=50, translate=0)
        for depth in (1, 5, 10, 20, 30, 35, 40, 50)
    }
    | {f"mnist_mlp{depth}_batch": _normed_mlp(depth) for depth in (2, 6, 11, 21, 31, 36, 41, 51)}
    | {
        f"mnist_mlp5_lr{lr}": _mlp("mnist", 5, 128, epochs=50, translate=0, lr=lr)
        for lr in (0.025, 0.05, 0.1, 0.2)
    }
    | {
        f"{name}_mlp11x{width}": _mlp(name, 11, width)
        for name in ("mnist", "fashion", "svhn", "cifar10")
        for width in (64, 128, 256, 512)
    }
    | {"fashion_mlp11x4096": _mlp("fashion", 11, 4096)}
)
