"""Mean and sum of squared deviations of every channel.

    mean[i] = Σ_n x[n, i] / n          m2[i] = Σ_n (x[n, i] − mean[i])²

Kernel: `kernels/channel_moments.py`.
"""

import torch
from torch import Tensor

from .chunks import centred, channel_view, chunks, pivot
from .sums import ChannelSums


def channel_moments(x: Tensor, *, channel_dim: int = 1) -> ChannelSums:
    """Return the mean and m2 of every channel of `x` in float64; see `ops.channel_moments`."""
    view = channel_view(x, channel_dim)
    images, channels, places = view.shape
    n = images * places
    total = torch.zeros(channels, dtype=torch.float64, device=x.device)
    squares = torch.zeros_like(total)
    if n == 0:
        return ChannelSums(total, squares)
    centre = pivot(view)
    for cut in chunks(images, channels, places):
        deviation = centred(view, cut, centre)
        total += deviation.sum(dim=1)
        squares += torch.linalg.vector_norm(deviation, dim=1).double().square()
    mean = centre.double() + total / n
    return ChannelSums(mean, (squares - total.square() / n).clamp_min(0))
