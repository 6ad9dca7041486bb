"""Rules of layers with a weight: linear maps and convolutions."""

import numpy as np
import torch
from torch.fx import Node

from repair_kernels.axes import Axis
from repair_kernels.rules.tracker import (
    Axes,
    Tracker,
    argument,
    packet,
    pin_space,
    reason,
    rule,
    shape,
)

aten = torch.ops.aten


@rule(aten.linear)
def linear(node: Node, track: Tracker) -> Axes:
    """`y = x W^T + b`: the weight's input axis is x's last, its output axis y's last."""
    x, weight = argument(node, 0), argument(node, 1, "weight")
    track.adopt(weight, 1, track.axis(x, -1), reason(node, "its input cannot move"))
    out = track.axis(weight, 0)
    track.adopt(argument(node, 2, "bias"), 0, out, reason(node, "its output cannot move"))
    return [*track.axes(x)[:-1], out]


@rule(
    *(getattr(aten, f"conv{kind}{dims}d") for kind in ("", "_transpose") for dims in (1, 2, 3)),
    aten.convolution,
)
def convolution(node: Node, track: Tracker) -> Axes:
    """Link the weight's axes to the channels of input and output; positions are ordered.

    `W` is (out, in / groups, ...), of a transposed convolution (in, out / groups, ...).
    """
    x, weight, bias = argument(node, 0), argument(node, 1, "weight"), argument(node, 2, "bias")
    transposed, groups = _form(node)
    rank, space = len(shape(x)), len(shape(weight)) - 2
    channels = rank - space - 1
    source = track.axis(x, channels)
    pin_space(node, track, x, range(channels + 1, rank))
    track.order(weight, node)
    if groups == 1:
        track.adopt(weight, int(not transposed), source, reason(node, "its input cannot move"))
        out = track.axis(weight, int(transposed))
    elif transposed:
        out = _grouped_transposed(node, track, weight, source, groups)
    else:
        out = _grouped(node, track, weight, source, groups)
    track.adopt(bias, 0, out, reason(node, "its output cannot move"))
    return [*track.axes(x)[:channels], out, *[None] * space]


def _form(node: Node) -> tuple[bool, int]:
    """Return whether a convolution is transposed, and its number of groups."""
    if packet(node) is aten.convolution:
        return argument(node, 6, "transposed"), argument(node, 8, "groups", 1)
    return "transpose" in packet(node).__name__, argument(node, 6, "groups", 1)


def _grouped(
    node: Node, track: Tracker, weight: Node, source: Axis | None, groups: int
) -> Axis | None:
    """Let groups move whole, and what a group writes in any order; it reads in its order."""
    if source is not None and len(source) == groups == shape(weight)[0]:
        track.adopt(weight, 0, source, reason(node, "its input cannot move"))
        return source
    track.pin(weight, reason(node, "channels within a group are ordered"), [1])
    out = track.axis(weight, 0)
    _move_whole(node, track, source, out, groups)
    return out


def _grouped_transposed(
    node: Node, track: Tracker, weight: Node, source: Axis | None, groups: int
) -> Axis | None:
    """Let groups move whole, and what a group reads in any order; it writes in its order."""
    track.adopt(weight, 0, source, reason(node, "its input cannot move"))
    if source is not None and len(source) == groups and shape(weight)[1] == 1:
        return source
    track.pin(weight, reason(node, "channels within a group are ordered"), [1])
    out = track.channels.fresh(shape(weight)[1] * groups)
    _move_whole(node, track, out, source, groups)
    return out


def _move_whole(
    node: Node, track: Tracker, ordered: Axis | None, free: Axis | None, groups: int
) -> None:
    """Exchange groups as wholes: what `ordered` has in its order, what `free` has in any."""
    if ordered is None or free is None:
        track.tie(ordered, free, reason(node, "its input cannot move"))
        return
    handles = track.channels.fresh(groups)
    track.channels.bind(np.concatenate([handles[:, None], ordered.reshape(groups, -1)], axis=1))
    track.channels.gather(free.reshape(groups, -1), handles)
