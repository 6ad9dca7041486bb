"""Mean and sum of squared deviations of every channel.

    mean[i] = Σ_n x[n, i] / n          m2[i] = Σ_n (x[n, i] − mean[i])²

Kernel: `kernels/channel_moments.py`.
"""

import torch
from torch import Tensor

from .chunks import blocks, channel_view, deviations, sum_dtype
from .row_sums import MAX_SQUARES, moments_about, row_sums
from .sums import ChannelSums

# The pivot is the mean of about so many positions, evenly spread, unless 0 is near it.
GLANCE_POSITIONS = 128
GLANCE_PLACES = 16


def channel_moments(x: Tensor, *, channel_dim: int = 1) -> ChannelSums:
    """Return the mean and m2 of every channel of `x` in float64; see `ops.channel_moments`."""
    return moments_of(channel_view(x, channel_dim), sum_dtype(x))


def moments_of(view: Tensor, dtype: torch.dtype) -> ChannelSums:
    """Return the moments of an activation seen as (images, channels, places), from one pass.

    The pivot is the mean of a few positions, or 0 where that is near: then the activation is read
    in place. Should it prove to be far from the mean, a second pass takes the mean itself. Nothing
    is remembered of earlier batches: the same batch has the same bits in whatever process.
    """
    if view.numel() == 0:
        return ChannelSums(*view.new_zeros(2, view.shape[1], dtype=torch.float64))
    moments, is_near = _about(_guess(view, dtype), view, dtype)
    if is_near:
        return moments
    # A square beyond float32: only float64 tells a large value from an infinite one.
    if not bool(moments.m2.isfinite().all()):
        dtype = torch.float64
        moments, _ = _about(None, view, dtype)
    moments, _ = _about(moments.mean.to(dtype), view, dtype)
    return ChannelSums(moments.mean, moments.m2.clamp_min_(0))


def _guess(view: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return a guess of the mean of each channel; None if 0 is a good one for all."""
    n_places = min(view.shape[2], GLANCE_PLACES)
    n_images = min(view.shape[0], GLANCE_POSITIONS // n_places)
    # An odd stride meets all columns of images whose width is even, not just the border.
    glance = view[:: view.shape[0] // n_images, :, :: view.shape[2] // n_places | 1].to(dtype)
    mean, squares = glance.mean(dim=(0, 2)), glance.square().mean(dim=(0, 2))
    return None if bool((squares <= MAX_SQUARES * (squares - mean * mean)).all()) else mean


def _about(pivot: Tensor | None, view: Tensor, dtype: torch.dtype) -> tuple[ChannelSums, bool]:
    """Return the moments that sums about a pivot give, and whether it was near enough."""
    if pivot is None:
        parts = [row_sums(block.to(dtype)) for block in blocks(view)]
    else:
        parts = [row_sums(deviations(block, pivot)) for block in blocks(view)]
    return moments_about(pivot, parts, view.shape[0] * view.shape[2])
