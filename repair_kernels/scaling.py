"""Scale symmetries of a captured graph: scale what makes a value, undo it in all that reads it.

    layer -> BatchNorm:            W' = s W   b' = s b   mean' = s mean   var' = s^2 var
                                   weight' = weight sqrt(s^2 var + eps) / (s sqrt(var + eps))
    layer -> f -> layers:          rows' = s rows   columns' = columns / s,     f(s x) = s f(x)

The first holds for every s but 0, the second for s > 0 where f is made of ReLU and its kin, pooling
and reshapes. A BatchNorm without weights, or one behind a ReLU, takes 1 / s into its running
statistics: `folding/readers.py` says how. Nothing is approximated: LayerNorm, GroupNorm and RMSNorm
forget the scale of their input up to their eps only, so what they read stays.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.folding.correction import Changes, Correction, convolution_form
from repair_kernels.folding.makers import into_layer, running_statistics
from repair_kernels.folding.readers import into_reader, passed
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.graph.taps import CONVOLUTIONS, LAYERS, NORMS, SUMS
from repair_kernels.rules import argument, packet, shape

aten = torch.ops.aten


HOMOGENEOUS = {
    aten.relu,
    aten.relu_,
    aten.leaky_relu,
    aten.leaky_relu_,
    aten.prelu,
    aten.rrelu,
    aten.rrelu_,
    aten.abs,
}
"""Functions with f(s x) = s f(x) for every positive s."""
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
    """Multiply the channels of a layer's output, and undo it in what reads them.

    Args:
        state: a weight set; left as it is
        factor: by channel, float64, not 0; positive where no BatchNorm alone reads the layer
    """
    dim = _channel_dim(graph, node)
    if dim is None:
        return _refused("its channels lie along no dimension that the graph knows")
    up = Correction(factor, torch.zeros_like(factor), dim)
    changed = into_layer(graph, state, node, up)
    if changed is None:
        return _refused(NOT_ITS_OWN)
    norm = norm_behind(graph, node)
    if norm is not None:
        changed |= _through_norm(norm, state, factor)
        return _checked(state, Rescaling(changed, {graph.tap_of_node[node.name].name: factor}))
    if bool((factor <= 0).any()):
        return _refused("only a BatchNorm with weights that alone reads a layer turns signs")
    down = Correction(1 / factor, torch.zeros_like(factor), dim)
    scales: dict[str, Tensor] = {}
    for value, held in _reached(node, down):
        if value.name in graph.tap_of_node:
            scales[graph.tap_of_node[value.name].name] = 1 / held.scale
        for reader in (user for user in value.users if _scaled(user, value, held) is None):
            taken = into_reader(graph, state, reader, value, held)
            if taken is None:
                return _refused(_why(reader))
            changed |= taken
    return _checked(state, Rescaling(changed, scales))


def row_norms(graph: NetworkGraph, state: State, node: Node) -> Tensor | None:
    """Return the norm of the weights that make each channel; None if they are not a layer's own."""
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


def _reached(node: Node, correction: Correction) -> Iterator[tuple[Node, Correction]]:
    """Yield a value and all that a positive scale of it passes on to, each with its own scale."""
    yield node, correction
    for user in node.users:
        on = _scaled(user, node, correction)
        if on is not None:
            yield from _reached(user, on)


def _scaled(user: Node, value: Node, correction: Correction) -> Correction | None:
    """Return the scale of an operator's result, if it is that of its operand."""
    if packet(user) in HOMOGENEOUS:
        return correction if argument(user, 0) is value else None
    if packet(user) is aten.mean:
        return _averaged(user, value, correction)
    return passed(user, value, correction)


def _averaged(user: Node, value: Node, correction: Correction) -> Correction | None:
    """Follow a scale through a mean over dimensions that hold no channels."""
    rank = len(shape(value))
    dims = argument(user, 1, "dim")
    gone = {dim % rank for dim in dims} if dims else set(range(rank))
    if correction.dim in gone:
        return None
    kept = argument(user, 2, "keepdim", False)
    before = 0 if kept else sum(dim < correction.dim for dim in gone)
    return replace(correction, dim=correction.dim - before)


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
    """Return along which dimension a layer's channels lie, if the graph agrees."""
    tap = graph.tap_of_node.get(node.name)
    dim = len(shape(node)) - 1
    if packet(node) in CONVOLUTIONS:
        dim += 2 - len(shape(argument(node, 1, "weight")))
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
