"""Sums of deviations from a pivot, row by row in float32, and what they make of mean and m2.

    mean = pivot + Σ d / n          m2 = Σ d² − (Σ d)² / n          d = x − pivot

A pivot within two standard deviations of the mean is near enough: what is taken off in the end
then costs few digits.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .scratch import scratch
from .sums import ChannelSums

# Σ d² of a channel may be at most this many times m2.
MAX_SQUARES = 5.0

RowSums = tuple[Tensor, Tensor]


def row_sums(deviations: Tensor) -> RowSums:
    """Return Σ d and (Σ d²)^½ of the rows of (rows, channels, places), each (rows, channels)."""
    if deviations.stride(2) == 1:
        return torch.sum(deviations, dim=2), torch.linalg.vector_norm(deviations, dim=2)
    # Across memory, where PyTorch's norm is slow: one row for all.
    across = deviations.transpose(1, 2)
    squares = torch.square(across, out=scratch("squares", across.shape, across))
    return across.sum(dim=(0, 1))[None], squares.sum(dim=(0, 1)).sqrt_()[None]


def moments_about(
    pivot: Tensor | None, parts: Sequence[RowSums], n: int
) -> tuple[ChannelSums, bool]:
    """Return the moments that the row sums of n positions give, and whether the pivot was near.

    In NumPy: these are a few numbers for each tap and batch, and every operation of PyTorch hands
    the interpreter to the other network's thread and waits to have it back.
    """
    with np.errstate(all="ignore"):  # what is not finite is found later, and named
        total = sum(sums.cpu().numpy().sum(axis=0, dtype=np.float64) for sums, _ in parts)
        squares = sum(
            np.square(norms.cpu().numpy(), dtype=np.float64).sum(axis=0) for _, norms in parts
        )
        rest = np.asarray(total / n)
        m2 = squares - total * rest
        is_near = bool((squares <= MAX_SQUARES * m2).all())
        mean = rest if pivot is None else rest + pivot.cpu().numpy()
    device = parts[0][0].device
    moments = ChannelSums(torch.from_numpy(mean).to(device), torch.from_numpy(m2).to(device))
    return moments, is_near
