"""Moments of two networks' channels at one tap, and between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from repair_kernels.errors import ArgumentError
from repair_kernels.moments.channels import ChannelMoments, correlations
from repair_kernels.moments.totals import (
    Indices,
    add_outer_,
    as_total,
    between,
    check_count,
    check_mergeable,
    check_products,
    check_square,
    check_vectors,
    checked_indices,
    merge_means_,
    require_samples,
)
from repair_kernels.ops import PairedSums

VECTORS = ("mean_a", "m2_a", "mean_b", "m2_b")
SUMS = ("cross", "diagonal", "within_a", "within_b")
# Which products of deviations a tap may hold, and the sums that hold them.
PRODUCTS = {
    "none": (),
    "diagonal": ("diagonal",),
    "cross": ("cross",),
    "joint": ("cross", "within_a", "within_b"),
}


@dataclass(frozen=True, eq=False, repr=False)
class PairedMoments:
    """Means, variances and sums of products of two networks' channels at one tap.

        cross[i, j]    = Σ_n (a[n, i] - mean_a[i]) (b[n, j] - mean_b[j])
        diagonal[i]    = cross[i, i]
        within_a[i, j] = Σ_n (a[n, i] - mean_a[i]) (a[n, j] - mean_a[j]),  within_b likewise

    Args:
        n_samples: images x positions that both networks saw
        mean_a, mean_b: mean of each channel
        m2_a, m2_b: sum of squared deviations of each channel
        cross: sums of products of deviations, a's channels x b's; None where not recorded
        diagonal: those of channel i of a with channel i of b alone, instead of `cross`
        within_a, within_b: those of each network's channels with one another, besides `cross`

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
    diagonal: Float64[Tensor, " c"] | None = None
    within_a: Float64[Tensor, "c_a c_a"] | None = None
    within_b: Float64[Tensor, "c_b c_b"] | None = None

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples)
        check_vectors(mean_a=self.mean_a, m2_a=self.m2_a)
        check_vectors(mean_b=self.mean_b, m2_b=self.m2_b)
        held = tuple(name for name in SUMS if name in self.tensors)
        if held not in PRODUCTS.values():
            raise ArgumentError(
                "moments must hold `cross`, or `diagonal`, or `cross` with `within_a` and "
                f"`within_b`, or none of them; got {' and '.join(f'`{name}`' for name in held)}. "
                "Use `from_sums` for what the ops return."
            )
        c_a, c_b = self.mean_a.numel(), self.mean_b.numel()
        check_products("cross", self.cross, (c_a, c_b), "a's channels x b's")
        check_products("within_a", self.within_a, (c_a, c_a), "a's channels x a's")
        check_products("within_b", self.within_b, (c_b, c_b), "b's channels x b's")
        if self.diagonal is not None:
            check_square(c_a, c_b)
            check_products("diagonal", self.diagonal, (c_a,), "one value per pair of channels")

    @classmethod
    def empty(
        cls,
        c_a: int,
        c_b: int,
        *,
        cross: bool | Literal["diagonal"] = True,
        joint: bool = False,
        device: torch.device | str = "cpu",
    ) -> PairedMoments:
        """Return the moments of no samples: merged with others, they change nothing.

        Args:
            c_a, c_b: how many channels each network has
            cross, joint: which sums of products they hold, as in `ops.paired_moments`
        """

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            n_samples=0,
            mean_a=zeros(c_a),
            m2_a=zeros(c_a),
            mean_b=zeros(c_b),
            m2_b=zeros(c_b),
            cross=zeros(c_a, c_b) if cross is True else None,
            diagonal=zeros(c_a) if cross == "diagonal" else None,
            within_a=zeros(c_a, c_a) if joint else None,
            within_b=zeros(c_b, c_b) if joint else None,
        )

    @classmethod
    def from_sums(cls, n_samples: int, sums: PairedSums) -> PairedMoments:
        """Take over what `ops.paired_moments` returned for `n_samples` samples."""
        totals = {k: as_total(v) for k, v in sums._asdict().items() if v is not None}
        return cls(n_samples, **totals)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The totals that are held, by name."""
        values = {name: getattr(self, name) for name in (*VECTORS, *SUMS)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def products(self) -> str:
        """Which products of deviations are held: "none", "diagonal", "cross" or "joint"."""
        held = tuple(name for name in SUMS if name in self.tensors)
        return next(kind for kind, names in PRODUCTS.items() if names == held)

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
        return self._require_cross() / require_samples(self.n_samples)

    @property
    def corr(self) -> Float64[Tensor, "c_a c_b"]:
        """Correlation of every channel of a with every channel of b, in [-1, 1].

            corr[i, j] = cross[i, j] / sqrt(m2_a[i] * m2_b[j])

        The rows and columns of dead channels are 0.
        """
        return correlations(self._require_cross(), self.a, self.b)

    @property
    def cov_a(self) -> Float64[Tensor, "c_a c_a"]:
        """Population covariance of a's channels with one another, within_a / n."""
        return self._require_within(self.within_a) / require_samples(self.n_samples)

    @property
    def cov_b(self) -> Float64[Tensor, "c_b c_b"]:
        """Population covariance of b's channels with one another, within_b / n."""
        return self._require_within(self.within_b) / require_samples(self.n_samples)

    @property
    def corr_a(self) -> Float64[Tensor, "c_a c_a"]:
        """Correlation of a's channels with one another: 1 on the diagonal, 0 for dead channels.

        corr_a[i, j] = within_a[i, j] / sqrt(m2_a[i] * m2_a[j])
        """
        return correlations(self._require_within(self.within_a), self.a, self.a)

    @property
    def corr_b(self) -> Float64[Tensor, "c_b c_b"]:
        """Correlation of b's channels with one another, as in `corr_a`."""
        return correlations(self._require_within(self.within_b), self.b, self.b)

    @property
    def joint_cov(self) -> Float64[Tensor, "c c"]:
        """Population covariance of all channels, a's before b's: [[cov_a, cov], [covᵀ, cov_b]]."""
        cov_a, cov, cov_b = self.cov_a, self.cov, self.cov_b
        return torch.cat([torch.cat([cov_a, cov], dim=1), torch.cat([cov.T, cov_b], dim=1)])

    @property
    def cov_diag(self) -> Float64[Tensor, " c"]:
        """Population covariance of channel i of a with channel i of b: the diagonal of `cov`."""
        return self._require_diagonal() / require_samples(self.n_samples)

    @property
    def corr_diag(self) -> Float64[Tensor, " c"]:
        """Correlation of channel i of a with channel i of b: the diagonal of `corr`."""
        return correlations(self._require_diagonal(), self.a, self.b)

    def merge(self, other: PairedMoments) -> PairedMoments:
        """Return the moments of both sets of samples together; nothing waits for the device."""
        _check_same_kind(self, other)
        if other.n_samples == 0 or self.n_samples == 0:
            return self if other.n_samples == 0 else other
        return merge_(self.clone(), other)

    def permuted_b(self, indices: Indices) -> PairedMoments:
        """Reorder b's channels: channel i of the result is channel `indices[i]` of this one."""
        gather = checked_indices(indices, self.mean_b)
        if self.diagonal is not None:
            raise ArgumentError(
                "these moments hold products of channels that were paired when they were "
                "recorded, and none of other pairs, so b's channels cannot be reordered. Record "
                "the whole `cross`, or the diagonal of the networks in their new order."
            )
        return replace(
            self,
            mean_b=self.mean_b[gather],
            m2_b=self.m2_b[gather],
            cross=None if self.cross is None else self.cross[:, gather],
            within_b=None if self.within_b is None else self.within_b[gather][:, gather],
        )

    def scaled_b(self, scale: Tensor) -> PairedMoments:
        """Multiply b's channels: channel i of the result is `scale[i]` times channel i of this."""
        scale = as_total(scale).to(self.mean_b.device)
        check_vectors(mean_b=self.mean_b, scale=scale)
        return replace(
            self,
            mean_b=self.mean_b * scale,
            m2_b=self.m2_b * scale.square(),
            cross=None if self.cross is None else self.cross * scale,
            diagonal=None if self.diagonal is None else self.diagonal * scale,
            within_b=None if self.within_b is None else self.within_b * scale.outer(scale),
        )

    def to(self, device: torch.device | str) -> PairedMoments:
        """Return the same moments on another device."""
        return self._with(lambda tensor: tensor.to(device))

    def clone(self) -> PairedMoments:
        """Return the same moments in memory of their own."""
        return self._with(torch.clone)

    def _with(self, change: Callable[[Tensor], Tensor]) -> PairedMoments:
        return replace(self, **{name: change(value) for name, value in self.tensors.items()})

    def _require_cross(self) -> Tensor:
        if self.cross is None:
            raise ArgumentError(
                "`cov` and `corr` need the products of deviations, and this tap was recorded "
                "without them. Name the tap in `cross`, or give cross='all', when computing the "
                "statistics."
            )
        return self.cross

    def _require_within(self, within: Tensor | None) -> Tensor:
        if within is None:
            raise ArgumentError(
                "the covariance of one network's channels needs the products of their deviations, "
                "and this tap was recorded without them. Record them with `joint=True`."
            )
        return within

    def _require_diagonal(self) -> Tensor:
        if self.diagonal is not None:
            return self.diagonal
        cross = self._require_cross()
        check_square(*cross.shape)
        return cross.diagonal()

    def __repr__(self) -> str:
        return (
            f"PairedMoments(n_samples={self.n_samples:,}, c_a={self.mean_a.numel()}, "
            f"c_b={self.mean_b.numel()}, products={self.products}, device={self.mean_a.device})"
        )


def merge_(total: PairedMoments, other: PairedMoments) -> PairedMoments:
    """Merge `other` into the memory of `total`, which must be the caller's own; return the sum."""
    _check_same_kind(total, other)
    if other.n_samples == 0:
        return total
    n_1, n_2 = total.n_samples, other.n_samples
    for name in ("m2_a", "m2_b", *PRODUCTS[total.products]):
        getattr(total, name).add_(getattr(other, name))
    delta_a = merge_means_(total.mean_a, n_1, other.mean_a, n_2)
    delta_b = merge_means_(total.mean_b, n_1, other.mean_b, n_2)
    add_spread_(total, delta_a, delta_b, between(n_1, n_2))
    return replace(total, n_samples=n_1 + n_2)


def add_spread_(moments: PairedMoments, delta_a: Tensor, delta_b: Tensor, weight: float) -> None:
    """Add weight · delta deltaᵀ to all sums of squares and products, in their own memory."""
    moments.m2_a.addcmul_(delta_a, delta_a, value=weight)
    moments.m2_b.addcmul_(delta_b, delta_b, value=weight)
    if moments.cross is not None:
        moments.cross.addr_(delta_a, delta_b, alpha=weight)
    if moments.diagonal is not None:
        moments.diagonal.addcmul_(delta_a, delta_b, value=weight)
    for within, delta in ((moments.within_a, delta_a), (moments.within_b, delta_b)):
        if within is not None:
            add_outer_(within, delta, weight)


def _check_same_kind(mine: PairedMoments, other: PairedMoments) -> None:
    check_mergeable("mean_a", mine.mean_a, other.mean_a)
    check_mergeable("mean_b", mine.mean_b, other.mean_b)
    if mine.products != other.products:
        raise ArgumentError(
            "moments to merge must hold the same products of deviations; got "
            f'"{mine.products}" and "{other.products}". Record both with the same options.'
        )
