"""What REPAIR asks of a tap's channels, and the scale and shift that give it to them.

    E[X_alpha]   = (1 - alpha) E[X_A] + alpha E[X_B]
    std[X_alpha] = (1 - alpha) std[X_A] + alpha std[X_B]

Source:
    REPAIR (Jordan et al., 2023), eqs. 3-5.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from repair_kernels.errors import ArgumentError
from repair_kernels.moments import DEAD_STEPS, FLOAT32_EPS, ChannelMoments, PairedMoments

RESTORE = ("both", "std", "mean")
"""What a correction gives back: mean and std; the std alone, by a scaling about zero; the mean
alone, by a shift."""
Affine = tuple[Tensor, Tensor]
"""A scale and a shift per channel, float64."""


@dataclass(frozen=True)
class Goal:
    """The statistics that a tap's channels should have at one alpha."""

    mean: Tensor
    std: Tensor
    dead: Tensor
    """Channels that are dead in both endpoints: there is nothing to restore."""


def goal(moments: PairedMoments, alpha: float) -> Goal:
    """Return the interpolated statistics of aligned endpoints (eqs. 3 and 4)."""
    return Goal(
        mean=(1 - alpha) * moments.mean_a + alpha * moments.mean_b,
        std=(1 - alpha) * moments.std_a + alpha * moments.std_b,
        dead=moments.dead_a & moments.dead_b,
    )


def affine_to_goal(goal: Goal, moments: ChannelMoments, restore: str = "both") -> Affine:
    """Return the scale and shift that give channels with these moments the goal's mean and std.

        both:  scale = goal_std / std     shift = goal_mean - scale * mean
        std:   scale = goal_std / std     shift = 0
        mean:  scale = 1                  shift = goal_mean - mean

    Returns:
        float64; scale 1 and shift 0 for dead channels
    """
    dead = goal.dead | moments.dead
    scale = torch.where(dead, 1.0, goal.std / moments.std.where(~dead, 1.0))
    if restore == "mean":
        scale = torch.ones_like(scale)
    shift = torch.where(dead, 0.0, goal.mean - scale * moments.mean)
    return scale, torch.zeros_like(shift) if restore == "std" else shift


def closed_form(moments: PairedMoments, alpha: float, restore: str = "both") -> Affine:
    """Return the scale and shift that the endpoints' statistics alone predict.

        scale = goal_std / sqrt((1-α)² var_A + α² var_B + 2α(1-α) cov(A, B))
        shift = goal_mean (1 - scale)         (restore="std": 0)

    The root is the standard deviation of (1-α) X_A + α X_B: the interpolated tap's own where its
    input is that of both endpoints (the first layer), an approximation below. Channels are scaled
    about the goal's mean, which that tap already has; so the mean alone needs no correction, and
    with restore="mean" there is none.

    Args:
        moments: of aligned endpoints at this tap, with `cross` or `diagonal`: variances and
            covariance are of the same values, so that the radicand cannot be negative but by
            rounding
    Returns:
        float64; scale 1 and shift 0 for channels that are dead in the endpoints or cancel out
        between them
    Source:
        REPAIR (Jordan et al., 2023), eq. 5
    """
    target, var = goal(moments, alpha), predicted_variance(moments, alpha)
    predicted = ChannelMoments(moments.n_samples, target.mean, var.clamp_min(0) * moments.n_samples)
    left = target.dead | predicted.dead | _cancels(target, var)
    if restore == "mean":
        left = torch.ones_like(left)
    scale = torch.where(left, 1.0, target.std / predicted.std.where(~left, 1.0))
    shift = torch.where(left, 0.0, target.mean * (1 - scale))
    return scale, torch.zeros_like(shift) if restore == "std" else shift


def predicted_variance(moments: PairedMoments, alpha: float) -> Tensor:
    """Return the variance of (1-α) X_A + α X_B, which rounding may put below 0."""
    return (
        (1 - alpha) ** 2 * moments.var_a
        + alpha**2 * moments.var_b
        + 2 * alpha * (1 - alpha) * moments.cov_diag
    )


def cancelling(moments: PairedMoments, alpha: float) -> Tensor:
    """Tell which live channels of the endpoints cancel out, so that eq. 5 predicts nothing."""
    target = goal(moments, alpha)
    return ~target.dead & _cancels(target, predicted_variance(moments, alpha))


def _cancels(target: Goal, var: Tensor) -> Tensor:
    # A difference of terms known to float32: what is below their rounding is nothing. Not `<=`:
    # a variance that is not a number is no prediction either.
    return ~(var > DEAD_STEPS * FLOAT32_EPS * target.std.square())


def check_restore(restore: str) -> str:
    """Return what is to be restored.

    Raises:
        ArgumentError: when it is none of `RESTORE`
    """
    if restore not in RESTORE:
        raise ArgumentError(
            f"`restore` must be one of {', '.join(map(repr, RESTORE))}; got {restore!r}"
        )
    return restore
