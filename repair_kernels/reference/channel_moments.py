"""Mean and sum of squared deviations of every channel.

    mean[i] = Σ_n x[n, i] / n          m2[i] = Σ_n (x[n, i] − mean[i])²

Kernel: `kernels/channel_moments.py`.
"""

import torch
from torch import Tensor

from .chunks import centred, channel_view, cuts, pivot, sum_dtype
from .sums import ChannelSums


def channel_moments(x: Tensor, *, channel_dim: int = 1) -> ChannelSums:
    """Return the mean and m2 of every channel of `x` in float64; see `ops.channel_moments`."""
    view = channel_view(x, channel_dim)
    sums = _channel_sums(view, sum_dtype(x))
    # A square beyond float32: only float64 tells a large value from an infinite one.
    return sums if sums.m2.isfinite().all() else _channel_sums(view, torch.float64)


def _channel_sums(view: Tensor, dtype: torch.dtype) -> ChannelSums:
    images, channels, places = view.shape
    n = images * places
    total = torch.zeros(channels, dtype=torch.float64, device=view.device)
    squares = torch.zeros_like(total)
    if n == 0:
        return ChannelSums(total, squares)
    centre = pivot(view, dtype)
    for cut in cuts(*view.shape):
        deviation = centred(view, cut, centre)
        total += deviation.sum(dim=1)
        squares += deviation.square().sum(dim=1)
    m2 = squares - total.square() / n
    return ChannelSums(centre.double() + total / n, m2.clamp_min_(0))
