"""What the moment ops return: centred sums in float64, which Chan's rule can merge."""

from typing import NamedTuple

from torch import Tensor


class ChannelSums(NamedTuple):
    """Per channel: the mean, and the sum of squared deviations from it; float64, shape (c,)."""

    mean: Tensor
    m2: Tensor


class PairedSums(NamedTuple):
    """The sums of two networks at one tap, and between them.

    cross[i, j] = Σ_n (a[n, i] − mean_a[i]) · (b[n, j] − mean_b[j]), float64, shape (c_a, c_b);
    None if it was not asked for
    """

    mean_a: Tensor
    m2_a: Tensor
    mean_b: Tensor
    m2_b: Tensor
    cross: Tensor | None
