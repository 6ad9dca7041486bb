"""The real taps that the benches measure, with counted bytes and flops and the floor of a chip."""

from __future__ import annotations

import math
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
        """Bytes of `paired_moments`: each activation read once."""
        return 2 * self.n * self.channels * itemsize

    def paired_flops(self) -> int:
        """Flops of `paired_moments`: one product of (c, n) by (n, c)."""
        return 2 * self.n * self.channels**2

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


@dataclass(frozen=True)
class Rates:
    """What a chip can do at most, from its data sheet: bytes/s, and flop/s of dense products."""

    bandwidth: float
    products: dict[str, float]


# NVIDIA data sheets, dense figures without sparsity. tf32x3 does three products for one.
RATES = {
    "NVIDIA H100": Rates(
        3.35e12, {"ieee": 67e12, "tf32x3": 495e12 / 3, "tf32": 495e12, "16bit": 990e12}
    ),
    "NVIDIA H200": Rates(
        4.8e12, {"ieee": 67e12, "tf32x3": 495e12 / 3, "tf32": 495e12, "16bit": 990e12}
    ),
    "NVIDIA A100": Rates(
        2.04e12, {"ieee": 19.5e12, "tf32x3": 156e12 / 3, "tf32": 156e12, "16bit": 312e12}
    ),
}


def floor_seconds(device_name: str, n_bytes: int, flops: int = 0, unit: str = "ieee") -> float:
    """Return the least time that the counted work can take, NaN on a chip without an entry."""
    for prefix, rates in RATES.items():
        if device_name.startswith(prefix):
            return max(n_bytes / rates.bandwidth, flops / rates.products[unit])
    return math.nan


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
