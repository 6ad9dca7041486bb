"""Moments of one network's channels at one tap, and the rule that tells which are dead."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from repair_kernels.moments.totals import (
    Indices,
    as_total,
    between,
    check_count,
    check_mergeable,
    check_vectors,
    checked_indices,
    merge_means_,
    require_samples,
)
from repair_kernels.ops import ChannelSums

# A channel that spans fewer steps of float32 at its magnitude carries rounding, not signal.
DEAD_STEPS = 16
FLOAT32_EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True, eq=False, repr=False)
class ChannelMoments:
    """Mean and variance of every channel of one network at one tap.

    Args:
        n_samples: images x positions that were seen
        mean: mean of each channel
        m2: sum of squared deviations of each channel

    Example:
        >>> x = torch.tensor([[1.0, 5.0], [3.0, 5.0]], dtype=torch.float64)
        >>> moments = ChannelMoments(2, x.mean(0), (x - x.mean(0)).square().sum(0))
        >>> moments.std.tolist(), moments.dead.tolist()
        ([1.0, 0.0], [False, True])
    """

    n_samples: int
    mean: Float64[Tensor, " c"]
    m2: Float64[Tensor, " c"]

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples)
        check_vectors(mean=self.mean, m2=self.m2)

    @classmethod
    def empty(cls, c: int, device: torch.device | str = "cpu") -> ChannelMoments:
        """Return the moments of no samples: merged with others, they change nothing."""
        zeros = torch.zeros(c, dtype=torch.float64, device=device)
        return cls(0, zeros, zeros)

    @classmethod
    def from_sums(cls, n_samples: int, sums: ChannelSums) -> ChannelMoments:
        """Take over what `ops.channel_moments` returned for `n_samples` samples."""
        return cls(n_samples, as_total(sums.mean), as_total(sums.m2))

    @property
    def var(self) -> Float64[Tensor, " c"]:
        """Population variance, m2 / n; of no samples, a `CalibrationDataError`."""
        return self.m2 / require_samples(self.n_samples)

    @property
    def std(self) -> Float64[Tensor, " c"]:
        """Population standard deviation, sqrt(m2 / n)."""
        return self.var.sqrt()

    @property
    def dead(self) -> Bool[Tensor, " c"]:
        """Tell which channels vary by no more than rounding, so that correlations would be noise.

            dead = std <= 16 eps max(sqrt(mean² + var), largest std of the layer),  eps = 2^-23

        The rule is relative: a layer whose activations are all tiny is alive. eps is float32's
        whatever the activations' dtype, since sums of 16-bit activations are float32's too.
        Without samples every channel is dead.
        """
        var = self.m2 / max(self.n_samples, 1)
        std = var.sqrt()
        if std.numel() == 0:
            return torch.zeros_like(std, dtype=torch.bool)
        scale = torch.maximum((self.mean.square() + var).sqrt(), std.max())
        return ~(std > DEAD_STEPS * FLOAT32_EPS * scale)

    def merge(self, other: ChannelMoments) -> ChannelMoments:
        """Return the moments of both sets of samples together; nothing waits for the device."""
        check_mergeable("mean", self.mean, other.mean)
        if other.n_samples == 0 or self.n_samples == 0:
            return self if other.n_samples == 0 else other
        return merge_(self.clone(), other)

    def permuted(self, indices: Indices) -> ChannelMoments:
        """Reorder the channels: channel i of the result is channel `indices[i]` of this one."""
        gather = checked_indices(indices, self.mean)
        return ChannelMoments(self.n_samples, self.mean[gather], self.m2[gather])

    def to(self, device: torch.device | str) -> ChannelMoments:
        """Return the same moments on another device."""
        return ChannelMoments(self.n_samples, self.mean.to(device), self.m2.to(device))

    def clone(self) -> ChannelMoments:
        """Return the same moments in memory of their own."""
        return ChannelMoments(self.n_samples, self.mean.clone(), self.m2.clone())

    def __repr__(self) -> str:
        return (
            f"ChannelMoments(n_samples={self.n_samples:,}, c={self.mean.numel()}, "
            f"device={self.mean.device})"
        )


def merge_(total: ChannelMoments, other: ChannelMoments) -> ChannelMoments:
    """Merge `other` into the memory of `total`, which must be the caller's own; return the sum."""
    check_mergeable("mean", total.mean, other.mean)
    if other.n_samples == 0:
        return total
    n_1, n_2 = total.n_samples, other.n_samples
    delta = merge_means_(total.mean, n_1, other.mean, n_2)
    total.m2.add_(other.m2).addcmul_(delta, delta, value=between(n_1, n_2))
    return ChannelMoments(n_1 + n_2, total.mean, total.m2)


def correlations(products: Tensor, rows: ChannelMoments, columns: ChannelMoments) -> Tensor:
    """Divide sums of products of deviations by the roots of both channels' `m2`.

    Args:
        products: one per pair of a row's and a column's channel, or a vector: one per index
    Returns:
        values in [-1, 1], 0 where a channel is dead
    """
    require_samples(rows.n_samples)
    left, right = (torch.where(m.dead, 0.0, m.m2.rsqrt()) for m in (rows, columns))
    if products.dim() == 2:
        left = left[:, None]
    return products.mul(left).mul_(right).clamp_(-1, 1)
