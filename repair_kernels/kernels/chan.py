"""Chan's rule: merge the centred sums of one split into the moments of all splits before it.

    delta = mean_split − mean
    mean ← mean + delta · held / (before + held)
    m2   ← m2 + m2_split + delta² · before · held / (before + held)

Splits store, for each channel, a pivot and Σ (x − pivot), Σ (x − pivot)²; all here is float64.
Source: Chan, Golub, LeVeque (1983), Algorithms for computing the sample variance.
"""

import triton
import triton.language as tl


@triton.jit
def merge(vectors_ptr, offs, size, mask, before, held, mean, m2):
    """Return the new mean and m2, and of this split delta and Σ (x - pivot)."""
    pivot = tl.load(vectors_ptr + offs, mask=mask, other=0.0)
    total = tl.load(vectors_ptr + size + offs, mask=mask, other=0.0)
    squares = tl.load(vectors_ptr + 2 * size + offs, mask=mask, other=0.0)
    share = held / (before + held)
    delta = pivot + total / held - mean
    m2 += squares - total * total / held + delta * delta * before * share
    return mean + delta * share, m2, delta, total


@triton.jit
def store_moments(mean_ptr, m2_ptr, offs, mask, mean, m2):
    """Store the result; rounding can leave a constant channel under zero, NaN must stay NaN."""
    tl.store(mean_ptr + offs, mean, mask=mask)
    tl.store(m2_ptr + offs, tl.where(m2 < 0.0, 0.0, m2), mask=mask)
