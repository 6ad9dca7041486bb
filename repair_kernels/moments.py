"""Means, variances and correlations of channels as values: merged exactly, never changed.

    m2    = Σ_n (x_n - mean)²                       var = m2 / n       std  = sqrt(var)
    cross = Σ_n (a_n - mean_a) (b_n - mean_b)ᵀ      cov = cross / n
    corr[i, j] = cross[i, j] / sqrt(m2_a[i] m2_b[j])

Totals are kept in float64. Two sets of samples are merged by Chan's rule, with `delta` the
difference of their means,

    mean = mean_1 + delta n_2 / n         m2 = m2_1 + m2_2 + delta² n_1 n_2 / n

and `cross` likewise, with delta_a delta_bᵀ. So moments form a commutative monoid: any split of
the data gives the same result, and a ragged last batch weighs what it holds.
`paired_stats.py` holds one `PairedMoments` per tap.

Source: Chan, Golub, LeVeque (1979); REPAIR (Jordan et al., 2023), eqs. 2 to 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from repair_kernels.errors import ArchitectureMismatchError, ArgumentError, CalibrationDataError

# A channel that spans fewer steps of float32 at its magnitude carries rounding, not signal.
DEAD_STEPS = 16
FLOAT32_EPS = torch.finfo(torch.float32).eps
INDEX_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

Indices = Tensor | np.ndarray | Sequence[int]


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
        _check_n_samples(self.n_samples)
        _check_vectors(mean=self.mean, m2=self.m2)

    @classmethod
    def empty(cls, c: int, device: torch.device | str = "cpu") -> ChannelMoments:
        """Return the moments of no samples: merged with others, they change nothing."""
        zeros = torch.zeros(c, dtype=torch.float64, device=device)
        return cls(0, zeros, zeros)

    @classmethod
    def from_sums(cls, n_samples: int, sums: _ChannelSums) -> ChannelMoments:
        """Take over what `ops.channel_moments` returned for `n_samples` samples."""
        return cls(n_samples, _as_total(sums.mean), _as_total(sums.m2))

    @property
    def var(self) -> Float64[Tensor, " c"]:
        """Population variance, m2 / n; of no samples, a `CalibrationDataError`."""
        return self.m2 / _require_samples(self.n_samples)

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
        _check_mergeable("mean", self.mean, other.mean)
        if other.n_samples == 0 or self.n_samples == 0:
            return self if other.n_samples == 0 else other
        mean, m2 = _chan(self.n_samples, self.mean, self.m2, other.n_samples, other.mean, other.m2)
        return ChannelMoments(self.n_samples + other.n_samples, mean, m2)

    def permuted(self, indices: Indices) -> ChannelMoments:
        """Reorder the channels: channel i of the result is channel `indices[i]` of this one."""
        gather = _checked_indices(indices, self.mean)
        return ChannelMoments(self.n_samples, self.mean[gather], self.m2[gather])

    def to(self, device: torch.device | str) -> ChannelMoments:
        """Return the same moments on another device."""
        return ChannelMoments(self.n_samples, self.mean.to(device), self.m2.to(device))

    def __repr__(self) -> str:
        return (
            f"ChannelMoments(n_samples={self.n_samples:,}, c={self.mean.numel()}, "
            f"device={self.mean.device})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class PairedMoments:
    """Means, variances and cross products of two networks' channels at one tap.

    Args:
        n_samples: images x positions that both networks saw
        mean_a, mean_b: mean of each channel
        m2_a, m2_b: sum of squared deviations of each channel
        cross: sums of products of deviations, a's channels x b's; None where not recorded

    Example:
        >>> a = torch.tensor([[1.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
        >>> d = a - a.mean(0)
        >>> half = PairedMoments(2, a.mean(0), (d * d).sum(0), a.mean(0), (d * d).sum(0), d.T @ d)
        >>> half.merge(half).n_samples, half.cov.tolist(), half.corr.round(decimals=6).tolist()
        (4, [[1.0, 2.0], [2.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]])
    """

    n_samples: int
    mean_a: Float64[Tensor, " c_a"]
    m2_a: Float64[Tensor, " c_a"]
    mean_b: Float64[Tensor, " c_b"]
    m2_b: Float64[Tensor, " c_b"]
    cross: Float64[Tensor, "c_a c_b"] | None = None

    def __post_init__(self) -> None:
        _check_n_samples(self.n_samples)
        _check_vectors(mean_a=self.mean_a, m2_a=self.m2_a)
        _check_vectors(mean_b=self.mean_b, m2_b=self.m2_b)
        expected = (self.mean_a.numel(), self.mean_b.numel())
        if self.cross is not None and (
            tuple(self.cross.shape) != expected or self.cross.dtype != torch.float64
        ):
            raise ArgumentError(
                f"`cross` must be a float64 tensor of shape {expected}, a's channels x b's; "
                f"got {self.cross.dtype} of shape {tuple(self.cross.shape)}."
            )

    @classmethod
    def empty(
        cls, c_a: int, c_b: int, *, cross: bool = True, device: torch.device | str = "cpu"
    ) -> PairedMoments:
        """Return the moments of no samples: merged with others, they change nothing."""
        a, b = ChannelMoments.empty(c_a, device), ChannelMoments.empty(c_b, device)
        zeros = torch.zeros(c_a, c_b, dtype=torch.float64, device=device) if cross else None
        return cls(0, a.mean, a.m2, b.mean, b.m2, zeros)

    @classmethod
    def from_sums(cls, n_samples: int, sums: _PairedSums) -> PairedMoments:
        """Take over what `ops.paired_moments` returned for `n_samples` samples."""
        mean_a, m2_a = _as_total(sums.mean_a), _as_total(sums.m2_a)
        mean_b, m2_b = _as_total(sums.mean_b), _as_total(sums.m2_b)
        cross = None if sums.cross is None else _as_total(sums.cross)
        return cls(n_samples, mean_a, m2_a, mean_b, m2_b, cross)

    @property
    def a(self) -> ChannelMoments:
        """Moments of network a alone."""
        return ChannelMoments(self.n_samples, self.mean_a, self.m2_a)

    @property
    def b(self) -> ChannelMoments:
        """Moments of network b alone."""
        return ChannelMoments(self.n_samples, self.mean_b, self.m2_b)

    @property
    def var_a(self) -> Float64[Tensor, " c_a"]:
        """Population variance of a's channels, m2_a / n."""
        return self.a.var

    @property
    def var_b(self) -> Float64[Tensor, " c_b"]:
        """Population variance of b's channels, m2_b / n."""
        return self.b.var

    @property
    def std_a(self) -> Float64[Tensor, " c_a"]:
        """Population standard deviation of a's channels."""
        return self.a.std

    @property
    def std_b(self) -> Float64[Tensor, " c_b"]:
        """Population standard deviation of b's channels."""
        return self.b.std

    @property
    def dead_a(self) -> Bool[Tensor, " c_a"]:
        """Channels of a that vary by no more than rounding: see `ChannelMoments.dead`."""
        return self.a.dead

    @property
    def dead_b(self) -> Bool[Tensor, " c_b"]:
        """Channels of b that vary by no more than rounding: see `ChannelMoments.dead`."""
        return self.b.dead

    @property
    def cov(self) -> Float64[Tensor, "c_a c_b"]:
        """Population covariance of every channel of a with every channel of b, cross / n."""
        return self._require_cross() / _require_samples(self.n_samples)

    @property
    def corr(self) -> Float64[Tensor, "c_a c_b"]:
        """Correlation of every channel of a with every channel of b, in [-1, 1].

            corr[i, j] = cross[i, j] / sqrt(m2_a[i] * m2_b[j])

        The rows and columns of dead channels are 0.
        """
        cross, _ = self._require_cross(), _require_samples(self.n_samples)
        return _normalised(cross, _inverse_root(self.a)[:, None], _inverse_root(self.b))

    @property
    def cov_diag(self) -> Float64[Tensor, " c"]:
        """Population covariance of channel i of a with channel i of b: the diagonal of `cov`."""
        return self._require_diagonal() / _require_samples(self.n_samples)

    @property
    def corr_diag(self) -> Float64[Tensor, " c"]:
        """Correlation of channel i of a with channel i of b: the diagonal of `corr`."""
        diagonal, _ = self._require_diagonal(), _require_samples(self.n_samples)
        return _normalised(diagonal, _inverse_root(self.a), _inverse_root(self.b))

    def merge(self, other: PairedMoments) -> PairedMoments:
        """Return the moments of both sets of samples together; nothing waits for the device."""
        _check_mergeable("mean_a", self.mean_a, other.mean_a)
        _check_mergeable("mean_b", self.mean_b, other.mean_b)
        if (self.cross is None) != (other.cross is None):
            raise ArgumentError(
                "both moments to merge must hold `cross`, or neither; got it in one only. "
                "Record both with the same `cross`."
            )
        if other.n_samples == 0 or self.n_samples == 0:
            return self if other.n_samples == 0 else other
        n_1, n_2 = self.n_samples, other.n_samples
        mean_a, m2_a = _chan(n_1, self.mean_a, self.m2_a, n_2, other.mean_a, other.m2_a)
        mean_b, m2_b = _chan(n_1, self.mean_b, self.m2_b, n_2, other.mean_b, other.m2_b)
        cross = None
        if self.cross is not None and other.cross is not None:
            delta_a, delta_b = other.mean_a - self.mean_a, other.mean_b - self.mean_b
            weight = n_1 * n_2 / (n_1 + n_2)
            cross = torch.addr(self.cross + other.cross, delta_a, delta_b, alpha=weight)
        return PairedMoments(n_1 + n_2, mean_a, m2_a, mean_b, m2_b, cross)

    def permuted_b(self, indices: Indices) -> PairedMoments:
        """Reorder b's channels: channel i of the result is channel `indices[i]` of this one."""
        gather = _checked_indices(indices, self.mean_b)
        cross = None if self.cross is None else self.cross[:, gather]
        return replace(self, mean_b=self.mean_b[gather], m2_b=self.m2_b[gather], cross=cross)

    def to(self, device: torch.device | str) -> PairedMoments:
        """Return the same moments on another device."""
        a, b = self.a.to(device), self.b.to(device)
        cross = None if self.cross is None else self.cross.to(device)
        return PairedMoments(self.n_samples, a.mean, a.m2, b.mean, b.m2, cross)

    def _require_cross(self) -> Tensor:
        if self.cross is None:
            raise ArgumentError(
                "`cov` and `corr` need the products of deviations, and this tap was recorded "
                "without them. Name the tap in `cross`, or give cross='all', when computing the "
                "statistics."
            )
        return self.cross

    def _require_diagonal(self) -> Tensor:
        cross = self._require_cross()
        if cross.shape[0] != cross.shape[1]:
            raise ArgumentError(
                f"a diagonal needs as many channels in a as in b; got {cross.shape[0]} and "
                f"{cross.shape[1]}. Use `cov` or `corr`."
            )
        return cross.diagonal()

    def __repr__(self) -> str:
        return (
            f"PairedMoments(n_samples={self.n_samples:,}, c_a={self.mean_a.numel()}, "
            f"c_b={self.mean_b.numel()}, cross={self.cross is not None}, "
            f"device={self.mean_a.device})"
        )


@runtime_checkable
class _ChannelSums(Protocol):
    @property
    def mean(self) -> Tensor: ...
    @property
    def m2(self) -> Tensor: ...


@runtime_checkable
class _PairedSums(Protocol):
    @property
    def mean_a(self) -> Tensor: ...
    @property
    def m2_a(self) -> Tensor: ...
    @property
    def mean_b(self) -> Tensor: ...
    @property
    def m2_b(self) -> Tensor: ...
    @property
    def cross(self) -> Tensor | None: ...


def _chan(
    n_1: int, mean_1: Tensor, m2_1: Tensor, n_2: int, mean_2: Tensor, m2_2: Tensor
) -> tuple[Tensor, Tensor]:
    n = n_1 + n_2
    delta = mean_2 - mean_1
    return mean_1 + delta * (n_2 / n), m2_1 + m2_2 + delta.square() * (n_1 * n_2 / n)


def _inverse_root(moments: ChannelMoments) -> Tensor:
    return torch.where(moments.dead, 0.0, moments.m2.rsqrt())


def _normalised(cross: Tensor, inverse_root_a: Tensor, inverse_root_b: Tensor) -> Tensor:
    return cross.mul(inverse_root_a).mul_(inverse_root_b).clamp_(-1, 1)


def _as_total(sums: Tensor) -> Tensor:
    return sums.detach().to(torch.float64)


def _require_samples(n_samples: int) -> int:
    if n_samples == 0:
        raise CalibrationDataError(
            "variance and correlation need at least one sample, and these moments hold none. "
            "Merge them with the moments of some data first."
        )
    return n_samples


def _check_n_samples(n_samples: int) -> None:
    if not isinstance(n_samples, int) or isinstance(n_samples, bool) or n_samples < 0:
        raise ArgumentError(f"`n_samples` must be an int of at least 0; got {n_samples!r}.")


def _check_vectors(**vectors: Tensor) -> None:
    length = next(iter(vectors.values())).numel()
    for name, vector in vectors.items():
        if vector.dtype != torch.float64 or tuple(vector.shape) != (length,):
            raise ArgumentError(
                f"`{name}` must be a float64 tensor of shape ({length},), one value per channel; "
                f"got {vector.dtype} of shape {tuple(vector.shape)}. "
                "Use `from_sums` for what the ops return."
            )


def _check_mergeable(name: str, mine: Tensor, theirs: Tensor) -> None:
    if mine.shape != theirs.shape:
        raise ArchitectureMismatchError(
            f"moments to merge must have equally many channels in `{name}`; got {mine.numel()} "
            f"and {theirs.numel()}. Merge statistics of one tap of one architecture."
        )
    if mine.device != theirs.device:
        raise ArgumentError(
            f"moments to merge must be on one device; got {mine.device} and {theirs.device}. "
            "Move one of them with `.to(device)`."
        )


def _checked_indices(indices: Indices, channels: Tensor) -> Tensor:
    """Return `indices` as int64 on the channels' device, once known to be a bijection."""
    gather = torch.as_tensor(indices, device="cpu")
    c = channels.numel()
    is_index = gather.numel() == 0 or gather.dtype in INDEX_DTYPES
    if not is_index or not torch.equal(gather.sort().values.long(), torch.arange(c)):
        raise ArgumentError(
            f"`indices` must hold every channel from 0 to {c - 1} exactly once; got "
            f"{gather.dtype} of shape {tuple(gather.shape)}. Use the `indices` of a "
            f"`Permutation` of {c} channels."
        )
    return gather.to(channels.device, torch.int64)
