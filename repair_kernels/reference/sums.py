"""What the moment ops return: centred sums in float64, which Chan's rule can merge."""

from typing import NamedTuple

from torch import Tensor


class ChannelSums(NamedTuple):
    """Per channel: the mean, and the sum of squared deviations from it; float64, shape (c,)."""

    mean: Tensor
    m2: Tensor


class PairedSums(NamedTuple):
    """The sums of two networks at one tap, and between them; float64, None if not asked for.

    cross[i, j]    = Σ_n (a[n, i] − mean_a[i]) · (b[n, j] − mean_b[j])      (c_a, c_b)
    diagonal[i]    = cross[i, i], of channels that are paired already      (c,)
    within_a[i, j] = Σ_n (a[n, i] − mean_a[i]) · (a[n, j] − mean_a[j])      (c_a, c_a)

    `within_b` likewise. Both are exactly symmetric, and their diagonals are `m2_a` and `m2_b` up to
    rounding.
    """

    mean_a: Tensor
    m2_a: Tensor
    mean_b: Tensor
    m2_b: Tensor
    cross: Tensor | None
    diagonal: Tensor | None = None
    within_a: Tensor | None = None
    within_b: Tensor | None = None
