"""Run one graph with several weight sets in lockstep, node by node.

At a tap the values of all weight sets are alive at the same moment; they are handed to a callback
and freed after their last use, so that memory is that of as many plain forward passes, whatever the
number of taps. A tap is read before the next node runs, so operators that overwrite their input
(`relu_`) are harmless.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node, map_arg

from repair_kernels.graph import NetworkGraph, State
from repair_kernels.taps import Tap

OnTap = Callable[[Tap, list[Tensor]], list[Tensor] | None]
"""Called with a tap and its value under each weight set; may return the values to go on with."""


class Run:
    """The values of one weight set while its graph is run on one batch."""

    def __init__(
        self, graph: NetworkGraph, state: State, batch: Tensor, dtype: torch.dtype | None = None
    ):
        self.graph = graph
        self.device = batch.device
        self.dtype = dtype
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
            self.values[node.name] = cast(Callable, node.target)(*args, **kwargs)
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
) -> list[Any]:
    """Run the graph on one batch with each weight set, in lockstep.

    Args:
        states: weight sets, on the batch's device
        batch: the input; never changed
        on_tap: called at each of `taps`, in graph order
        dtype: that of all floats, the network's own casts included; default: as they come
    Returns:
        the network's output under each weight set
    """
    wanted = set(taps)
    runs = [Run(graph, state, batch, dtype) for state in states]
    outputs: list[Any] = []
    for node, unused in graph.schedule:
        outputs = [run.step(node) for run in runs]
        tap = graph.tap_of_node.get(node.name)
        if on_tap is not None and tap is not None and tap.name in wanted:
            replaced = on_tap(tap, outputs)
            if replaced is not None:
                for run, value in zip(runs, replaced, strict=True):
                    run.values[node.name] = value
        for run in runs:
            run.free(unused)
    return [
        output[0] if isinstance(output, tuple | list) and len(output) == 1 else output
        for output in outputs
    ]


def as_mapping(state: Mapping[str, Tensor], device: torch.device) -> State:
    """Return a weight set on a device; tensors that are there already are not copied."""
    return {name: tensor.to(device) for name, tensor in state.items()}
