"""Moments of two networks at one tap, and the sums of products between and within them.

    cross[i, j] = Σ_n (a[n, i] − mean_a[i]) · (b[n, j] − mean_b[j])

Kernel: `kernels/paired_moments.py`.
"""

from typing import Literal

import torch
from torch import Tensor

from .channel_moments import moments_of
from .chunks import centred, channel_view, chunks, sum_dtype
from .products import add_products, add_sums_of_products
from .sums import ChannelSums, PairedSums

Totals = dict[tuple[int, int], Tensor]
"""Sums of products by the networks that they are of, 0 for a and 1 for b."""


def paired_moments(
    a: Tensor,
    b: Tensor,
    *,
    channel_dim: int = 1,
    cross: bool | Literal["diagonal"] = True,
    joint: bool = False,
    precision: str = "tf32x3",
    moments: tuple[ChannelSums, ChannelSums] | None = None,
    onto: Tensor | None = None,
) -> PairedSums:
    """Return the moments of `a` and `b` and their sums of products in float64.

    Here the moments come first and products are of deviations from the means: values are read
    twice, the second time from the cache if they fit. `precision` changes nothing, as a CPU has no
    tf32; see `ops.paired_moments`.
    """
    views = channel_view(a, channel_dim), channel_view(b, channel_dim)
    dtype = sum_dtype(a)
    sums_a, sums_b = moments or (moments_of(view, dtype) for view in views)
    if not cross:
        return PairedSums(*sums_a, *sums_b, None)
    totals = _zero_totals(views, cross == "diagonal", joint)
    if onto is not None:
        totals[0, 1] = onto
    _add_products(views, (sums_a, sums_b), dtype, totals)
    between, *within = totals.values()
    if cross == "diagonal":
        return PairedSums(*sums_a, *sums_b, None, between)
    within = [matrix.triu() + matrix.triu(1).t() for matrix in within]  # symmetric to the bit
    return PairedSums(*sums_a, *sums_b, between, None, *within)


def _zero_totals(views: tuple[Tensor, Tensor], diagonal: bool, joint: bool) -> Totals:
    """Return memory for all the sums of products."""
    c_a, c_b = (view.shape[1] for view in views)
    shapes: dict[tuple[int, int], tuple[int, ...]] = {(0, 1): (c_a,) if diagonal else (c_a, c_b)}
    if joint:
        shapes |= {(0, 0): (c_a, c_a), (1, 1): (c_b, c_b)}
    new = {"dtype": torch.float64, "device": views[0].device}
    return {pair: torch.zeros(shape, **new) for pair, shape in shapes.items()}


def _add_products(
    views: tuple[Tensor, Tensor],
    moments: tuple[ChannelSums, ChannelSums],
    dtype: torch.dtype,
    totals: Totals,
) -> None:
    """Add the sums of products of deviations from the means as rounded to `dtype`, and correct.

    With r = mean − rounded mean, Σ (x − mean) (y − mean) = Σ d_x d_y − n r_x r_y.
    """
    if not all(bool((sums.m2 < torch.finfo(dtype).max).all()) for sums in moments):
        dtype = torch.float64  # products beyond float32
    pivots = [sums.mean.to(dtype) for sums in moments]
    width = max(len(pivot) for pivot in pivots)
    pieces = zip(*(chunks(view, width) for view in views), strict=True)
    for piece in pieces:
        deviations = [centred(*one) for one in zip(piece, pivots, "ab", strict=True)]
        for (i, j), total in totals.items():
            add = add_sums_of_products if total.dim() == 1 else add_products
            add(total, deviations[i], deviations[j])
    n = views[0].shape[0] * views[0].shape[2]
    rests = [sums.mean - pivot for sums, pivot in zip(moments, pivots, strict=True)]
    for (i, j), total in totals.items():
        if total.dim() == 1:
            total.addcmul_(rests[i], rests[j], value=-n)
        else:
            total.addr_(rests[i], rests[j], alpha=-n)
