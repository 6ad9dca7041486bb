"""Corrections in the weights of what reads the tap: norms with running statistics, and layers.

    norm:  mean' = (mean - t) / s    var' + eps = (var + eps) / s^2    (else weight' = s weight)
    layer: W'_oi = W_oi s_i          b'_o = b_o + sum_i W_oi t_i

Zeros that a convolution pads with are not corrected along with the tap, so that a layer with zero
padding holds a pure scaling; so does a transposed convolution, of which not every output sees every
position of the kernel. All readers of a tap must be able to take the correction, or none does.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.folding.correction import Changes, Correction, convolution_form
from repair_kernels.folding.makers import RUNNING_NORMS, running_statistics, scaled_weight
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.graph.taps import CONVOLUTIONS, LAYERS
from repair_kernels.rules import IDENTITIES, argument, packet, shape

aten = torch.ops.aten

Reading = tuple[Node, Node, Correction]
"""An operator, the value that it reads, and the correction of that value."""


def into_norms(
    graph: NetworkGraph, state: State, node: Node, correction: Correction
) -> Changes | None:
    """Change the statistics of the norms that alone read the tap."""
    users = graph.users(node)
    if not users or any(packet(user) not in RUNNING_NORMS for user in users):
        return None
    return into_readers(graph, state, node, correction)


def into_readers(
    graph: NetworkGraph, state: State, node: Node, correction: Correction
) -> Changes | None:
    """Change the weights of everything that reads the tap, which must be read as it is.

    What is corrected itself on the way has to be folded before.
    """
    changed: Changes = {}
    for reading in _readings(node, correction):
        found = into_reader(graph, state, *reading)
        if found is None:
            return None
        changed |= found
    return changed or None


def into_reader(
    graph: NetworkGraph, state: State, reader: Node, value: Node, correction: Correction
) -> Changes | None:
    """Change the weights of one reader."""
    into = _into_norm if packet(reader) in RUNNING_NORMS else _into_layer
    return into(graph, state, reader, value, correction)


def _readings(node: Node, correction: Correction) -> Iterator[Reading]:
    """Yield what reads a value, seen through operators that a correction passes."""
    for value, at_value in reached(node, correction):
        for user in value.users:
            if passed(user, value, at_value) is None:
                yield user, value, at_value


def reached(node: Node, correction: Correction) -> Iterator[tuple[Node, Correction]]:
    """Yield a value and those that are corrected along with it, each with its correction."""
    yield node, correction
    for user in node.users:
        on = passed(user, node, correction)
        if on is not None:
            yield from reached(user, on)


def passed(user: Node, value: Node, correction: Correction) -> Correction | None:
    """Return the correction of an operator's result that is the same as that of its operand."""
    target = packet(user)
    if target in IDENTITIES:
        return correction
    if target in POOLS:
        padding, divisor = argument(user, 3, "padding", 0), argument(user, 6, "divisor_override")
        keeps_constants = _is_zero(padding) and divisor is None
        return correction if keeps_constants or not correction.shifts else None
    if target in (aten.max_pool1d, aten.max_pool2d, aten.max_pool3d):
        return correction if bool((correction.scale > 0).all()) else None
    if target in (aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten.adaptive_avg_pool3d):
        return correction
    if target is aten.pad:
        amounts, mode = argument(user, 1), argument(user, 2, "mode", "constant")
        if correction.dim >= len(shape(value)) - len(amounts) // 2:
            return None
        fill = argument(user, 3, "value") or 0
        return correction if mode != "constant" or not (correction.shifts or fill) else None
    if target in (aten.flatten, aten.view, aten.reshape):
        return _flattened(user, value, correction)
    return None


POOLS = {aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d}


def _flattened(user: Node, value: Node, correction: Correction) -> Correction | None:
    """Repeat a channel's correction where channels and positions become one dimension."""
    sizes = shape(value)
    positions = sizes[2:]
    whole = all(isinstance(size, int) for size in positions) and correction.dim == 1
    channels = len(correction.scale) * int(torch.Size(positions).numel()) if whole else 0
    if not whole or len(shape(user)) != 2 or shape(user)[1] != channels:
        return None
    repeats = channels // len(correction.scale)
    return replace(
        correction,
        scale=correction.scale.repeat_interleave(repeats),
        shift=correction.shift.repeat_interleave(repeats),
    )


def _is_zero(padding: object) -> bool:
    return padding == 0 or (isinstance(padding, list | tuple) and not any(padding))


def _into_norm(
    graph: NetworkGraph, state: State, norm: Node, value: Node, correction: Correction
) -> Changes | None:
    scale, shift = correction.scale, correction.shift
    held = running_statistics(graph, norm)
    # Behind a linear map on tokens, a BatchNorm's channels are the tokens.
    if held is None or correction.dim != 1 or argument(norm, 0) is not value:
        return None
    if bool((scale <= 0).any()):
        return None
    mean, var, eps = held
    old_var = state[var].double()
    new_var = (old_var + eps) / scale.square() - eps
    changed = {mean: (state[mean].double() - shift) / scale}
    in_weight = new_var < 0
    if bool(in_weight.any()):
        weight = graph.owned(argument(norm, 1))
        if weight is None:
            return None
        held_weight = state[weight].double()
        changed[weight] = torch.where(in_weight, held_weight * scale, held_weight)
    return {**changed, var: torch.where(in_weight, old_var, new_var)}


def _into_layer(
    graph: NetworkGraph, state: State, layer: Node, value: Node, correction: Correction
) -> Changes | None:
    target = packet(layer)
    if target not in LAYERS or layer.all_input_nodes.count(value) != 1:
        return None
    convolves = target in CONVOLUTIONS
    weight = argument(layer, 1, "weight")
    channels = len(shape(value)) - (len(shape(weight)) - 1 if convolves else 1)
    if argument(layer, 0) is not value or correction.dim != channels:
        return None
    changed = scaled_weight(graph, state, layer, correction.scale, of_outputs=False)
    if changed is None or not correction.shifts:
        return changed
    name, bias = graph.owned(weight), graph.owned(argument(layer, 2, "bias"))
    transposed, groups = convolution_form(layer) if convolves else (False, 1)
    if name is None or bias is None or transposed or (convolves and not _pads_nothing(layer)):
        return None
    shift = _through(state[name].double(), correction.shift, groups)
    return {**changed, bias: state[bias].double() + shift}


def _pads_nothing(layer: Node) -> bool:
    padding = argument(layer, 4, "padding", 0)
    kernel = shape(argument(layer, 1, "weight"))[2:]
    return (
        padding == "valid"
        or _is_zero(padding)
        or (padding == "same" and all(size == 1 for size in kernel))
    )


def _through(weight: Tensor, shift: Tensor, groups: int) -> Tensor:
    """Return what a layer makes of the same value at every position: sum_ik W_oik t_i."""
    per_input = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    parts = per_input.unflatten(0, (groups, -1))
    return torch.einsum("goi,gi->go", parts, shift.view(groups, -1)).flatten()
