"""Moments of two networks at one tap, and the cross sums between all their channels.

    cross[i, j] = Σ_n (a[n, i] − mean_a[i]) · (b[n, j] − mean_b[j])

Kernel: `kernels/paired_moments.py`.
"""

import torch
from torch import Tensor

from .channel_moments import channel_moments
from .chunks import centred, channel_view, cuts, pivot, sum_dtype
from .sums import PairedSums


def paired_moments(
    a: Tensor, b: Tensor, *, channel_dim: int = 1, cross: bool = True, precision: str = "tf32x3"
) -> PairedSums:
    """Return the moments of `a` and `b` and their cross sums in float64.

    `precision` changes nothing here, as a CPU has no tf32; see `ops.paired_moments`.
    """
    if not cross:
        sums_a = channel_moments(a, channel_dim=channel_dim)
        sums_b = channel_moments(b, channel_dim=channel_dim)
        return PairedSums(*sums_a, *sums_b, None)
    view_a, view_b = channel_view(a, channel_dim), channel_view(b, channel_dim)
    sums = _paired_sums(view_a, view_b, sum_dtype(a))
    # A square beyond float32: only float64 tells a large value from an infinite one.
    finite = sums.m2_a.isfinite().all() and sums.m2_b.isfinite().all()
    return sums if finite else _paired_sums(view_a, view_b, torch.float64)


def _paired_sums(view_a: Tensor, view_b: Tensor, dtype: torch.dtype) -> PairedSums:
    images, c_a, places = view_a.shape
    c_b = view_b.shape[1]
    n = images * places
    total_a = torch.zeros(c_a, dtype=torch.float64, device=view_a.device)
    total_b = total_a.new_zeros(c_b)
    squares_a, squares_b = torch.zeros_like(total_a), torch.zeros_like(total_b)
    cross = total_a.new_zeros(c_a, c_b)
    if n == 0:
        return PairedSums(total_a, squares_a, total_b, squares_b, cross)
    centre_a, centre_b = pivot(view_a, dtype), pivot(view_b, dtype)
    for cut in cuts(images, max(c_a, c_b), places):
        deviation_a = centred(view_a, cut, centre_a)
        deviation_b = centred(view_b, cut, centre_b)
        total_a += deviation_a.sum(dim=1)
        total_b += deviation_b.sum(dim=1)
        squares_a += deviation_a.square().sum(dim=1)
        squares_b += deviation_b.square().sum(dim=1)
        cross += deviation_a @ deviation_b.t()
    return PairedSums(
        centre_a.double() + total_a / n,
        (squares_a - total_a.square() / n).clamp_min_(0),
        centre_b.double() + total_b / n,
        (squares_b - total_b.square() / n).clamp_min_(0),
        cross.addr_(total_a, total_b, alpha=-1 / n),
    )
