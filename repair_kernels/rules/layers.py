"""Rules of layers with weights: linear maps, convolutions, norms."""

import numpy as np
import torch
from torch.fx import Node

from repair_kernels.rules.tracker import Axes, Tracker, argument, pin_space, reason, rule, shape

aten = torch.ops.aten


@rule(aten.linear)
def linear(node: Node, track: Tracker) -> Axes:
    """`y = x W^T + b`: the weight's input axis is x's last, its output axis y's last."""
    x, weight = argument(node, 0), argument(node, 1)
    track.adopt(weight, 1, track.axis(x, -1), reason(node, "its input cannot move"))
    out = track.axis(weight, 0)
    track.adopt(argument(node, 2, "bias"), 0, out, reason(node, "its output cannot move"))
    return [*track.axes(x)[:-1], out]


@rule(aten.conv1d, aten.conv2d, aten.conv3d)
def convolution(node: Node, track: Tracker) -> Axes:
    """Link the weight's axes to the channels of input and output; groups move whole."""
    x, weight = argument(node, 0), argument(node, 1)
    bias = argument(node, 2, "bias")
    groups = argument(node, 6, "groups", 1)
    why = reason(node, "its input cannot move")
    pin_space(node, track, x, range(2, len(shape(x))))
    track.order(weight, node)
    source = track.axis(x, 1)
    out = track.axis(weight, 0)
    if groups == 1:
        track.adopt(weight, 1, source, why)
    else:
        track.pin(weight, reason(node, "channels within a group are ordered"), [1])
        if source is None or out is None:
            track.tie(source, out, why)
        else:
            track.channels.bind(
                np.concatenate([source.reshape(groups, -1), out.reshape(groups, -1)], axis=1)
            )
    track.adopt(bias, 0, out, why)
    return [track.axes(x)[0], out, *[None] * (len(shape(x)) - 2)]


@rule(aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
def transposed_convolution(node: Node, track: Tracker) -> Axes:
    """As `convolution`, with the weight's first axis the input's; groups are pinned."""
    x, weight = argument(node, 0), argument(node, 1)
    bias = argument(node, 2, "bias")
    if argument(node, 6, "groups", 1) != 1:
        return track.unknown(
            node, reason(node, "groups of a transposed convolution are not followed")
        )
    pin_space(node, track, x, range(2, len(shape(x))))
    track.order(weight, node)
    track.adopt(weight, 0, track.axis(x, 1), reason(node, "its input cannot move"))
    out = track.axis(weight, 1)
    track.adopt(bias, 0, out, reason(node, "its output cannot move"))
    return [track.axes(x)[0], out, *[None] * (len(shape(x)) - 2)]


@rule(aten.batch_norm, aten.instance_norm)
def batch_norm(node: Node, track: Tracker) -> Axes:
    """Let every vector of the layer follow the channels."""
    x = argument(node, 0)
    for vector in (argument(node, position) for position in range(1, 5)):
        track.adopt(vector, 0, track.axis(x, 1), reason(node, "its input cannot move"))
    return track.axes(x)


@rule(aten.group_norm)
def group_norm(node: Node, track: Tracker) -> Axes:
    """Let channels move within their group, whose moments do not depend on their order.

    With one channel to a group there is nothing to keep together.
    """
    x, groups = argument(node, 0), argument(node, 1)
    axis = track.axis(x, 1)
    for position, name in ((2, "weight"), (3, "bias")):
        track.adopt(argument(node, position, name), 0, axis, reason(node, "its input cannot move"))
    if axis is not None and 1 < groups < len(axis):
        for members in axis.reshape(groups, -1):
            track.channels.occur(members)
    return track.axes(x)


@rule(aten.layer_norm)
def layer_norm(node: Node, track: Tracker) -> Axes:
    """Let weight and bias follow the axes: means over whole axes do not depend on order."""
    x, normalized = argument(node, 0), len(argument(node, 1))
    for position, name in ((2, "weight"), (3, "bias")):
        for dim in range(-normalized, 0):
            vector = argument(node, position, name)
            track.adopt(vector, dim, track.axis(x, dim), reason(node, "its input cannot move"))
    return track.axes(x)


@rule(aten.prelu)
def prelu(node: Node, track: Tracker) -> Axes:
    """Let a slope per channel follow the channels; a single slope demands nothing."""
    x, slope = argument(node, 0), argument(node, 1)
    if shape(slope)[0] > 1:
        track.adopt(slope, 0, track.axis(x, 1), reason(node, "its input cannot move"))
    return track.axes(x)
