"""Means, variances and correlations of channels as values: merged exactly, never changed.

    m2    = Σ_n (x_n - mean)²                       var = m2 / n       std  = sqrt(var)
    cross = Σ_n (a_n - mean_a) (b_n - mean_b)ᵀ      cov = cross / n
    corr[i, j] = cross[i, j] / sqrt(m2_a[i] m2_b[j])

Totals are kept in float64. Two sets of samples are merged by Chan's rule, with `delta` the
difference of their means,

    mean = mean_1 + delta n_2 / n         m2 = m2_1 + m2_2 + delta² n_1 n_2 / n

and all sums of products likewise, with delta_a delta_bᵀ. So moments form a commutative monoid: any
split of the data gives the same result, and a ragged last batch weighs what it holds.

`channels.py` holds the moments of one network's channels, `pairs.py` those of two networks'
channels and between them, `totals.py` Chan's rule and the checks that both share.

Source: Chan, Golub, LeVeque (1979); REPAIR (Jordan et al., 2023), eqs. 2 to 5.
"""

from repair_kernels.moments.channels import DEAD_STEPS, FLOAT32_EPS, ChannelMoments
from repair_kernels.moments.pairs import PairedMoments
from repair_kernels.moments.totals import Indices

__all__ = ["DEAD_STEPS", "FLOAT32_EPS", "ChannelMoments", "Indices", "PairedMoments"]
