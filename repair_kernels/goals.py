"""What REPAIR asks of a tap's channels, and the scale and shift that give it to them.

    E[X_alpha]   = (1 - alpha) E[X_A] + alpha E[X_B]
    std[X_alpha] = (1 - alpha) std[X_A] + alpha std[X_B]

Source:
    REPAIR (Jordan et al., 2023), eqs. 3-5.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from repair_kernels.moments import DEAD_STEPS, FLOAT32_EPS, ChannelMoments, PairedMoments

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


def affine_to_goal(goal: Goal, moments: ChannelMoments) -> Affine:
    """Return the scale and shift that give channels with these moments the goal's mean and std.

        scale = goal_std / std        shift = goal_mean - scale * mean

    Returns:
        float64; scale 1 and shift 0 for dead channels
    """
    dead = goal.dead | moments.dead
    scale = torch.where(dead, 1.0, goal.std / moments.std.where(~dead, 1.0))
    return scale, torch.where(dead, 0.0, goal.mean - scale * moments.mean)


def closed_form(moments: PairedMoments, alpha: float) -> Affine:
    """Return the scale and shift that the endpoints' statistics alone predict.

        scale = goal_std / sqrt((1-α)² var_A + α² var_B + 2α(1-α) cov(A, B))
        shift = goal_mean (1 - scale)

    The root is the standard deviation of (1-α) X_A + α X_B: the interpolated tap's own where its
    input is that of both endpoints (the first layer), an approximation below. Channels are scaled
    about the goal's mean, which that tap already has.

    Args:
        moments: of aligned endpoints at this tap, with `cross` or `diagonal`
    Returns:
        float64; scale 1 and shift 0 for channels that are dead in the endpoints or cancel out
        between them
    Source:
        REPAIR (Jordan et al., 2023), eq. 5
    """
    target = goal(moments, alpha)
    var = (
        (1 - alpha) ** 2 * moments.var_a
        + alpha**2 * moments.var_b
        + 2 * alpha * (1 - alpha) * moments.cov_diag
    )
    predicted = ChannelMoments(moments.n_samples, target.mean, var.clamp_min(0) * moments.n_samples)
    # A difference of terms known to float32: what is below their rounding is nothing.
    cancels = var <= DEAD_STEPS * FLOAT32_EPS * target.std.square()
    dead = target.dead | predicted.dead | cancels
    scale = torch.where(dead, 1.0, target.std / predicted.std.where(~dead, 1.0))
    return scale, torch.where(dead, 0.0, target.mean * (1 - scale))
