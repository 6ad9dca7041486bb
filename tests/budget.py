"""How far a kernel may be from the truth: twice as far as the reference is, plus a floor.

    err(kernel, oracle) <= 2 · err(reference, oracle) + floor[dtype]

The floors are the only tolerances of the suite for kernels. Errors are relative to what the value
is made of: `sqrt(m2_a · m2_b)` for cross sums, `m2` for squares, the operands for an interpolation.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from . import oracles

# Moments: half of the promised 1e-6 for float32. 16-bit values are centred only where it is exact,
# so that up to 17 times their variance is summed (see `_pivot` in kernels/paired_moments.py).
MOMENT_FLOOR = {
    torch.float64: 1e-12,
    torch.float32: 5e-7,
    torch.float16: 8e-6,
    torch.bfloat16: 8e-6,
}
# One tf32 product: 10 bits of each factor, and no less for few positions.
TF32_FLOOR = 2e-3
# Interpolation: two units in the last place of the result's dtype (the interpreter truncates bf16).
LERP_FLOOR = {
    torch.float64: 2 * 2.0**-52,
    torch.float32: 2 * 2.0**-23,
    torch.float16: 2 * 2.0**-10,
    torch.bfloat16: 2 * 2.0**-7,
}


def error(
    value: torch.Tensor | NDArray[np.float64],
    truth: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> float:
    """Return the largest difference relative to `scale`; 0 where nothing is to be told apart."""
    values = value.detach().cpu().double().numpy() if isinstance(value, torch.Tensor) else value
    assert values.shape == truth.shape
    if truth.size == 0:
        return 0.0
    assert np.isfinite(values).all()
    difference = np.atleast_1d(np.abs(values - truth))
    return float(np.max(np.divide(difference, scale, out=difference, where=scale > 0)))


def within(
    kernel: torch.Tensor,
    reference: torch.Tensor,
    truth: NDArray[np.float64],
    scale: NDArray[np.float64],
    floor: float,
) -> None:
    """Assert that the kernel keeps to its budget."""
    allowed = 2 * error(reference, truth, scale) + floor
    assert error(kernel, truth, scale) <= allowed


def moments_within(
    kernel: tuple[torch.Tensor, torch.Tensor],
    reference: tuple[torch.Tensor, torch.Tensor],
    x: torch.Tensor,
    channel_dim: int,
) -> None:
    """Assert that the mean and m2 of `x` keep to their budget."""
    mean, m2 = oracles.channel_moments(x, channel_dim)
    n = x.numel() // max(x.shape[channel_dim], 1)
    floor = MOMENT_FLOOR[x.dtype]
    within(kernel[0], reference[0], mean, np.sqrt(m2 / max(n, 1)) + np.abs(mean), floor)
    within(kernel[1], reference[1], m2, _nonzero(m2, mean, n), floor)


def cross_within(
    kernel: torch.Tensor,
    reference: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    channel_dim: int,
    floor: float | None = None,
) -> None:
    """Assert that the cross sums of `a` and `b` keep to their budget."""
    n = a.numel() // max(a.shape[channel_dim], 1)
    mean_a, m2_a = oracles.channel_moments(a, channel_dim)
    mean_b, m2_b = oracles.channel_moments(b, channel_dim)
    scale = np.sqrt(np.outer(_nonzero(m2_a, mean_a, n), _nonzero(m2_b, mean_b, n)))
    truth = oracles.cross(a, b, channel_dim)
    within(kernel, reference, truth, scale, MOMENT_FLOOR[a.dtype] if floor is None else floor)


def _nonzero(m2: NDArray[np.float64], mean: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return m2, and for a constant channel what a rounding of its values would make of it."""
    return m2 + n * np.square(2.0**-23 * mean)
