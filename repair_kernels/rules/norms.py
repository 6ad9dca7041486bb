"""Rules of norms: what is averaged over whole axes does not depend on their order."""

import torch
from torch.fx import Node

from repair_kernels.rules.tracker import Axes, Tracker, argument, packet, reason, rule, shape

aten = torch.ops.aten


def read(node: Node, track: Tracker, x: Node, dims: range) -> None:
    """Let each of these dimensions move on its own only, since positions along it are mixed."""
    for dim in dims:
        track.axis(x, dim)


@rule(aten.batch_norm, aten.instance_norm)
def batch_norm(node: Node, track: Tracker) -> Axes:
    """Let every vector of the layer follow the channels."""
    x = argument(node, 0)
    for vector in (argument(node, position) for position in range(1, 5)):
        track.adopt(vector, 0, track.axis(x, 1), reason(node, "its input cannot move"))
    read(node, track, x, range(len(shape(x))))
    return track.axes(x)


@rule(aten.group_norm)
def group_norm(node: Node, track: Tracker) -> Axes:
    """Let channels move within their group and groups as wholes: moments know no order."""
    x, groups = argument(node, 0), argument(node, 1)
    read(node, track, x, range(len(shape(x))))
    axis = track.axis(x, 1)
    for position, name in ((2, "weight"), (3, "bias")):
        track.adopt(argument(node, position, name), 0, axis, reason(node, "its input cannot move"))
    if axis is not None and 1 < groups < len(axis):
        track.channels.gather(axis.reshape(groups, -1))
    return track.axes(x)


@rule(aten.layer_norm, aten.rms_norm)
def layer_norm(node: Node, track: Tracker) -> Axes:
    """Let weight and bias follow the axes that are normalised over, whatever their place."""
    x, normalized = argument(node, 0), len(argument(node, 1))
    for dim in range(-normalized, 0):
        axis = track.axis(x, dim)
        for position, name in _AFFINE[packet(node)]:
            vector = argument(node, position, name)
            track.adopt(vector, dim, axis, reason(node, "its input cannot move"))
    return track.axes(x)


_AFFINE = {aten.layer_norm: ((2, "weight"), (3, "bias")), aten.rms_norm: ((2, "weight"),)}


@rule(aten._weight_norm)
def weight_norm(node: Node, track: Tracker) -> Axes:
    """`w = g v / |v|`, a length for each slice along `dim`: `g` has the axes that it keeps."""
    v, g = argument(node, 0), argument(node, 1)
    read(node, track, v, range(len(shape(v))))
    for dim, size in enumerate(shape(g)):
        if size != 1:
            track.adopt(g, dim, track.axis(v, dim), reason(node, "its input cannot move"))
    return track.axes(v)


@rule(aten.prelu)
def prelu(node: Node, track: Tracker) -> Axes:
    """Let a slope per channel follow the channels; a single slope demands nothing."""
    x, slope = argument(node, 0), argument(node, 1)
    if shape(slope)[0] > 1:
        track.adopt(slope, 0, track.axis(x, 1), reason(node, "its input cannot move"))
    return track.axes(x)
