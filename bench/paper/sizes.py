"""Three sizes of every experiment, and the networks that stand in where the full ones do not fit.

| size | images to train, test and calibrate with | networks | for |
|---|---|---|---|
| `smoke` | 300, 200, 200 of the embedded FashionMNIST | tiny | tests: seconds |
| `cpu` | 10,000, all, 2,000 | MLPs as they are; the others narrow | about an hour on 2 cores |
| `full` | all, all, 5,000 | the paper's | a GPU; MLPs also on a CPU |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from models.recipes import Recipe, fast

# VGG11 learns its images by heart in 26 epochs (99 %; of others 89 %) with `fast`'s own shifts.
LONG_TRANSLATE, LONG_CUTOUT = 4, 8
TENTHS = tuple(step / 10 for step in range(1, 10))


@dataclass(frozen=True)
class Size:
    """How large an experiment is run.

    Attributes:
        name: of the size
        train, test: number of images; None: all
        calibration: number of training images that calibrate
        curve, slow_curve: alphas of curves, and of those where each alpha takes a training
        points: alphas of experiments that compare networks; the midpoint for slow ways
    """

    name: str
    train: int | None
    test: int | None
    calibration: int
    curve: tuple[float, ...]
    slow_curve: tuple[float, ...]
    points: tuple[float, ...] = (0.3, 0.5, 0.7)

    def alphas(self, curve: bool, slow: bool) -> tuple[float, ...]:
        """Return the alphas at which a way is measured."""
        if curve:
            return self.slow_curve if slow else self.curve
        return (0.5,) if slow else self.points


SIZES: Mapping[str, Size] = {
    "smoke": Size("smoke", 300, 200, 200, (0.5,), (0.5,), (0.5,)),
    "cpu": Size("cpu", 10_000, None, 2000, (0.1, 0.3, 0.5, 0.7, 0.9), (0.3, 0.5, 0.7)),
    "full": Size("full", None, None, 5000, TENTHS, TENTHS),
}


def recipe_at(size: Size, recipe: Recipe, epochs: int, kind: str = "fast") -> Recipe:
    """Return how a network of an experiment is trained in a size.

    Args:
        size: "cpu" and "smoke" train stand-ins, see `narrow`
        recipe: the paper's
        epochs: of the fast recipe at full size
        kind: "fast", or "paper": the recipe as it is; at full size only
    """
    if size.name == "smoke":
        return fast(tiny(recipe), 1, batch_size=100)
    if size.name == "full" and kind == "paper":
        return recipe
    normed = recipe.options.get("batch_norm", False)
    if is_mlp(recipe) and normed and size.name == "full":
        return recipe  # that takes minutes as it is
    if is_mlp(recipe):
        # Small batches at the same rate: MLPs that were trained at smaller ones merge worse. Very
        # deep ones do not learn at it in a few epochs.
        small = 500 if size.name == "full" else 250
        lr = recipe.lr * min(1.0, 20 / recipe.options["depth"])
        return fast(recipe, epochs, batch_size=small, lr=lr)
    if size.name == "cpu":
        return fast(narrow(recipe), 8, batch_size=125)
    if recipe.model.startswith("models.vgg:") and normed:
        return fast(recipe, epochs, batch_size=recipe.batch_size)
    if recipe.model.startswith("models.vgg:"):
        # Without BatchNorm a few epochs of large batches are too few steps.
        short = fast(recipe, epochs, batch_size=recipe.batch_size // 2, lr=recipe.lr)
        decay = 2 * recipe.weight_decay
        # VGG19, a quarter as wide, lost what it had learnt when the rate came to its peak.
        clip = None if recipe.model.endswith(":vgg11") else 1.0
        short = replace(short, translate=LONG_TRANSLATE, cutout=LONG_CUTOUT, clip=clip)
        return replace(short, weight_decay=decay)
    if recipe.options.get("norm", "batch") != "batch":
        # In batches of 1,000, Fixup's loss grows without bound, and LayerNorms hardly learn. With
        # limited gradients both bear the paper's rate in small batches.
        short = fast(recipe, epochs, batch_size=recipe.batch_size // 4, lr=recipe.lr)
        return replace(short, clip=1.0)
    return fast(recipe, epochs)


def with_second_cycle(recipe: Recipe, epochs: int | None = None) -> Recipe:
    """Return the recipe that trains VGGs on, at half the rate and with the larger shifts.

    A warm restart (Loshchilov, Hutter, 2017). It takes VGG11, whose endpoints are short of the
    paper's by two points after 30 epochs, closer to them for less than a longer training anew.

    Args:
        recipe: the fast recipe at full size
        epochs: of the second cycle; None: two thirds of those of the first
    """
    return replace(
        recipe,
        epochs=max(1, 2 * recipe.epochs // 3) if epochs is None else epochs,
        lr=recipe.lr / 2,
        translate=LONG_TRANSLATE,
        cutout=LONG_CUTOUT,
        after=recipe,
    )


def is_mlp(recipe: Recipe) -> bool:
    """Tell whether a recipe trains an MLP."""
    return recipe.model == "models.mlp:MLP"


def narrow(recipe: Recipe) -> Recipe:
    """Return the recipe for a network of a half (ResNet20) or a quarter of the channels."""
    return _with_channels(recipe, resnet20=((3, 3, 3), 8), resnet18=((2, 2, 2, 2), 16), vgg=1 / 4)


def tiny(recipe: Recipe) -> Recipe:
    """Return the recipe for a network that takes no time."""
    if is_mlp(recipe):
        options = {**recipe.options, "width": 16, "depth": min(3, recipe.options["depth"])}
        return replace(recipe, options=options)
    return _with_channels(recipe, resnet20=((1, 1, 1), 2), resnet18=((1, 1, 1, 1), 2), vgg=1 / 16)


def _with_channels(
    recipe: Recipe,
    resnet20: tuple[tuple[int, ...], int],
    resnet18: tuple[tuple[int, ...], int],
    vgg: float,
) -> Recipe:
    """Return the recipe with other blocks and channels; of ResNets those of the first stage."""
    options = dict(recipe.options)
    name = recipe.model.partition(":")[2]
    if name.startswith("vgg"):
        return replace(recipe, options={**options, "width": vgg})
    blocks, channels = resnet18 if name == "cifar_resnet18" else resnet20
    if name == "cifar_resnet18":
        options["shortcut"] = "projection"
    first = channels * options.pop("width", 1)
    options |= {"blocks": blocks, "channels": tuple(first * 2**i for i in range(len(blocks)))}
    return replace(recipe, model="models.resnet:CifarResNet", options=options)
