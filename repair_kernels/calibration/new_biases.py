"""Corrections of layers without a bias, as new biases: on request, since weights are added.

With `W' = s W` and `b' = t` the layer itself returns the corrected values.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.conv import _ConvNd

from repair_kernels.affine import ChannelAffine
from repair_kernels.folding.makers import scaled_weight
from repair_kernels.graph.network import NetworkGraph
from repair_kernels.graph.state import state_of
from repair_kernels.graph.taps import LAYERS
from repair_kernels.rules import argument, packet


def give_biases(
    model: nn.Module, graph: NetworkGraph, explicit: Mapping[str, ChannelAffine]
) -> dict[str, ChannelAffine]:
    """Let layers of a model without a bias have one; return the corrections that remain.

    Where one of them lies inside a module's forward all remain: then the network is run by its
    graph, which does not know the new biases.

    Args:
        model: changed (hand in a copy)
        explicit: the corrections that no weight could absorb, by tap
    """
    nodes = {node.name: node for node in graph.nodes}
    layers = {
        name: layer
        for name in explicit
        if (layer := _bare_layer(model, graph, name, nodes[graph.tap(name).node])) is not None
    }
    if any(graph.tap(name).module is None for name in explicit if name not in layers):
        return dict(explicit)
    state = state_of(model)
    for name, layer in layers.items():
        affine = explicit[name]
        scale = affine.scale.double()
        changed = scaled_weight(graph, state, nodes[graph.tap(name).node], scale, of_outputs=True)
        with torch.no_grad():
            for weight, value in (changed or {}).items():
                state[weight].copy_(value)
        layer.bias = new_bias(layer, affine.shift)
    return {name: affine for name, affine in explicit.items() if name not in layers}


def _bare_layer(
    model: nn.Module, graph: NetworkGraph, tap: str, node: Node
) -> nn.Linear | _ConvNd | None:
    path = graph.tap(tap).module
    if path is None or packet(node) not in LAYERS or argument(node, 2, "bias") is not None:
        return None
    layer = layer_without_bias(model, path)
    owned = graph.owned(argument(node, 1, "weight"))
    return layer if layer is not None and owned == f"{path}.weight" else None


def layer_without_bias(model: nn.Module, path: str) -> nn.Linear | _ConvNd | None:
    """Return the layer at a path, if it is one of torch's and has no bias."""
    layer = dict(model.named_modules()).get(path)
    return layer if isinstance(layer, nn.Linear | _ConvNd) and layer.bias is None else None


def new_bias(layer: nn.Linear | _ConvNd, values: Tensor) -> nn.Parameter:
    """Return a bias like the layer's weight."""
    return nn.Parameter(values.to(layer.weight), requires_grad=layer.weight.requires_grad)
