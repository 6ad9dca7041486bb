"""Scale symmetries of a captured graph: scale what makes a value, undo it in all that reads it.

    layer -> BatchNorm:            W' = s W   b' = s b   mean' = s mean   var' = s^2 var
                                   weight' = weight sqrt(s^2 var + eps) / (s sqrt(var + eps))
    layer or norm -> f -> layers:  rows' = s rows    columns' = columns / s,    f(s x) = s f(x)

The first holds for every s but 0, the second for s > 0 where f is made of ReLU and its kin, pooling
and reshapes. A BatchNorm without weights, or one behind a ReLU, takes 1 / s into its running
statistics: `folding/readers.py` says how. Nothing is approximated: LayerNorm, GroupNorm and RMSNorm
forget the scale of their input up to their eps only, so what they read stays.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.folding.correction import Changes, Correction, convolution_form
from repair_kernels.folding.makers import into_layer, into_norm, running_statistics
from repair_kernels.folding.readers import into_reader, reached, readings
from repair_kernels.graph import NetworkGraph, State
from repair_kernels.rules import argument, packet, shape
from repair_kernels.taps import CONVOLUTIONS, LAYERS, NORMS, SUMS

aten = torch.ops.aten


NOT_ITS_OWN = "its weight or bias is shared, used twice or computed from others"


@dataclass(frozen=True)
class Rescaling:
    """Another weight set of the same function.

    Attributes:
        changed: new values of weights, in float64
        scales: by tap, what its channels are multiplied by
        refused: why there is none; "" where there is one
    """

    changed: Changes
    scales: dict[str, Tensor]
    refused: str = ""


@dataclass(frozen=True)
class RunningNorm:
    """The BatchNorm that alone reads a layer, with the names of its own tensors."""

    weight: str
    mean: str
    var: str
    eps: float

    def std(self, state: State) -> Tensor:
        """Return the running standard deviation of each channel, in float64."""
        return state[self.var].double().sqrt()


def norm_behind(graph: NetworkGraph, node: Node) -> RunningNorm | None:
    """Return the BatchNorm that alone reads a layer's output, if all its tensors are its own."""
    readers = graph.users(node)
    if len(readers) != 1 or packet(node) not in LAYERS or _channel_dim(graph, node) != 1:
        return None
    held = running_statistics(graph, readers[0])
    weight = graph.owned(argument(readers[0], 1))
    return None if held is None or weight is None else RunningNorm(weight, *held)


def rescale(graph: NetworkGraph, state: State, node: Node, factor: Tensor) -> Rescaling:
    """Multiply the channels of a layer's (or a norm's) output, and undo it in what reads them.

    Args:
        state: a weight set; left as it is
        factor: by channel, float64, not 0; positive where no BatchNorm alone reads the layer
    """
    dim = _channel_dim(graph, node)
    if dim is None:
        return _refused("its channels lie along no dimension that the graph knows")
    up = Correction(factor, torch.zeros_like(factor), dim)
    absorb = into_layer if packet(node) in LAYERS else into_norm
    changed = absorb(graph, state, node, up)
    if changed is None:
        return _refused(NOT_ITS_OWN)
    norm = norm_behind(graph, node)
    if norm is not None:
        changed |= _through_norm(norm, state, factor)
        return _checked(state, Rescaling(changed, {graph.tap_of_node[node.name].name: factor}))
    if bool((factor <= 0).any()):
        return _refused("only a BatchNorm with weights that alone reads a layer turns signs")
    down = Correction(1 / factor, torch.zeros_like(factor), dim)
    for reading in readings(node, down):
        taken = into_reader(graph, state, reading)
        if taken is None:
            return _refused(_why(reading[0]))
        changed |= taken
    values = {value.name: held.scale.reciprocal() for value, held in reached(node, down)}
    taps = graph.tap_of_node
    scales = {taps[name].name: scale for name, scale in values.items() if name in taps}
    return _checked(state, Rescaling(changed, scales))


def row_norms(graph: NetworkGraph, state: State, node: Node) -> Tensor | None:
    """Return the norm of the weights that make each channel; None if they are not a layer's own.

    For a norm it is the root of weight^2 + bias^2: the second moment of what it returns.
    """
    if packet(node) in NORMS:
        first = 1 if packet(node) in (aten.batch_norm, aten.instance_norm) else 2
        names = [graph.owned(argument(node, position)) for position in (first, first + 1)]
        if None in names:
            return None
        return torch.stack([state[name].double() for name in names if name]).norm(dim=0)
    weight = argument(node, 1, "weight")
    lengths = isinstance(weight, Node) and packet(weight) is aten._weight_norm
    name = graph.owned(argument(weight, 1) if lengths else weight)
    if name is None:
        return None
    value = state[name].double()
    transposed, groups = convolution_form(node) if packet(node) in CONVOLUTIONS else (False, 1)
    if not transposed:
        return value.flatten(1).norm(dim=1)
    return value.unflatten(0, (groups, -1)).movedim(2, 1).flatten(2).norm(dim=2).flatten()


def _through_norm(norm: RunningNorm, state: State, factor: Tensor) -> Changes:
    """Return a BatchNorm's tensors behind a layer whose channels are scaled.

    The weight goes with the variance as it is stored, so that its rounding does no harm.
    """
    var = state[norm.var].double()
    scaled_var = (var * factor.square()).to(state[norm.var].dtype).double()
    ratio = ((scaled_var + norm.eps) / (var + norm.eps)).sqrt() / factor
    return {
        norm.mean: state[norm.mean].double() * factor,
        norm.var: scaled_var,
        norm.weight: state[norm.weight].double() * ratio,
    }


def _channel_dim(graph: NetworkGraph, node: Node) -> int | None:
    """Return along which dimension a layer's or norm's own channels lie, if the graph agrees."""
    tap = graph.tap_of_node.get(node.name)
    target, rank = packet(node), len(shape(node))
    if target in CONVOLUTIONS:
        dim = rank + 1 - len(shape(argument(node, 1, "weight")))
    else:
        dim = rank - 1 if target in (aten.linear, aten.layer_norm, aten.rms_norm) else 1
    return dim if tap is not None and tap.channel_dim == dim else None


def _checked(state: State, found: Rescaling) -> Rescaling:
    for name, value in found.changed.items():
        if not bool(value.to(state[name].dtype).isfinite().all()):
            return _refused(f"{name!r} would be more than its dtype, {state[name].dtype}, can hold")
    return found


def _refused(why: str) -> Rescaling:
    return Rescaling({}, {}, why)


def _why(reader: Node) -> str:
    """Return why a reader cannot take the inverse of a scale."""
    if reader.op == "output":
        return "it is the output of the network"
    if packet(reader) in NORMS:
        return f"{reader.name} undoes a scale only up to its eps"
    if packet(reader) in SUMS:
        return f"a sum reads it ({reader.name})"
    return f"{reader.target} ({reader.name}) cannot undo a scale"
