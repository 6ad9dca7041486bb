"""Activations cut into centred (channel × position) matrices that stay in the cache.

The work form of every moment in this folder: subtract a pivot near the mean in the input's own precision, sum products of
what is left over a bounded number of positions, and add the sums up in float64. Then no large offset is ever squared and
no float64 copy of an activation is ever made.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# One chunk holds at most this many positions: bounds the error of one float32 sum.
MAX_POSITIONS = 16384
# And at most about this many values: what the second-level caches of two cores hold.
MAX_VALUES = 1 << 18
# With few positions a product of (c × k) by (k × c) cannot pay for adding its c² results up.
MIN_POSITIONS = 1024


def channel_view(x: Tensor, channel_dim: int) -> Tensor:
    """View `x` as (images, channels, places); copies only when no strides can express that view."""
    channel_dim %= x.dim()
    before, after = x.shape[:channel_dim], x.shape[channel_dim + 1 :]
    return x.reshape(before.numel(), x.shape[channel_dim], after.numel())


def chunks(images: int, channels: int, places: int) -> Iterator[tuple[slice, slice]]:
    """Yield (image slice, place slice) that cut all positions into pieces of bounded size."""
    positions = min(MAX_POSITIONS, max(MIN_POSITIONS, MAX_VALUES // max(channels, 1)))
    step_images = max(1, positions // max(places, 1))
    step_places = min(max(places, 1), positions)
    for first in range(0, images, step_images):
        for place in range(0, places, step_places):
            yield slice(first, first + step_images), slice(place, place + step_places)


def sum_dtype(x: Tensor) -> torch.dtype:
    """Return the precision in which chunks of `x` are centred and multiplied."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def pivot(view: Tensor) -> Tensor:
    """Return a value near the mean of each channel, rounded to the precision of the chunks."""
    n = view.shape[0] * view.shape[2]
    return view.sum(dim=(0, 2), dtype=sum_dtype(view)) / n


def centred(view: Tensor, cut: tuple[slice, slice], pivot: Tensor) -> Tensor:
    """Return one chunk minus `pivot` as a (channels, positions) matrix, in the memory order of `view`."""
    chunk = view[cut[0], :, cut[1]]
    if chunk.stride(1) == 1:
        rows = chunk.permute(0, 2, 1).to(pivot.dtype) - pivot
        return rows.reshape(-1, chunk.shape[1]).t()
    columns = chunk.transpose(0, 1).to(pivot.dtype) - pivot[:, None, None]
    return columns.reshape(chunk.shape[1], -1)
