"""Put corrections into the weights, as far as weights can hold them.

A correction `y = s x + t` of a tap is absorbed

- by the BatchNorm that alone reads the tap: into its running statistics, `mean' = (mean - t) / s`
  and `var' + eps = (var + eps) / s^2` (into its weight where that variance would be negative);
- else by the layer that made the tap: `W' = s W`, `b' = s b + t` (a layer without bias absorbs a
  pure scaling only);
- else by the norm that made the tap: `weight' = s weight`, `bias' = s bias + t`.

What remains, such as the sum of a residual block, becomes a layer: see `explicit.py`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.affine import ChannelAffine
from repair_kernels.graph import NetworkGraph, State
from repair_kernels.rules import argument, packet, shape
from repair_kernels.taps import LAYERS, NORMS

aten = torch.ops.aten
TRANSPOSED = {aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d}


def fold(
    graph: NetworkGraph, state: State, affines: Mapping[str, ChannelAffine]
) -> tuple[State, dict[str, ChannelAffine]]:
    """Absorb corrections into a weight set.

    Args:
        affines: by tap
    Returns:
        the new weight set, and the corrections that nothing could absorb
    """
    folded = dict(state)
    explicit = {}
    nodes = {node.name: node for node in graph.nodes}
    for name, affine in affines.items():
        node = nodes[graph.tap(name).node]
        scale, shift, dim = affine.scale.double(), affine.shift.double(), affine.channel_dim
        absorbed = (
            _into_following_norm(graph, folded, node, scale, shift, dim)
            or _into_layer(graph, folded, node, scale, shift)
            or _into_norm(graph, folded, node, scale, shift, dim)
        )
        if not absorbed:
            explicit[name] = affine
    return folded, explicit


def _into_following_norm(
    graph: NetworkGraph, state: State, node: Node, scale: Tensor, shift: Tensor, channel_dim: int
) -> bool:
    users = graph.users(node)
    if len(users) != 1 or packet(users[0]) is not aten.batch_norm or bool((scale <= 0).any()):
        return False
    # Behind a linear map on tokens, a BatchNorm's channels are the tokens.
    if channel_dim != 1:
        return False
    norm = users[0]
    weight, mean, var = (graph.owned(argument(norm, position)) for position in (1, 3, 4))
    if mean is None or var is None:
        return False
    eps = argument(norm, 7)
    new_var = (state[var].double() + eps) / scale.square() - eps
    in_weight = new_var < 0
    if bool(in_weight.any()):
        if weight is None:
            return False
        _put(
            graph,
            state,
            weight,
            torch.where(in_weight, state[weight].double() * scale, state[weight].double()),
        )
    _put(graph, state, mean, (state[mean].double() - shift) / scale)
    _put(graph, state, var, torch.where(in_weight, state[var].double(), new_var))
    return True


def _into_layer(
    graph: NetworkGraph, state: State, node: Node, scale: Tensor, shift: Tensor
) -> bool:
    if packet(node) not in LAYERS:
        return False
    weight, bias = graph.owned(argument(node, 1)), graph.owned(argument(node, 2))
    out_axis = 1 if packet(node) in TRANSPOSED else 0
    grouped = packet(node) in TRANSPOSED and argument(node, 6) not in (None, 1)
    if (
        weight is None
        or grouped
        or (bias is None and (argument(node, 2) is not None or bool(shift.any())))
    ):
        return False
    along_out = [1] * state[weight].dim()
    along_out[out_axis] = -1
    _put(graph, state, weight, state[weight].double() * scale.view(along_out))
    if bias is not None:
        _put(graph, state, bias, state[bias].double() * scale + shift)
    return True


def _into_norm(
    graph: NetworkGraph, state: State, node: Node, scale: Tensor, shift: Tensor, channel_dim: int
) -> bool:
    # A LayerNorm's weights run along the last dimension, which need not be that of the channels.
    along = len(shape(node)) - 1 if packet(node) is aten.layer_norm else 1
    if packet(node) not in NORMS or channel_dim != along:
        return False
    first = 1 if packet(node) in (aten.batch_norm, aten.instance_norm) else 2
    weight, bias = (graph.owned(argument(node, position)) for position in (first, first + 1))
    if weight is None or bias is None or state[weight].shape != scale.shape:
        return False
    _put(graph, state, weight, state[weight].double() * scale)
    _put(graph, state, bias, state[bias].double() * scale + shift)
    return True


def _put(graph: NetworkGraph, state: State, name: str, value: Tensor) -> None:
    for alias in graph.aliases[name]:
        state[alias] = value.to(state[alias])
