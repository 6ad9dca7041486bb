"""Run one graph with several weight sets, from one common tap to the next.

At a tap where all weight sets are read together their values are alive at the same moment; they are
handed to a callback and freed after their last use, so that memory is that of as many plain forward
passes, whatever the number of taps. Between two such taps each weight set runs on its own, which
keeps its values in the cache. A tap is read before the next node runs, so operators that overwrite
their input (`relu_`) are harmless, and others may be made to (see `overwriting`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.fx import Node, map_arg

from repair_kernels.graph.side_by_side import ForEach, one_by_one
from repair_kernels.graph.state import State
from repair_kernels.graph.taps import Tap

if TYPE_CHECKING:
    from repair_kernels.graph.network import NetworkGraph

OnTap = Callable[[Tap, list[Tensor]], list[Tensor] | None]
"""Called with a tap and its value under each weight set; may return the values to go on with.

Either are the callback's only until it returns: a later operator may write over them.
"""
Schedule = list[tuple[Node, list[Node]]]
OnEach = Callable[[Tap, int, Tensor], None]
"""Called with a tap, the number of a weight set and its value."""


class Run:
    """The values of one weight set while its graph is run on one batch."""

    def __init__(
        self,
        graph: NetworkGraph,
        state: State,
        batch: Tensor,
        dtype: torch.dtype | None = None,
        *,
        overwrite: bool = False,
    ):
        self.graph = graph
        self.device = batch.device
        self.n_images = len(batch)
        self.dtype = dtype
        self._instead = graph.overwriting if overwrite and self.device.type == "cpu" else {}
        overwritten = graph.overwritten
        self.values: dict[str, Any] = {}
        for name, source in graph.sources.items():
            self.values[name] = state[source].clone() if name in overwritten else state[source]
        for name, constant in graph.constants.items():
            kept = constant.dtype if dtype is None or not constant.is_floating_point() else dtype
            self.values[name] = constant.to(self.device, kept, copy=name in overwritten)
        self.values[graph.input] = batch.clone() if graph.input in overwritten else batch

    def step(self, node: Node) -> Any:
        """Compute one node."""
        lookup = lambda n: self.values[n.name]  # noqa: E731
        if node.op == "call_function":
            args, kwargs = map_arg(node.args, lookup), map_arg(node.kwargs, lookup)
            if kwargs.get("device") is not None:
                kwargs = {**kwargs, "device": self.device}
            args = tuple(self._cast(value) for value in args)
            kwargs = {name: self._cast(value) for name, value in kwargs.items()}
            target = self._instead.get(node.name, node.target)
            self.values[node.name] = cast(Callable, target)(*args, **kwargs)
        elif node.op == "get_attr":
            self.values[node.name] = getattr(self.graph.module, str(node.target))
        elif node.op == "output":
            self.values[node.name] = map_arg(node.args[0], lookup)
        return self.values.get(node.name)

    def _cast(self, value: Any) -> Any:
        """Return an argument; where the graph asks for floats of a dtype, for the run's own."""
        asked = isinstance(value, torch.dtype) and value.is_floating_point
        return self.dtype if asked and self.dtype is not None else value

    def free(self, nodes: Sequence[Node]) -> None:
        """Forget values that no later node reads."""
        for node in nodes:
            self.values.pop(node.name, None)


def execute(
    graph: NetworkGraph,
    states: Sequence[State],
    batch: Tensor,
    on_tap: OnTap | None = None,
    taps: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    *,
    on_each: OnEach | None = None,
    each: Sequence[str] = (),
    for_each: ForEach = one_by_one,
    overwrite: bool = False,
) -> list[Any]:
    """Run the graph on one batch with each weight set.

    Args:
        states: weight sets, on the batch's device
        batch: the input; never changed
        on_tap: called at each of `taps`, in graph order
        dtype: that of all floats, the network's own casts included; default: as they come
        on_each: called at each of `each`, for each weight set when its value is fresh
        for_each: how to go through the weight sets between two taps; see `side_by_side`
        overwrite: whether, on a CPU, operators may write over values that nothing else reads;
            without gradients only. A GPU's allocator uses freed memory again as it is
    Returns:
        the network's output under each weight set
    """
    common, alone = set(taps if on_tap else ()), set(each if on_each else ())
    runs = [Run(graph, state, batch, dtype, overwrite=overwrite) for state in states]
    for stretch in _stretches(graph, common):

        def advance(index: int, stretch: Schedule = stretch) -> None:
            run = runs[index]
            for node, unused in stretch:
                value = run.step(node)
                tap = graph.tap_of_node.get(node.name)
                if on_each is not None and tap is not None and tap.name in alone:
                    on_each(tap, index, value)
                if node is not stretch[-1][0]:
                    run.free(unused)

        for_each(advance, len(runs))
        node, unused = stretch[-1]
        if on_tap is not None and node.op != "output":
            _meet(runs, node, on_tap, graph.tap_of_node[node.name])
        for run in runs:
            run.free(unused)
    outputs = [run.values[graph.nodes[-1].name] for run in runs]
    return [
        output[0] if isinstance(output, tuple | list) and len(output) == 1 else output
        for output in outputs
    ]


def _meet(runs: Sequence[Run], node: Node, on_tap: OnTap, tap: Tap) -> None:
    """Hand the values of a tap to the callback, and go on with what it returns."""
    replaced = on_tap(tap, [run.values[node.name] for run in runs])
    if replaced is not None:
        for run, value in zip(runs, replaced, strict=True):
            run.values[node.name] = value


def _stretches(graph: NetworkGraph, common: set[str]) -> Iterator[Schedule]:
    """Cut the schedule behind each common tap; the last stretch ends with the output."""
    stretch: Schedule = []
    for node, unused in graph.schedule:
        stretch.append((node, unused))
        tap = graph.tap_of_node.get(node.name)
        if node.op == "output" or (tap is not None and tap.name in common):
            yield stretch
            stretch = []


def as_mapping(state: Mapping[str, Tensor], device: torch.device) -> State:
    """Return a weight set on a device; tensors that are there already are not copied."""
    return {name: tensor.to(device) for name, tensor in state.items()}
