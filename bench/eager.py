"""What PyTorch users would write for the sums of two networks at one tap, in three forms.

    cross      cross sums of all channel pairs             (c_a, c_b)
    joint      the same, and those within each network     (c_a + c_b, c_a + c_b), in one matrix
    diagonal   of channels that are paired already         (c,)

Each function returns these sums; means and squared deviations, which all of them compute on the
way, come first.
"""

from __future__ import annotations

import torch
from torch import Tensor

Sums = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def rows(x: Tensor) -> Tensor:
    """Return activations as a float32 matrix with a row per position; a copy unless they lie so."""
    return x.movedim(1, -1).reshape(-1, x.shape[1]).float()


def two_pass(a: Tensor, b: Tensor, form: str = "cross") -> Sums:
    """Take means first, then centred copies and their product."""
    rows_a, rows_b = rows(a), rows(b)
    mean_a, mean_b = rows_a.mean(0), rows_b.mean(0)
    rows_a, rows_b = rows_a - mean_a, rows_b - mean_b
    moments = mean_a, rows_a.square().sum(0), mean_b, rows_b.square().sum(0)
    if form == "diagonal":
        return *moments, (rows_a * rows_b).sum(0)
    if form == "joint":
        both = torch.cat((rows_a, rows_b), 1)
        return *moments, both.t() @ both
    return *moments, rows_a.t() @ rows_b


def best(a: Tensor, b: Tensor, form: str = "cross") -> Sums:
    """Do the least that eager PyTorch can: one read for the moments, one to centre, one product.

    `var_mean` reads an activation once and copies nothing; the subtraction writes the matrix that
    the product wants (channels by positions from NCHW, without another transposition); and the
    square sums are the moments', not computed again.
    """
    (mean_a, m2_a), (mean_b, m2_b) = _moments(a), _moments(b)
    if form == "diagonal":
        shape = (1, -1, *[1] * (a.dim() - 2))
        product = torch.sub(a, mean_a.view(shape)).mul_(torch.sub(b, mean_b.view(shape)))
        return mean_a, m2_a, mean_b, m2_b, product.sum(_positions(a))
    x, y = _centred(a, mean_a), _centred(b, mean_b)
    if form == "joint":
        cross = x @ y.t()
        joint = torch.cat((torch.cat((x @ x.t(), cross), 1), torch.cat((cross.t(), y @ y.t()), 1)))
        return mean_a, m2_a, mean_b, m2_b, joint
    return mean_a, m2_a, mean_b, m2_b, x @ y.t()


def published(a: Tensor, b: Tensor, form: str = "cross") -> Sums:
    """Do as the published notebooks for one layer: raw second moments, then the means."""
    rows_a, rows_b = rows(a), rows(b)
    n = len(rows_a)
    mean_a, mean_b = rows_a.mean(0), rows_b.mean(0)
    m2_a, m2_b = rows_a.var(0, correction=0) * n, rows_b.var(0, correction=0) * n
    if form == "diagonal":
        return mean_a, m2_a, mean_b, m2_b, (rows_a * rows_b).sum(0) - n * mean_a * mean_b
    if form == "joint":
        both, means = torch.cat((rows_a, rows_b), 1), torch.cat((mean_a, mean_b))
        return mean_a, m2_a, mean_b, m2_b, both.t() @ both - n * torch.outer(means, means)
    return mean_a, m2_a, mean_b, m2_b, rows_a.t() @ rows_b - n * torch.outer(mean_a, mean_b)


def raw_16bit(a: Tensor, b: Tensor) -> Sums:
    """Multiply 16-bit values as they are with float32 sums (a GPU's `mm`), then take means off."""
    (mean_a, m2_a), (mean_b, m2_b) = _moments(a), _moments(b)
    x, y = (z.movedim(1, -1).reshape(-1, z.shape[1]) for z in (a, b))
    cross = torch.mm(x.t(), y, out_dtype=torch.float32)
    return mean_a, m2_a, mean_b, m2_b, cross - len(x) * torch.outer(mean_a, mean_b)


def covariance(a: Tensor, b: Tensor) -> Tensor:
    """Let `torch.cov` do it: the joint sums, without the moments."""
    both = torch.cat((rows(a), rows(b)), 1)
    return torch.cov(both.t(), correction=0) * len(both)


def _positions(x: Tensor) -> tuple[int, ...]:
    return tuple(dim for dim in range(x.dim()) if dim != 1)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x.float(), _positions(x), correction=0)
    return mean, var * (x.numel() // x.shape[1])


def _centred(x: Tensor, mean: Tensor) -> Tensor:
    """Return x − mean as a (channels, positions) matrix, float32, written once."""
    view = x.reshape(x.shape[0], x.shape[1], -1)
    if view.stride(1) == 1:  # rows and channels-last: positions by channels, seen transposed
        return (view.permute(0, 2, 1) - mean).flatten(0, 1).t()
    out = mean.new_empty(view.shape[1], view.shape[0], view.shape[2])
    torch.sub(view.transpose(0, 1), mean[:, None, None], out=out)
    return out.flatten(1)
