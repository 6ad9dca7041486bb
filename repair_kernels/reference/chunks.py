"""Activations cut into centred (channels, positions) matrices that stay in the cache.

The work form of every moment in this folder: subtract a pivot near the mean, sum products of what
is left over a bounded number of positions in float32, and add these sums up in float64. So no
large offset is ever squared, and no float64 copy of an activation is ever made.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

Cut = tuple[slice, slice]

# Positions in one chunk: few enough that float32 sums stay exact to 1e-6, and that the chunk
# stays in the cache; enough that a product pays for adding its c_a * c_b results up.
MAX_POSITIONS = 16384
MIN_POSITIONS = 1024
MAX_VALUES = 1 << 19


def channel_view(x: Tensor, channel_dim: int) -> Tensor:
    """View `x` as (images, channels, places); copy only if no strides can express that view."""
    channel_dim %= x.dim()
    before, after = x.shape[:channel_dim], x.shape[channel_dim + 1 :]
    return x.reshape(before.numel(), x.shape[channel_dim], after.numel())


def sum_dtype(x: Tensor) -> torch.dtype:
    """Return the precision in which chunks of `x` are centred and multiplied."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def cuts(images: int, channels: int, places: int) -> Iterator[Cut]:
    """Yield (image slice, place slice) that cut all positions into chunks of bounded size."""
    positions = min(MAX_POSITIONS, max(MIN_POSITIONS, MAX_VALUES // max(channels, 1)))
    step_images = max(1, positions // max(places, 1))
    step_places = min(max(places, 1), positions)
    for image in range(0, images, step_images):
        for place in range(0, places, step_places):
            yield slice(image, image + step_images), slice(place, place + step_places)


def pivot(view: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the mean of each channel up to rounding, in the precision of the chunks."""
    return view.sum(dim=(0, 2), dtype=dtype) / (view.shape[0] * view.shape[2])


def centred(view: Tensor, cut: Cut, pivot: Tensor) -> Tensor:
    """Return one chunk minus `pivot` as a (channels, positions) matrix."""
    chunk = view[cut[0], :, cut[1]]
    images, channels, places = chunk.shape
    if chunk.stride(1) == 1:  # channels last: the matrix stays transposed in memory
        rows = pivot.new_empty(images, places, channels)
        torch.sub(chunk.permute(0, 2, 1), pivot, out=rows)
        return rows.view(images * places, channels).t()
    columns = pivot.new_empty(channels, images, places)
    torch.sub(chunk.transpose(0, 1), pivot[:, None, None], out=columns)
    return columns.view(channels, images * places)
