"""The real taps and parameters that the benches measure, with counted bytes and flops."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Tap:
    """One activation of a network, for one batch."""

    network: str
    name: str
    batch: int
    channels: int
    height: int = 1
    width: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as the network gives it: images, or rows when there is no space."""
        if self.height == self.width == 1:
            return (self.batch, self.channels)
        return (self.batch, self.channels, self.height, self.width)

    @property
    def n(self) -> int:
        """Positions."""
        return self.batch * self.height * self.width

    @property
    def label(self) -> str:
        """Name in tables and test ids."""
        size = "x".join(str(size) for size in self.shape)
        return f"{self.network}.{self.name}[{size}]"

    def paired_bytes(self, itemsize: int) -> int:
        """Bytes of `paired_moments`, in every form: each activation read once."""
        return 2 * self.n * self.channels * itemsize

    def paired_flops(self, form: str = "cross") -> int:
        """Flops of the products of `paired_moments`: one of (c, n) by (n, c) across the networks.

        "joint" adds one triangle within each network; the other is its mirror image.
        """
        c = self.channels
        products = {"diagonal": c, "cross": c * c, "joint": c * c + c * (c + 1)}
        return 2 * self.n * products[form]

    def channel_bytes(self, itemsize: int) -> int:
        """Bytes of `channel_moments`: the activation read once."""
        return self.n * self.channels * itemsize


@dataclass(frozen=True)
class Weight:
    """One parameter of a network."""

    network: str
    name: str
    shape: tuple[int, ...]

    @property
    def label(self) -> str:
        """Name in tables and test ids."""
        return f"{self.network}.{self.name}[{'x'.join(str(size) for size in self.shape)}]"

    def lerp_bytes(self, itemsize: int) -> int:
        """Bytes of `lerp_rescale`: both networks read once, the result written once."""
        return 3 * math.prod(self.shape) * itemsize


def _resnet20(width: int, batch: int = 500) -> list[Tap]:
    name = f"resnet20x{width}"
    return [
        Tap(name, f"layer{stage}", batch, 16 * width * 2 ** (stage - 1), size, size)
        for stage, size in ((1, 32), (2, 16), (3, 8))
    ]


TAPS: tuple[Tap, ...] = (
    Tap("mlp", "hidden", 2000, 512),
    *(
        Tap("vgg16", f"conv{index}", 500, channels, size, size)
        for index, channels, size in ((1, 64, 32), (3, 128, 16), (5, 256, 8), (8, 512, 4))
    ),
    *(tap for width in (1, 4, 16) for tap in _resnet20(width)),
    Tap("resnet50", "conv1", 64, 64, 112, 112),
    *(
        Tap("resnet50", f"layer{stage}.{part}", 64, channels, size, size)
        for stage, size, inner in ((1, 56, 64), (2, 28, 128), (3, 14, 256), (4, 7, 512))
        for part, channels in (("conv1", inner), ("add", 4 * inner))
    ),
)

WEIGHTS: tuple[Weight, ...] = (
    Weight("resnet50", "bn1.weight", (64,)),
    Weight("resnet50", "conv1.weight", (64, 3, 7, 7)),
    Weight("resnet50", "layer1.0.conv2.weight", (64, 64, 3, 3)),
    Weight("resnet50", "layer4.0.conv2.weight", (512, 512, 3, 3)),
    Weight("resnet50", "layer4.0.conv3.weight", (2048, 512, 1, 1)),
    Weight("resnet50", "fc.weight", (1000, 2048)),
)


def _resnet50_state() -> Iterator[Weight]:
    """Yield every floating-point tensor of torchvision's ResNet50 state, in its order."""

    def weight(name: str, *shape: int) -> Weight:
        return Weight("resnet50", name, shape)

    def norm(name: str, channels: int) -> Iterator[Weight]:
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield weight(f"{name}.{part}", channels)

    yield weight("conv1.weight", 64, 3, 7, 7)
    yield from norm("bn1", 64)
    c_in = 64
    for stage, (blocks, inner) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            place = f"layer{stage}.{block}"
            outer = 4 * inner
            for index, shape in enumerate(
                ((inner, c_in, 1, 1), (inner, inner, 3, 3), (outer, inner, 1, 1)), start=1
            ):
                yield weight(f"{place}.conv{index}.weight", *shape)
                yield from norm(f"{place}.bn{index}", shape[0])
            if block == 0:
                yield weight(f"{place}.downsample.0.weight", outer, c_in, 1, 1)
                yield from norm(f"{place}.downsample.1", outer)
            c_in = outer
    yield weight("fc.weight", 1000, 2048)
    yield weight("fc.bias", 1000)


RESNET50: tuple[Weight, ...] = tuple(_resnet50_state())
