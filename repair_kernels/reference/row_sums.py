"""Sums of deviations from a pivot, row by row in float32, and what they make of mean and m2.

    mean = pivot + Σ d / n          m2 = Σ d² − (Σ d)² / n          d = x − pivot

A pivot within two standard deviations of the mean is near enough: what is taken off in the end
then costs few digits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .scratch import scratch
from .sums import ChannelSums

# Σ d² of a channel may be at most this many times m2.
MAX_SQUARES = 5.0


def row_sums(deviations: Tensor) -> Tensor:
    """Return Σ d and (Σ d²)^½ of the rows of (rows, channels, places), as (2, rows, channels)."""
    rows, channels, _ = deviations.shape
    if deviations.stride(2) != 1:  # across memory, where PyTorch's norm is slow: one row for all
        across = deviations.transpose(1, 2)
        found = deviations.new_empty(2, 1, channels)
        torch.sum(across, dim=(0, 1), out=found[0, 0])
        squares = torch.square(across, out=scratch("squares", across.shape, across))
        torch.sum(squares, dim=(0, 1), out=found[1, 0]).sqrt_()
        return found
    found = deviations.new_empty(2, rows, channels)
    torch.sum(deviations, dim=2, out=found[0])
    torch.linalg.vector_norm(deviations, dim=2, out=found[1])
    return found


def moments_about(
    pivot: Tensor | None, parts: Sequence[Tensor], n: int
) -> tuple[ChannelSums, bool]:
    """Return the moments that the row sums of n positions give, and whether the pivot was near.

    Each operation here costs more than its arithmetic, once per tap and batch: hence so few.
    """
    rows = (parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)).double()
    rows[1].square_()
    total, squares = rows.sum(dim=1)
    rest = total / n
    m2 = torch.addcmul(squares, total, rest, value=-1)
    is_near = float(torch.sub(squares, m2, alpha=MAX_SQUARES).max()) <= 0
    return ChannelSums(rest if pivot is None else rest + pivot, m2), is_near
