"""Rules of what mixes positions of an image and no channels: pooling, resizing, warping."""

from typing import Any

import numpy as np
import torch
from torch.fx import Node

from repair_kernels.rules.tracker import (
    Axes,
    Rule,
    Tracker,
    argument,
    pin_space,
    reason,
    rule,
    shape,
)

aten = torch.ops.aten


def spatial(dims: int) -> Rule:
    """Return the rule of operators that mix positions of the last `dims` dimensions."""

    def pooled(node: Node, track: Tracker) -> Any:
        x = argument(node, 0)
        rank = len(shape(x))
        pin_space(node, track, x, range(rank - dims, rank))
        axes = track.axes(x)[: rank - dims] + [None] * dims
        return (
            [axes] * len(node.meta["val"]) if isinstance(node.meta["val"], list | tuple) else axes
        )

    return pooled


_POOLS = "max_pool{} max_pool{}_with_indices avg_pool{} adaptive_avg_pool{} _adaptive_avg_pool{} "
_POOLS += "adaptive_max_pool{}"
_RESIZES = "upsample_nearest{} _upsample_nearest_exact{} reflection_pad{} replication_pad{}"
_OF_ONE_KIND = {
    1: "upsample_linear1d",
    2: "upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa",
    3: "upsample_trilinear3d",
}
for _dims, _also in _OF_ONE_KIND.items():
    _names = f"{_POOLS} {_RESIZES}".format(*[f"{_dims}d"] * 10).split() + _also.split()
    rule(*(getattr(aten, name) for name in _names if hasattr(aten, name)))(spatial(_dims))


@rule(aten.max_unpool2d, aten.max_unpool3d)
def unpool(node: Node, track: Tracker) -> Axes:
    """Put values where the indices say, which lie in the plane of their own channel."""
    x, places = argument(node, 0), argument(node, 1)
    space = len(argument(node, 2))
    rank = len(shape(x))
    for value in (x, places):
        pin_space(node, track, value, range(rank - space, rank))
    why = reason(node, "values and their places are not of the same channels")
    kept = [track.tie(track.axis(x, d), track.axis(places, d), why) for d in range(rank - space)]
    return [*kept, *[None] * space]


@rule(aten.grid_sampler)
def grid_sample(node: Node, track: Tracker) -> Axes:
    """Read every channel at the same points of the image."""
    x, grid = argument(node, 0), argument(node, 1)
    space = len(shape(x)) - 2
    pin_space(node, track, x, [0, *range(2, 2 + space)])
    pin_space(node, track, grid, range(len(shape(grid))))
    return [None, track.axis(x, 1), *[None] * space]


@rule(aten.affine_grid_generator)
def affine_grid(node: Node, track: Tracker) -> Axes:
    """Make points of an image from a matrix whose entries have their places."""
    theta = argument(node, 0)
    pin_space(node, track, theta, range(len(shape(theta))))
    return [None] * len(shape(node))


@rule(aten.im2col)
def patches(node: Node, track: Tracker) -> Axes:
    """Turn the positions of a kernel into channels: a channel becomes a block of them."""
    x = argument(node, 0)
    channels = len(shape(x)) - 3
    axis = track.axis(x, channels)
    pin_space(node, track, x, range(channels + 1, len(shape(x))))
    kept = track.axes(x)[:channels]
    if axis is None:
        return [None] * len(shape(node))
    flat = track.channels.fresh(shape(node)[-2])
    _bind_blocks(track, axis, flat)
    return [*kept, flat, None]


@rule(aten.col2im)
def image_of_patches(node: Node, track: Tracker) -> Axes:
    """Add patches up to an image: the inverse of `patches`."""
    x = argument(node, 0)
    flat = track.axis(x, -2)
    pin_space(node, track, x, [len(shape(x)) - 1])
    kept = track.axes(x)[:-2]
    if flat is None:
        return [None] * len(shape(node))
    axis = track.channels.fresh(shape(node)[-3])
    _bind_blocks(track, axis, flat)
    return [*kept, axis, None, None]


def _bind_blocks(track: Tracker, axis: np.ndarray, flat: np.ndarray) -> None:
    track.channels.bind(np.concatenate([axis[:, None], flat.reshape(len(axis), -1)], axis=1))


@rule(aten.unfold)
def windows(node: Node, track: Tracker) -> Axes:
    """Cut a dimension into windows, which become the last one."""
    x, dim = (
        argument(node, 0),
        argument(node, 1, "dimension") % max(1, len(shape(argument(node, 0)))),
    )
    pin_space(node, track, x, [dim])
    axes = track.axes(x)
    return [*axes[:dim], None, *axes[dim + 1 :], None]
