"""Rules of operators that take axes apart and put them together: pad, slice, split, cat."""

import numpy as np
import torch
from torch.fx import Node

from repair_kernels.rules.tracker import (
    Axes,
    Tracker,
    argument,
    packet,
    pin_space,
    reason,
    rule,
    shape,
    tie_all,
)

aten = torch.ops.aten


@rule(aten.pad, aten.constant_pad_nd)
def pad(node: Node, track: Tracker) -> Axes:
    """Add the channels of a constant, all alike and free to move; negative padding cuts."""
    x, amounts = argument(node, 0), argument(node, 1)
    axes = track.axes(x)
    constant = (
        packet(node) is aten.constant_pad_nd or argument(node, 2, "mode", "constant") == "constant"
    )
    for number in range(len(amounts) // 2):
        dim = len(axes) - 1 - number
        before, after = amounts[2 * number], amounts[2 * number + 1]
        axis = axes[dim]
        if axis is None or before == after == 0:
            continue
        if not constant:
            pin_space(node, track, x, [dim])
            axes[dim] = None
            continue
        kept = axis[max(0, -before) : len(axis) - max(0, -after)]
        added = track.channels.fresh(max(0, before) + max(0, after))
        axes[dim] = track.channels.occur(
            np.concatenate([added[: max(0, before)], kept, added[max(0, before) :]])
        )
    return axes


@rule(aten.slice)
def cut(node: Node, track: Tracker) -> Axes:
    """Keep what the slice keeps: these channels stand together from here on."""
    x = argument(node, 0)
    dim, start, stop, step = (argument(node, i, n, d) for i, n, d in _SLICE_ARGUMENTS)
    axes = track.axes(x)
    axis = axes[dim]
    if axis is not None and len(axis[start:stop:step]) != len(axis):
        axes[dim] = track.channels.occur(axis[start:stop:step])
    return axes


_SLICE_ARGUMENTS = ((1, "dim", 0), (2, "start", None), (3, "end", None), (4, "step", 1))


@rule(aten.select)
def select(node: Node, track: Tracker) -> Axes:
    """Pin the axis of which one position is picked; the others follow."""
    x, dim = argument(node, 0), argument(node, 1)
    dim %= len(shape(x))
    track.pin(x, reason(node, "picks one position of this dimension"), [dim])
    axes = track.axes(x)
    return axes[:dim] + axes[dim + 1 :]


@rule(aten.split, aten.split_with_sizes, aten.chunk)
def split(node: Node, track: Tracker) -> list[Axes]:
    """Treat each part as a slice."""
    x = argument(node, 0)
    dim = argument(node, 2, "dim", 0) % len(shape(x))
    axes = track.axes(x)
    parts, start = [], 0
    for part in node.meta["val"]:
        size = part.shape[dim]
        piece = axes[dim]
        if piece is not None:
            piece = track.channels.occur(piece[start : start + size])
        parts.append([*axes[:dim], piece, *axes[dim + 1 :]])
        start += size
    return parts


@rule(aten.cat)
def cat(node: Node, track: Tracker) -> Axes:
    """Copy each part's channels along the joined dimension (parts may be one value); tie others."""
    values = argument(node, 0)
    rank = len(shape(node))
    dim = argument(node, 1, "dim", 0) % rank
    result: Axes = [None] * rank
    for other in range(rank):
        if other != dim and isinstance(shape(node)[other], int) and shape(node)[other] > 1:
            result[other] = tie_all(node, track, values, other)
    axes = [track.axis(value, dim) for value in values]
    if any(axis is not None for axis in axes):
        parts = []
        for value, axis in zip(values, axes, strict=True):
            part = (
                track.channels.fresh(shape(value)[dim])
                if axis is None
                else track.channels.copy(axis)
            )
            if axis is None:
                track.channels.pin(part, reason(node, "a part cannot move"))
            parts.append(part)
        result[dim] = track.channels.occur(np.concatenate(parts))
    return result
