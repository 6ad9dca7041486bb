"""Mean and sum of squared deviations of every channel.

    mean[i] = Σ_n x[n, i] / n          m2[i] = Σ_n (x[n, i] − mean[i])²

Kernel: `kernels/channel_moments.py`.
"""

import torch
from torch import Tensor

from .chunks import blocks, channel_view, deviations, sum_dtype
from .row_sums import MAX_SQUARES, moments_about, row_sums
from .sums import ChannelSums

# Positions that tell whether 0 will do for a pivot; else their mean does, most of the time.
GLANCE = 64


def channel_moments(x: Tensor, *, channel_dim: int = 1, near: Tensor | None = None) -> ChannelSums:
    """Return the mean and m2 of every channel of `x` in float64; see `ops.channel_moments`."""
    return moments_of(channel_view(x, channel_dim), sum_dtype(x), near)


def moments_of(view: Tensor, dtype: torch.dtype, near: Tensor | None = None) -> ChannelSums:
    """Return the moments of an activation seen as (images, channels, places), from one pass.

    The pivot is `near`, else the mean of a few positions, or 0 where that is near: then the
    activation is read in place. Should it prove to be far from the mean, a second pass takes the
    mean itself.
    """
    if view.numel() == 0:
        return ChannelSums(*view.new_zeros(2, view.shape[1], dtype=torch.float64))
    moments, is_near = _about(_guess(view, dtype) if near is None else near.to(dtype), view, dtype)
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
    glance = view[: max(1, GLANCE // view.shape[2]), :, :GLANCE].to(dtype)
    mean, squares = glance.mean(dim=(0, 2)), glance.square().mean(dim=(0, 2))
    return None if bool((squares <= MAX_SQUARES * (squares - mean * mean)).all()) else mean


def _about(pivot: Tensor | None, view: Tensor, dtype: torch.dtype) -> tuple[ChannelSums, bool]:
    """Return the moments that sums about a pivot give, and whether it was near enough."""
    if pivot is None:
        parts = [row_sums(block.to(dtype)) for block in blocks(view)]
    else:
        parts = [row_sums(deviations(block, pivot)) for block in blocks(view)]
    return moments_about(pivot, parts, view.shape[0] * view.shape[2])
