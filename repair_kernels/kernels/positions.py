"""Activations as the kernels address them: images × channels × places, by strides, not copied.

Kernels load 16 bytes at a time only where the compiler can prove that neighbours lie side by side
and start at a multiple of 16 bytes. So a launch says which axis has stride one (`UNIT`) and a power
of two (`ALIGN`) that divides the other strides and the length of that axis. Triton by itself would
look at each argument, for 1 or a multiple of 16 only: 14 × 14 images or 24 channels are neither,
and every batch of another size would compile its own kernel.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

Unit = Literal["place", "channel", "none"]

# Arguments of the kernels for which none is compiled anew, see above.
SIZES = (
    *("n_samples", "c", "c_a", "c_b", "places", "splits", "split_size"),
    *("tiles_a", "tiles_b", "pairs", "turns"),
    *(f"stride_{tensor}{axis}" for tensor in "abx" for axis in "ncp"),
)


@triton.jit
def multiple(value, ALIGN: tl.constexpr):
    """Return `value`, a multiple of ALIGN, in a form from which the compiler sees that it is."""
    return value // ALIGN * ALIGN


@triton.jit
def first_position(pid_s, split_size, n_samples, places, stride_n, stride_p, ROWS: tl.constexpr):
    """Return where a split's first image lies, the places to skip in it, and the split's size."""
    first = pid_s * split_size
    size = tl.minimum(split_size, n_samples - first)
    if ROWS:
        return first * stride_p, first * 0, size
    return (first // places) * stride_n, first % places, size


@triton.jit
def position_offsets(offs_n, places, stride_n, stride_p, ROWS: tl.constexpr):
    """Return where positions lie that are counted from the start of some image, in elements."""
    if ROWS:
        return offs_n.to(tl.int64) * stride_p
    image = (offs_n // places).to(tl.int64)
    place = (offs_n % places).to(tl.int64)
    return image * stride_n + place * stride_p


@triton.jit
def add_up(x, GROUP: tl.constexpr, UNIT: tl.constexpr):
    """Add the rows of a block [BLOCK_N, BLOCK_C] up to GROUP rows, those that one thread holds.

    A thread holds neighbouring places, or every GROUP-th row of channels: no data moves.
    """
    rows: tl.constexpr = x.shape[0] // GROUP
    if rows == 1:
        return x
    if UNIT == "place":
        return tl.sum(tl.reshape(x, [GROUP, rows, x.shape[1]]), axis=1)
    return tl.sum(tl.reshape(x, [rows, GROUP, x.shape[1]]), axis=0)


@dataclass(frozen=True)
class Positions:
    """A tensor seen as (images, channels, places); a position is n = image · places + place."""

    view: Tensor

    @classmethod
    def of(cls, x: Tensor, channel_dim: int) -> "Positions":
        """View `x` so; copy only if no three strides can express it (a crop of an image)."""
        channel_dim %= x.dim()
        before, after = x.shape[:channel_dim], x.shape[channel_dim + 1 :]
        return cls(x.reshape(before.numel(), x.shape[channel_dim], after.numel()))

    @property
    def n(self) -> int:
        """Number of positions."""
        return self.view.shape[0] * self.view.shape[2]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.view.shape[1]

    @property
    def places(self) -> int:
        """Number of positions in one image."""
        return self.view.shape[2]

    @property
    def is_rows(self) -> bool:
        """Whether one stride leads from each position to the next, across images."""
        image, _, place = self.view.stride()
        return self.view.shape[0] == 1 or self.places == 1 or image == place * self.places

    def as_rows(self) -> "Positions":
        """Return the same positions as the places of a single image; only for rows."""
        image, channel, place = self.view.stride()
        step = image if self.places == 1 and self.view.shape[0] > 1 else place
        size, stride = (1, self.channels, self.n), (0, channel, step)
        return Positions(torch.as_strided(self.view, size, stride))

    @property
    def unit(self) -> Unit:
        """The axis along which neighbours lie side by side."""
        _, channel, place = self.view.stride()
        if place == 1 and self.places > 1:
            return "place"
        return "channel" if channel == 1 or self.channels == 1 else "none"

    @property
    def align(self) -> int:
        """The largest power of two up to 16 that divides where runs along `unit` start and end."""
        if self.unit == "none":
            return 1
        run = 2 if self.unit == "place" else 1
        others = [
            stride
            for dim, (size, stride) in enumerate(
                zip(self.view.shape, self.view.stride(), strict=True)
            )
            if dim != run and size > 1
        ]
        return math.gcd(16, self.view.shape[run], *others)

    def strides(self, name: str) -> dict[str, int]:
        """Return the kernels' stride arguments for the tensor called `name`."""
        image, channel, place = self.view.stride()
        return {
            f"stride_{name}n": image,
            f"stride_{name}c": channel,
            f"stride_{name}p": place,
        }

    def needs_64_bits(self, split_size: int, block_n: int) -> bool:
        """Whether positions, counted from the start of a split's first image, exceed 32 bits."""
        skipped = 0 if self.view.shape[0] == 1 else self.places
        return skipped + split_size + block_n >= 2**31


def addressed_alike(
    x: Positions, *others: Positions
) -> tuple[tuple[Positions, ...], dict[str, Any]]:
    """Return tensors of the same positions in one form, and the flags that tell kernels which."""
    all_of = (x, *others)
    rows = all(positions.is_rows for positions in all_of)
    if rows:
        all_of = tuple(positions.as_rows() for positions in all_of)
    units = {positions.unit for positions in all_of}
    unit = units.pop() if len(units) == 1 else "none"
    align = 1 if unit == "none" else min(positions.align for positions in all_of)
    return all_of, {"ROWS": rows, "UNIT": unit, "ALIGN": align}
