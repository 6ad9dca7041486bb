"""Corrections in the weights of what made the tap: a layer, or a norm.

    layer:             W' = s W            b' = s b + t
    norm with weights: weight' = s weight  bias' = s bias + t
    BatchNorm without: mean' = mean - t sqrt(var + eps) / s    var' + eps = (var + eps) / s^2

A layer or norm that has no bias holds a pure scaling.
"""

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.folding.correction import Changes, Correction, convolution_form, scaled
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.graph.taps import CONVOLUTIONS, LAYERS, NORMS
from repair_kernels.rules import argument, packet, shape

aten = torch.ops.aten
RUNNING_NORMS = {aten.batch_norm, aten.instance_norm}


def into_layer(
    graph: NetworkGraph, state: State, node: Node, correction: Correction
) -> Changes | None:
    """Scale what the layer writes, and shift its bias."""
    if packet(node) not in LAYERS:
        return None
    changed = scaled_weight(graph, state, node, correction.scale, of_outputs=True)
    if changed is None:
        return None
    return _with_bias(graph, state, argument(node, 2, "bias"), correction, changed)


def scaled_weight(
    graph: NetworkGraph, state: State, layer: Node, scale: Tensor, *, of_outputs: bool
) -> Changes | None:
    """Return a layer's weight with its outputs' or its inputs' channels scaled.

    A weight under weight norm is `g v / |v|`, whose lengths `g` hold a scaling of what they count.
    """
    transposed, groups = convolution_form(layer) if packet(layer) in CONVOLUTIONS else (False, 1)
    axis = int(of_outputs == transposed)
    weight = argument(layer, 1, "weight")
    name = graph.owned(weight)
    if name is not None:
        return {name: scaled(state[name].double(), scale, axis, groups, grouped=axis == 1)}
    if isinstance(weight, Node) and packet(weight) is aten._weight_norm and len(weight.users) == 1:
        lengths = graph.owned(argument(weight, 1))
        along = argument(weight, 2, "dim", 0)
        if lengths is not None and along == axis and (axis == 0 or groups == 1):
            return {lengths: scaled(state[lengths].double(), scale, axis)}
    return None


def into_norm(
    graph: NetworkGraph, state: State, node: Node, correction: Correction
) -> Changes | None:
    """Scale and shift a norm's own weights, or the statistics of a BatchNorm that has none."""
    target = packet(node)
    # The weights of these run along the last dimension, which need not be that of the channels.
    last = target in (aten.layer_norm, aten.rms_norm)
    if target not in NORMS or correction.dim != (len(shape(node)) - 1 if last else 1):
        return None
    first = 1 if target in RUNNING_NORMS else 2
    if argument(node, first, "weight") is None:
        return _into_statistics(graph, state, node, correction)
    weight = graph.owned(argument(node, first, "weight"))
    if weight is None or state[weight].shape != correction.scale.shape:
        return None
    changed = {weight: state[weight].double() * correction.scale}
    bias = None if target is aten.rms_norm else argument(node, first + 1, "bias")
    return _with_bias(graph, state, bias, correction, changed)


def _with_bias(
    graph: NetworkGraph, state: State, bias: object, correction: Correction, changed: Changes
) -> Changes | None:
    if bias is None:
        return None if correction.shifts else changed
    name = graph.owned(bias)
    if name is None:
        return None
    return {**changed, name: state[name].double() * correction.scale + correction.shift}


def running_statistics(graph: NetworkGraph, norm: Node) -> tuple[str, str, float] | None:
    """Return the mean, the variance and the eps by which a norm divides, if they are its own."""
    if packet(norm) not in RUNNING_NORMS:
        return None
    mean, var = (graph.owned(argument(norm, position)) for position in (3, 4))
    if mean is None or var is None or argument(norm, 5) is not False:
        return None
    return mean, var, argument(norm, 7)


def _into_statistics(
    graph: NetworkGraph, state: State, norm: Node, correction: Correction
) -> Changes | None:
    held = running_statistics(graph, norm)
    if held is None or argument(norm, 2) is not None or bool((correction.scale <= 0).any()):
        return None
    mean, var, eps = held
    old_var = state[var].double() + eps
    new_var = old_var / correction.scale.square() - eps
    if bool((new_var < 0).any()):
        return None
    shift = correction.shift * old_var.sqrt() / correction.scale
    return {mean: state[mean].double() - shift, var: new_var}
