"""Chan's rule for all splits at once: sums about each split's own pivot become sums about the mean.

With s = pivot − pivot of the first split, h = positions, t = Σ (x − pivot) of each split:

    Σ (x − first) = Σ_splits t + h·s                          = n · (mean − first)
    Σ (x − first)·(y − first) = Σ_splits Σ (x − pivot_x)(y − pivot_y) + s_x·t_y + (t_x + h·s_x)·s_y
    cross = that − Σ (x − first) · Σ (y − first) / n

All in float64, and about the first pivot, so that a mean far from zero costs nothing. A sum over
splits instead of a chain of merges: programs take many splits at once, always in the same order.
Source: Chan, Golub, LeVeque (1983), Algorithms for computing the sample variance.
"""

import triton
import triton.language as tl


@triton.jit
def held_positions(offs_s, splits, split_size, n_samples):
    """Return how many positions each split holds, 0 beyond the last split; float64."""
    held = tl.minimum(n_samples - offs_s * split_size, split_size)
    return tl.where(offs_s < splits, held, 0).to(tl.float64)


@triton.jit
def load_split(vectors_ptr, offs, size, mask, first):
    """Return of each split and channel the shift s, Σ (x - pivot) and Σ (x - pivot)²."""
    pivot = tl.load(vectors_ptr + offs, mask=mask, other=0.0)
    total = tl.load(vectors_ptr + size + offs, mask=mask, other=0.0)
    squares = tl.load(vectors_ptr + 2 * size + offs, mask=mask, other=0.0)
    return tl.where(mask, pivot - first, 0.0), total, squares


@triton.jit
def store_moments(mean_ptr, m2_ptr, offs, mask, first, total, squares, n_samples):
    """Store mean and m2 from Σ (x - first) and Σ (x - first)²."""
    n = tl.cast(n_samples, tl.float64)
    m2 = squares - total * total / n
    tl.store(mean_ptr + offs, first + total / n, mask=mask)
    # Rounding can leave a constant channel under zero; NaN must stay NaN.
    tl.store(m2_ptr + offs, tl.where(m2 < 0.0, 0.0, m2), mask=mask)
