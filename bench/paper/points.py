"""Pairs of endpoints of the experiments: which network, trained how, run in which sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace

NETWORK_WAYS = ("aligned", "forward", "ours")
NORM_WAYS = ("aligned", "reset", "forward", "ours")
DEPTH_WAYS = ("aligned", "closed_form", "forward", "ours")


@dataclass(frozen=True)
class Point:
    """A pair of endpoints in an experiment: one mark, or one curve, in a picture.

    Attributes:
        series: the line to which it belongs
        x: its place on that line: depth or width
        recipe: name of the paper's recipe; of networks that the user brings, their name
        epochs: of the fast recipe
        rank: the most telling are run first
        sizes: in which it is run
        ways: in which it is merged; default: those of the experiment
        factors: what some numbers of the recipe are multiplied by, by their names
        second_cycle: whether endpoints of the fast recipe at full size are trained on, see
            `sizes.with_second_cycle`
        fused: whether the trained endpoints' BatchNorms are put into their layers, see `MLP.fused`
        calibration: number of training images that calibrate; default: the size's
    """

    series: str
    x: float
    recipe: str
    epochs: int = 20
    rank: int = 8
    sizes: tuple[str, ...] = ("full",)
    ways: tuple[str, ...] = ()
    factors: tuple[tuple[str, float], ...] = ()
    second_cycle: bool = False
    fused: bool = False
    calibration: int | None = None


ALL = ("smoke", "cpu", "full")
CPU = ("cpu", "full")
SET_LABELS = {"mnist": "MNIST", "fashion": "FashionMNIST", "svhn": "SVHN", "cifar10": "CIFAR-10"}
NORM_LABELS = {"": "BatchNorm", "_layer": "LayerNorm", "_fixup": "Fixup", "_group": "GroupNorm"}
NORM_WIDTHS = {"_group": (1, 4)}


def sizes_at(place: float, smoke: tuple[float, ...], cpu: tuple[float, ...]) -> tuple[str, ...]:
    """Return the sizes in which a point at this place is run."""
    return (*("smoke",) * (place in smoke), *("cpu",) * (place in cpu), "full")


def resnet20(norm: str, width: int) -> Point:
    """Return ResNet20 of a width, with a normalisation, on CIFAR-10."""
    ranks = {("", 1): 2, ("", 4): 2, ("", 16): 2, ("_layer", 4): 5, ("_fixup", 4): 5}
    return Point(
        NORM_LABELS[norm],
        width,
        f"cifar10_resnet20x{width}{norm}",
        epochs=40 if width < 8 else 20,
        rank=ranks.get((norm, width), 8),
        sizes=sizes_at(width, smoke=(1,), cpu=(1, 2) if norm == "" else (1,)),
        ways=NORM_WAYS if norm == "" else NETWORK_WAYS,
        # At this rate they classify as well, and merge better: see "resnet20_midpoint".
        factors=(("lr", 2.0),) if norm == "" else (),
    )


def vgg(depth: int) -> Point:
    """Return a VGG without BatchNorms on CIFAR-10."""
    return Point(
        "VGG, CIFAR-10",
        depth,
        f"cifar10_vgg{depth}",
        epochs=40,
        rank=3 if depth == 11 else 8,
        sizes=sizes_at(depth, smoke=(11,), cpu=(11, 16)),
        second_cycle=True,
    )


def normed_vgg(depth: int) -> Point:
    """Return a VGG with BatchNorms on CIFAR-10."""
    return replace(
        vgg(depth),
        series="VGG with BatchNorms, CIFAR-10",
        recipe=f"cifar10_vgg{depth}_batch",
        rank=3 if depth in (11, 16) else 8,
        ways=NORM_WAYS,
        # The authors' start from smaller weights, at which the same rate does more.
        factors=(("lr", 4.0),),
    )


def fused_mlp(depth: int) -> Point:
    """Return an MLP on MNIST whose BatchNorms are fused when it is trained."""
    sizes = sizes_at(depth, smoke=(2,), cpu=())
    recipe = f"mnist_mlp{depth}_batch"
    return Point("MLP, MNIST, fused BatchNorms", depth, recipe, 50, rank=6, sizes=sizes, fused=True)


def deep_mlp(depth: int) -> Point:
    """Return an MLP without BatchNorms on MNIST."""
    sizes = sizes_at(depth, smoke=(1, 5), cpu=(1, 5, 10, 20))
    return Point("MLP, MNIST", depth, f"mnist_mlp{depth}", 10, rank=6, sizes=sizes)


def wide_mlp(dataset: str, width: int) -> Point:
    """Return an MLP of eleven hidden layers."""
    in_cpu = (64, 128) if dataset in ("mnist", "fashion") else ()
    return Point(
        SET_LABELS[dataset],
        width,
        f"{dataset}_mlp11x{width}",
        epochs=10 if dataset == "fashion" else 20,
        sizes=sizes_at(width, smoke=(64,) if dataset == "mnist" else (), cpu=in_cpu),
    )


def wide_resnet20(dataset: str, width: int) -> Point:
    """Return ResNet20 of a width on a set other than CIFAR-10."""
    cpu = (1, 2) if dataset in ("mnist", "fashion") else ()
    return Point(
        SET_LABELS[dataset],
        width,
        f"{dataset}_resnet20x{width}",
        epochs=20,
        rank=9,
        sizes=sizes_at(width, (1,) if dataset == "fashion" else (), cpu),
    )


def trained_otherwise(recipe: str, series: str, x: float, **factors: float) -> Point:
    """Return a network of CIFAR-10 with some numbers of its recipe multiplied."""
    sizes = CPU if factors else ALL
    return Point(series, x, recipe, 40, rank=8, sizes=sizes, factors=tuple(factors.items()))


def deep_mlp_otherwise(series: str, x: float, **factors: float) -> Point:
    """Return an MLP of 31 hidden layers with some numbers of its recipe multiplied."""
    point = replace(fused_mlp(31), series=series, x=x, rank=8, factors=tuple(factors.items()))
    return point if factors else replace(point, sizes=("smoke", "full"))


RESNET18 = Point("ResNet18", 18, "cifar10_resnet18", 40, rank=1, sizes=ALL, ways=NORM_WAYS)
