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
from .row_sums import moments_about, row_sums
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
    near: tuple[Tensor, Tensor] | None = None,
    out: Tensor | None = None,
) -> PairedSums:
    """Return the moments of `a` and `b` and their sums of products in float64.

    `precision` changes nothing here, as a CPU has no tf32; see `ops.paired_moments`.
    """
    views = channel_view(a, channel_dim), channel_view(b, channel_dim)
    dtype = sum_dtype(a)
    if not cross:
        sums_a, sums_b = (moments_of(view, dtype) for view in views)
        return PairedSums(*sums_a, *sums_b, None)
    totals = _empty_totals(views, cross == "diagonal", joint, out)
    moments = None
    if near is not None and a.numel() and b.numel():
        moments = _about_guesses(views, [guess.to(dtype) for guess in near], totals)
    if moments is None:
        moments = [moments_of(view, dtype) for view in views]
        _about_means(views, moments, dtype, totals)
    sums_a, sums_b = moments
    between, *within = totals.values()
    if cross == "diagonal":
        return PairedSums(*sums_a, *sums_b, None, between)
    within = [matrix.triu() + matrix.triu(1).t() for matrix in within]  # symmetric to the bit
    return PairedSums(*sums_a, *sums_b, between, None, *within)


def _empty_totals(
    views: tuple[Tensor, Tensor], diagonal: bool, joint: bool, out: Tensor | None
) -> Totals:
    """Return memory for all the sums of products."""
    c = [view.shape[1] for view in views]
    shapes = {(0, 1): c[:1] if diagonal else c}
    if joint:
        shapes |= {(0, 0): [c[0], c[0]], (1, 1): [c[1], c[1]]}
    new = {
        pair: torch.empty(shape, dtype=torch.float64, device=views[0].device)
        for pair, shape in shapes.items()
        if pair != (0, 1) or diagonal or out is None
    }
    return new if out is None or diagonal else {(0, 1): out, **new}


def _about_guesses(
    views: tuple[Tensor, Tensor], pivots: list[Tensor], totals: Totals
) -> list[ChannelSums] | None:
    """Sum up in one pass, moments included; None if a guess was far from the mean."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    _sum_products(views, pivots, totals, parts)
    n = views[0].shape[0] * views[0].shape[2]
    found = [moments_about(p, rows, n) for p, rows in zip(pivots, parts, strict=True)]
    moments = [sums for sums, _ in found]
    _take_off_rest(totals, moments, pivots, n)
    return moments if all(is_near for _, is_near in found) else None


def _about_means(
    views: tuple[Tensor, Tensor], moments: list[ChannelSums], dtype: torch.dtype, totals: Totals
) -> None:
    """Sum up products of deviations from the means that are known."""
    if not all(bool((sums.m2 < torch.finfo(dtype).max).all()) for sums in moments):
        dtype = torch.float64  # products beyond float32
    pivots = [sums.mean.to(dtype) for sums in moments]
    _sum_products(views, pivots, totals)
    _take_off_rest(totals, moments, pivots, views[0].shape[0] * views[0].shape[2])


def _sum_products(
    views: tuple[Tensor, Tensor],
    pivots: list[Tensor],
    totals: Totals,
    parts: tuple[list[Tensor], list[Tensor]] | None = None,
) -> None:
    """Write sums of products of deviations, and append their row sums to `parts`."""
    width = max(len(pivot) for pivot in pivots)
    pieces = zip(*(chunks(view, width) for view in views), strict=True)
    for number, piece in enumerate(pieces):
        deviations = [centred(*one) for one in zip(piece, pivots, "ab", strict=True)]
        if parts is not None:
            for rows, matrix in zip(parts, deviations, strict=True):
                rows.append(row_sums(matrix[None]))
        for (i, j), total in totals.items():
            add = add_sums_of_products if total.dim() == 1 else add_products
            add(total, deviations[i], deviations[j], number == 0)


def _take_off_rest(
    totals: Totals, moments: list[ChannelSums], pivots: list[Tensor], n: int
) -> None:
    """Turn sums about the pivots into sums about the means: − n (mean − pivot) (mean − pivot)ᵀ."""
    rests = [sums.mean - pivot for sums, pivot in zip(moments, pivots, strict=True)]
    for (i, j), total in totals.items():
        if total.dim() == 1:
            total.addcmul_(rests[i], rests[j], value=-n)
        else:
            total.addr_(rests[i], rests[j], alpha=-n)
