"""Moments of two networks at one tap, and the products of deviations between all their channels.

    cross[i, j] = Σ_n (a[n, i] − mean_a[i]) · (b[n, j] − mean_b[j])

Kernel: `kernels/paired_moments.py`.
"""

import torch
from torch import Tensor

from .channel_moments import channel_moments
from .chunks import centred, channel_view, chunks, pivot
from .sums import PairedSums


def paired_moments(
    a: Tensor, b: Tensor, *, channel_dim: int = 1, cross: bool = True, precision: str = "tf32x3"
) -> PairedSums:
    """Return the moments of `a` and `b` and their cross sums in float64; see `ops.paired_moments`.

    A CPU has no tf32: every `precision` multiplies in the input's own precision, 16-bit inputs in float32.
    """
    if not cross:
        return PairedSums(
            *channel_moments(a, channel_dim=channel_dim),
            *channel_moments(b, channel_dim=channel_dim),
            None,
        )
    view_a, view_b = channel_view(a, channel_dim), channel_view(b, channel_dim)
    images, c_a, places = view_a.shape
    c_b = view_b.shape[1]
    n = images * places
    new = {"dtype": torch.float64, "device": a.device}
    total_a, squares_a = torch.zeros(c_a, **new), torch.zeros(c_a, **new)
    total_b, squares_b = torch.zeros(c_b, **new), torch.zeros(c_b, **new)
    products = torch.zeros(c_a, c_b, **new)
    if n == 0:
        return PairedSums(total_a, squares_a, total_b, squares_b, products)
    centre_a, centre_b = pivot(view_a), pivot(view_b)
    for cut in chunks(images, max(c_a, c_b), places):
        deviation_a, deviation_b = centred(view_a, cut, centre_a), centred(view_b, cut, centre_b)
        total_a += deviation_a.sum(dim=1)
        total_b += deviation_b.sum(dim=1)
        squares_a += torch.linalg.vector_norm(deviation_a, dim=1).double().square()
        squares_b += torch.linalg.vector_norm(deviation_b, dim=1).double().square()
        products += deviation_a @ deviation_b.t()
    return PairedSums(
        centre_a.double() + total_a / n,
        (squares_a - total_a.square() / n).clamp_min(0),
        centre_b.double() + total_b / n,
        (squares_b - total_b.square() / n).clamp_min(0),
        products - torch.outer(total_a, total_b) / n,
    )
