"""Rules of the other names that products of matrices and vectors have."""

import torch
from torch.fx import Node

from repair_kernels.rules.attention import added_matmul, matmul
from repair_kernels.rules.tracker import Axes, Tracker, argument, reason, rule, shape

aten = torch.ops.aten

rule(aten.mv, aten.dot, aten.vdot)(matmul)
rule(aten.addmm, aten.addmv)(added_matmul)


@rule(aten.outer, aten.ger)
def outer(node: Node, track: Tracker) -> Axes:
    """`Y_ij = x_i z_j`."""
    return [track.axis(argument(node, position), 0) for position in range(2)]


@rule(aten.bilinear)
def bilinear(node: Node, track: Tracker) -> Axes:
    """`y_o = x_i W_oij z_j + b_o`: a linear map of two inputs, alike in their other dimensions."""
    x, z, weight, bias = (argument(node, position, name) for position, name in _BILINEAR)
    why = reason(node, "an input cannot move")
    for dim, value in ((1, x), (2, z)):
        track.adopt(weight, dim, track.axis(value, -1), why)
    others: Axes = [
        track.tie(track.axis(x, dim), track.axis(z, dim), why) for dim in range(len(shape(x)) - 1)
    ]
    out = track.axis(weight, 0)
    track.adopt(bias, 0, out, reason(node, "its output cannot move"))
    return [*others, out]


_BILINEAR = ((0, "input1"), (1, "input2"), (2, "weight"), (3, "bias"))


@rule(aten.embedding)
def embedding(node: Node, track: Tracker) -> Axes:
    """Pick rows of a table: the rows are known by their number, what they hold may move."""
    weight, indices = argument(node, 0), argument(node, 1)
    track.pin(weight, reason(node, "rows are picked by their number"), [0])
    return [*track.axes(indices), track.axis(weight, 1)]
