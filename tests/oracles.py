"""What is true: the definitions in numpy and float64, written apart from the package."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rows(x: torch.Tensor, channel_dim: int) -> Array:
    """Return activations as a float64 matrix: one row for each position, one column per channel."""
    values = x.detach().cpu().double().numpy()
    return np.moveaxis(values, channel_dim, -1).reshape(-1, values.shape[channel_dim])


def channel_moments(x: torch.Tensor, channel_dim: int) -> tuple[Array, Array]:
    """Return the mean and the sum of squared deviations of every channel."""
    values = rows(x, channel_dim)
    if len(values) == 0:
        return np.zeros(values.shape[1]), np.zeros(values.shape[1])
    mean = values.mean(axis=0)
    return mean, np.square(values - mean).sum(axis=0)


def cross(a: torch.Tensor, b: torch.Tensor, channel_dim: int) -> Array:
    """Return the sums of products of deviations between all channels of a and of b."""
    mean_a, _ = channel_moments(a, channel_dim)
    mean_b, _ = channel_moments(b, channel_dim)
    return (rows(a, channel_dim) - mean_a).T @ (rows(b, channel_dim) - mean_b)


def diagonal(a: torch.Tensor, b: torch.Tensor, channel_dim: int) -> Array:
    """Return the sums of products of deviations between channel i of a and channel i of b."""
    mean_a, _ = channel_moments(a, channel_dim)
    mean_b, _ = channel_moments(b, channel_dim)
    return ((rows(a, channel_dim) - mean_a) * (rows(b, channel_dim) - mean_b)).sum(axis=0)


def lerp_rescale(
    a: torch.Tensor,
    b: torch.Tensor,
    alpha: float,
    index_out: torch.Tensor | None = None,
    index_in: torch.Tensor | None = None,
    segment: int = 1,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> Array:
    """Return scale · ((1 − α) · a + α · gathered b) + shift."""
    if a.dim() == 0:
        options = {"index_out": index_out, "scale": scale, "shift": shift}
        return lerp_rescale(a.reshape(1), b.reshape(1), alpha, **options)[0, ...]
    values_a, values_b = (x.detach().cpu().double().numpy() for x in (a, b))
    if index_out is not None:
        values_b = np.take(values_b, index_out.cpu().numpy(), axis=0)
    if index_in is not None:
        positions = index_in.cpu().numpy()[:, None] * segment + np.arange(segment)
        values_b = np.take(values_b, positions.reshape(-1), axis=1)
    mixed = (1 - alpha) * values_a + alpha * values_b
    along = (-1,) + (1,) * (a.dim() - 1)
    if scale is not None:
        mixed = mixed * scale.cpu().double().numpy().reshape(along)
    if shift is not None:
        mixed = mixed + shift.cpu().double().numpy().reshape(along)
    return mixed


def best_assignment(gain: Array) -> float:
    """Return the largest sum of gains of an assignment of rows to columns, by trying them all."""
    gain = gain if len(gain) <= gain.shape[1] else gain.T
    rows_of = range(len(gain))
    orders = itertools.permutations(range(gain.shape[1]), len(gain))
    return max(sum(gain[i, order[i]] for i in rows_of) for order in orders)


def goal(
    a: torch.Tensor, b: torch.Tensor, alpha: float, channel_dim: int = 1
) -> tuple[Array, Array]:
    """Return the mean and the std that REPAIR asks for at a tap (eqs. 3 and 4)."""
    x, y = rows(a, channel_dim), rows(b, channel_dim)
    mean = (1 - alpha) * x.mean(axis=0) + alpha * y.mean(axis=0)
    return mean, (1 - alpha) * x.std(axis=0) + alpha * y.std(axis=0)


def closed_form_scale(
    a: torch.Tensor, b: torch.Tensor, alpha: float, channel_dim: int = 1
) -> Array:
    """Return the factor of eq. 5 from the two endpoints' activations at a tap."""
    x, y = rows(a, channel_dim), rows(b, channel_dim)
    cov = ((x - x.mean(axis=0)) * (y - y.mean(axis=0))).mean(axis=0)
    var = (1 - alpha) ** 2 * x.var(axis=0) + alpha**2 * y.var(axis=0)
    _, std = goal(a, b, alpha, channel_dim)
    return std / np.sqrt(var + 2 * alpha * (1 - alpha) * cov)
