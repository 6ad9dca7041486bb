"""Rules of operators that take axes apart and put them together: pad, slice, index, split, cat."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch.fx import Node

from repair_kernels.rules import products
from repair_kernels.rules.joints import (
    ALIKE,
    Alike,
    Axes,
    Dims,
    Factor,
    Joint,
    entries,
    factors_of,
)
from repair_kernels.rules.tracker import (
    Tracker,
    argument,
    packet,
    pin_space,
    reason,
    rule,
    same_size,
    shape,
    tie_all,
)

aten = torch.ops.aten


@rule(aten.pad, aten.constant_pad_nd)
def pad(node: Node, track: Tracker) -> Axes:
    """Add the channels of a constant, all alike and free to move; negative padding cuts."""
    x, amounts = argument(node, 0), argument(node, 1)
    for number in range(len(amounts) // 2):
        if amounts[2 * number] or amounts[2 * number + 1]:
            track.axis(x, -1 - number)
    axes = track.axes(x)
    constant = (
        packet(node) is aten.constant_pad_nd or argument(node, 2, "mode", "constant") == "constant"
    )
    for number in range(len(amounts) // 2):
        dim = len(axes) - 1 - number
        before, after = amounts[2 * number], amounts[2 * number + 1]
        axis = axes[dim]
        if not isinstance(axis, np.ndarray) or before == after == 0:
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
    size = shape(x)[dim]
    if not isinstance(size, int) or same_size(shape(node)[dim], size):
        return track.axes(x)
    return take(node, track, x, dim, np.arange(size)[start:stop:step])


_SLICE_ARGUMENTS = ((1, "dim", 0), (2, "start", None), (3, "end", None), (4, "step", 1))


@rule(aten.select)
def select(node: Node, track: Tracker) -> Axes:
    """Keep one position, which thereby stays; the other dimensions follow."""
    x, dim, index = argument(node, 0), argument(node, 1), argument(node, 2)
    return _select(node, track, x, dim, index)


@rule(aten.unbind)
def unbind(node: Node, track: Tracker) -> list[Axes | None]:
    """Treat each part that is read as a selection."""
    x, dim = argument(node, 0), argument(node, 1, "dim", 0)
    read = {argument(user, 1) for user in node.users if user.users}
    parts = range(len(node.meta["val"]))
    return [_select(node, track, x, dim, part) if part in read else None for part in parts]


def _select(node: Node, track: Tracker, x: Node, dim: int, index: int) -> Axes:
    axes = take(node, track, x, dim, np.array([index]))
    dim %= len(axes)
    return axes[:dim] + axes[dim + 1 :]


def take(node: Node, track: Tracker, x: Node, dim: int, index: np.ndarray) -> Axes:
    """Return the axes of x with these positions of one dimension, each at most once."""
    dim %= len(shape(x))
    if isinstance(entry := track.entry(x, dim), tuple) and len(entry) > 1:
        track.axis(x, dim)
    axes = track.axes(x)
    entry = axes[dim]
    if entry is None or isinstance(entry, Alike):
        return axes
    why = reason(node, "picks this position")
    if isinstance(entry, np.ndarray):
        axes[dim] = track.channels.occur(entry[index], why)
        return axes if len(index) > 1 else [*axes[:dim], None, *axes[dim + 1 :]]
    value = [factors_of(e, None) for e in axes]
    return entries(track.channels, _take_factor(track, value, value[dim][0], index, why))


def _take_factor(track: Tracker, value: Dims, factor: Factor, index: np.ndarray, why: str) -> Dims:
    """Return a value's factors with these positions of a joint's factor; one position is none."""
    joint = cast(Joint, factor.of)
    kept = joint.vertices.take(index, joint.factors.index(factor))
    track.channels.occur(kept.reshape(-1), why)
    left = [f for f in joint.factors if f is not factor or len(index) > 1]
    taken = Joint(kept.reshape([len(index) if f is factor else f.size for f in left]))
    new = dict(zip(left, taken.factors, strict=True))
    return [[new.get(f, f) for f in dim if f in new or f.of is not joint] for dim in value]


@rule(aten.roll, aten.flip)
def reorder(node: Node, track: Tracker) -> Axes:
    """Read an axis in another order."""
    x = argument(node, 0)
    shifts = argument(node, 1, "shifts") if packet(node) is aten.roll else None
    dims = argument(node, 2 if shifts else 1, "dims", [])
    if not dims:
        return track.unknown(node, reason(node, "flattens before it rolls"))
    axes = track.axes(x)
    for number, dim in enumerate(dims):
        axis = track.axis(x, dim)
        axes = [*track.axes(x)] if number == 0 else axes
        if axis is not None:
            axes[dim] = np.roll(axes[dim], shifts[number]) if shifts else axes[dim][::-1]
    return axes


@rule(aten.index_select)
def index_select(node: Node, track: Tracker) -> Axes:
    """Pin the dimension of which positions are picked; the others follow."""
    x, dim = argument(node, 0), argument(node, 1)
    track.pin(argument(node, 2), reason(node, "positions of an index are ordered"))
    track.pin(x, reason(node, "picks positions of this dimension"), [dim])
    axes = track.axes(x)
    axes[dim] = None
    return axes


@rule(aten.index)
def index(node: Node, track: Tracker) -> Axes:
    """Pin the dimensions of which positions are picked; the others follow."""
    x, picks = argument(node, 0), argument(node, 1)
    chosen = [dim for dim, pick in enumerate(picks) if pick is not None]
    indices = [picks[dim] for dim in chosen]
    if any(pick.meta["val"].dtype in (torch.bool, torch.uint8) for pick in indices):
        return track.unknown(node, reason(node, "picks by a mask"))
    for pick in indices:
        track.pin(pick, reason(node, "positions of an index are ordered"))
    track.pin(x, reason(node, "picks positions of this dimension"), chosen)
    axes = track.axes(x)
    new: Axes = [None] * max(len(shape(pick)) for pick in indices)
    adjacent = chosen == list(range(chosen[0], chosen[-1] + 1))
    at = chosen[0] if adjacent else 0
    left = [entry for dim, entry in enumerate(axes) if dim not in chosen]
    return left[:at] + new + left[at:]


@rule(aten.split, aten.split_with_sizes, aten.chunk, aten.unsafe_split, aten.unsafe_chunk)
def split(node: Node, track: Tracker) -> list[Axes]:
    """Treat each part as a slice."""
    x = argument(node, 0)
    dim = argument(node, 2, "dim", 0) % len(shape(x))
    parts, start = [], 0
    for part in node.meta["val"]:
        size = part.shape[dim]
        whole = not isinstance(size, int) or size == shape(x)[dim]
        parts.append(
            track.axes(x) if whole else take(node, track, x, dim, np.arange(start, start + size))
        )
        start += size
    return parts


@rule(aten.cat, aten.concat, aten.concatenate)
def cat(node: Node, track: Tracker) -> Axes:
    """Copy each part's channels along the joined dimension (parts may be one value); tie others."""
    values = argument(node, 0)
    rank = len(shape(node))
    dim = argument(node, 1, "dim", 0) % rank
    axes = [track.axis(value, dim) for value in values]
    result = _others(node, track, values, dim)
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


@rule(aten.stack)
def stack(node: Node, track: Tracker) -> Axes:
    """Tie the parts; nothing moves along the new dimension."""
    values = argument(node, 0)
    dim = argument(node, 1, "dim", 0) % len(shape(node))
    result = _others(node, track, values, -1)
    return [*result[:dim], None, *result[dim:]]


def _others(node: Node, track: Tracker, values: Sequence[Any], joined: int) -> Axes:
    """Tie the dimensions of several values but the joined one."""
    rank = len(shape(values[0]))
    if any(isinstance(entry, tuple) for value in values for entry in track.axes(value)):
        aligned = [track.aligned(value, rank) for value in values]
        if joined >= 0:
            aligned = [[*axes[:joined], None, *axes[joined + 1 :]] for axes in aligned]
        return products.combine(track.channels, aligned, reason(node, "a part cannot move"))
    result: Axes = [None] * rank
    for dim, size in enumerate(shape(values[0])):
        if dim != joined and isinstance(size, int) and size > 1:
            present = [v for v in values if track.entry(v, dim) is not ALIKE]
            result[dim] = tie_all(node, track, present, dim) if present else ALIKE
    return result
