"""Does a permuted network compute the same function? Both side by side, and what rounding does.

    deviation = max |y - y'| / max |y|        (y' in y's order of channels)

Everything runs in float64, where a permutation only changes the order of sums. How far that moves
an output depends on the network: one with batch norms stays at 1e-15, a deep one without may
amplify a rounding 1e8 times. So a third copy runs along, all of whose weights are off by one
rounding, up or down at random. The permuted copy may deviate `MARGIN` times as far as that copy
does, at every output and at every tap, and no farther.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from repair_kernels.errors import ArgumentError, FunctionChangedError
from repair_kernels.graph.execution import as_mapping, execute
from repair_kernels.graph.permutation import Permutation, tap_indices
from repair_kernels.graph.state import State
from repair_kernels.graph.taps import Tap

if TYPE_CHECKING:
    from repair_kernels.graph.network import NetworkGraph

MARGIN = 100.0
"""Other sums round otherwise than one rounding in every weight does, but alike in magnitude."""
FLOOR = 1e-13
"""Hundreds of roundings of float64: what a sum of ten thousand terms may be off by itself."""
CHAOS = 1e-3
"""A copy that is off by one rounding per weight and deviates as far as this proves nothing."""


def function_deviation(
    graph: NetworkGraph,
    state: State,
    permuted: State,
    permutations: Mapping[str, Permutation],
    batch: Tensor,
) -> float:
    """Return how far a permuted weight set's outputs are off, relative to the largest output.

    Args:
        state, permuted: the weight set, and what `permute_state` made of it
        permutations: by group
        batch: inputs on the device where to run; of none, nothing can be said, and 0 is returned
    Raises:
        FunctionChangedError: when the deviation is more than rounding, here or at a tap.
        ArgumentError: when a weight set holds no values.
    """
    if len(batch) == 0:
        return 0.0
    _check_values({**state, **graph.constants})
    widths = {name: graph.tap(name).channels for name in graph.taps}
    moved = tap_indices(graph.groups, permutations, widths)
    states = [widened(as_mapping(s, batch.device)) for s in (state, permuted)]
    generator = torch.Generator().manual_seed(0)
    states.append({name: jittered(tensor, generator) for name, tensor in states[0].items()})

    def compare(tap: Tap, values: list[Tensor]) -> None:
        index = moved[tap.name].to(batch.device)
        values = [values[0].index_select(tap.channel_dim, index), values[1], values[2]]
        values[2] = values[2].index_select(tap.channel_dim, index)
        _check_deviation(values, tap.name)

    with torch.no_grad():
        outputs = execute(graph, states, widen(batch), compare, graph.taps, torch.float64)
    tensors = [tensors_in(output) for output in outputs]
    return max(
        (_check_deviation(list(values), None) for values in zip(*tensors, strict=True)),
        default=0.0,
    )


def _check_deviation(values: list[Tensor], tap: str | None) -> float:
    """Return how far the second of three values is off, for which the third says what may be."""
    expected, permuted, jittered = values
    if not expected.is_floating_point() or expected.numel() == 0:
        return 0.0
    deviation, rounding = (relative_deviation(expected, other) for other in (permuted, jittered))
    limit = min(MARGIN * max(FLOOR, rounding), CHAOS)
    if deviation <= limit:
        return deviation
    where = f"; tap {tap!r} is the first that differs" if tap else ""
    why = (
        "this network turns a rounding of its weights into a deviation of "
        f"{rounding:.1e}, so nothing can be said on these inputs: pass a batch of real ones"
        if MARGIN * rounding > CHAOS
        else f"rounding explains {rounding:.1e} of it, so a permutation group of this "
        "architecture is wrong: please report it"
    )
    raise FunctionChangedError(
        "the permuted network must compute the same function; it deviates by "
        f"{deviation:.1e} of the largest value{where}; {why}",
        deviation=deviation,
        tap=tap,
    )


def relative_deviation(expected: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to the largest finite value; equal infinities pass."""
    difference = torch.where(expected == other, 0.0, (expected - other).abs())
    largest = torch.where(expected.isfinite(), expected.abs(), 0.0).max()
    return float(difference.max() / largest.clamp_min(torch.finfo(expected.dtype).tiny))


def example_batch(graph: NetworkGraph, state: State, seed: int) -> Tensor:
    """Return two inputs of standard normal numbers, of the shape that the graph was traced with.

    Raises:
        ArgumentError: when the network's inputs are no floating-point numbers.
    """
    traced = next(node.meta["val"] for node in graph.nodes if node.name == graph.input)
    if not traced.is_floating_point():
        raise ArgumentError(
            f"the network takes inputs of {traced.dtype}, which cannot be drawn at random; pass a "
            "`batch`"
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, *traced.shape[1:], generator=generator, dtype=torch.float64)
    device = next((tensor.device for tensor in state.values()), drawn.device)
    return drawn.to(device if device.type != "meta" else drawn.device)


def _check_values(state: State) -> None:
    missing = next((name for name, tensor in state.items() if tensor.is_meta), None)
    if missing is not None:
        raise ArgumentError(
            f"a network must have values to be run; {missing!r} is on the meta device; load a "
            "checkpoint, or trace a network that has values"
        )


def widen(tensor: Tensor) -> Tensor:
    """Return floats in float64, anything else as it is."""
    return tensor.double() if tensor.is_floating_point() else tensor


def widened(state: State) -> State:
    """Return a weight set in float64."""
    return {name: widen(tensor) for name, tensor in state.items()}


def jittered(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return values that are off by one rounding of their dtype, up or down at random."""
    if not tensor.is_floating_point():
        return tensor
    signs = 2 * torch.randint(0, 2, tensor.shape, generator=generator, dtype=tensor.dtype) - 1
    return tensor * (1 + torch.finfo(tensor.dtype).eps * signs.to(tensor.device))


def tensors_in(output: Any) -> list[Tensor]:
    """Return the tensors of a network's output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = list(output.values())
    found = output if isinstance(output, list | tuple) else ()
    return [tensor for value in found for tensor in tensors_in(value)]
