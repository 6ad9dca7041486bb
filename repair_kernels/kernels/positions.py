"""Activations as the kernels address them: images × channels × places, by strides, not copied."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def position_offsets(offs_n, places, stride_n, stride_p):
    """Return where positions lie that are counted from the start of some image, in elements."""
    image = (offs_n // places).to(tl.int64)
    place = (offs_n % places).to(tl.int64)
    return image * stride_n + place * stride_p


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
        return self.places + split_size + block_n >= 2**31

    @property
    def is_rows(self) -> bool:
        """Whether one stride leads from each position to the next, across images."""
        image, _, place = self.view.stride()
        return self.view.shape[0] == 1 or self.places == 1 or image == place * self.places

    def as_rows(self) -> "Positions":
        """Return the same positions as images of one place; only for rows."""
        _, channel, place = self.view.stride()
        if self.places == 1:
            return self
        size, stride = (self.n, self.channels, 1), (place, channel, 1)
        return Positions(torch.as_strided(self.view, size, stride))
