"""Both networks and their statistics as one graph.

The captured graph is laid out twice, node by node, once per weight set, with the operators of
`library.py` at the taps; it ends at the last tap, so that what only the network's output needs is
not in it. Weights are inputs, not constants: one twin serves any weight sets of the architecture.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from repair_kernels import library  # noqa: F401  (registers the operators)
from repair_kernels.graph.network import NetworkGraph, State

aten = torch.ops.aten


class Twin:
    """One graph of both networks.

    Args:
        graph: the network
        device: where it is to run
        taps: by the names of taps, which products are summed there: "none", "diagonal", "cross",
            "joint"
        precision, backend: as in `ops.paired_moments`
    Attributes:
        module: the graph, a function of the batch and of what `inputs` returns; for each tap it
            returns the number of values in a's activation, and the operator's sums
        is_half: whether some activation has 16 bits
    """

    def __init__(
        self,
        graph: NetworkGraph,
        device: torch.device,
        taps: Mapping[str, str],
        *,
        precision: str = "tf32x3",
        backend: str | None = None,
    ):
        self.graph = graph
        self.device = device
        self._options = {"precision": precision, "backend": backend}
        self._constants: list[str] = []
        self._weights: list[tuple[int, str]] = []
        self._laid = Graph()
        self._copies: tuple[dict[Node, Node], dict[Node, Node]] = ({}, {})
        names = {graph.tap(name).node: name for name in taps}
        nodes = [node for node, _ in graph.schedule]
        last = max((i for i, node in enumerate(nodes) if node.name in names), default=-1)
        nodes = nodes[: last + 1]
        self._lay_inputs({value for node in nodes for value in node.all_input_nodes})
        results = {}
        for node in nodes:
            for copies in self._copies:
                copies[node] = self._lay(node, copies)
            # Before the next node, which may overwrite the activations.
            if name := names.get(node.name):
                results[name] = self._lay_statistics(node, name, taps[name])
        self._laid.output(tuple(results[name] for name in taps))
        self.module = GraphModule(graph.module, self._laid, "Twin")
        values = [node.meta.get("val") for node in nodes]
        self.is_half = any(
            isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
            for value in values
        )

    def inputs(self, states: Sequence[State]) -> list[Tensor]:
        """Gather what the module reads besides the batch; weight sets must be on the device."""
        constants = [self.graph.constants[name].to(self.device) for name in self._constants]
        return [*constants, *(states[network][name] for network, name in self._weights)]

    def _lay_inputs(self, read: Iterable[Node]) -> None:
        """Make inputs of the batch, then of the constants, then of each network's weights."""
        sources, read = self.graph.sources, set(read)
        batch = next(node for node in self.graph.nodes if node.name == self.graph.input)
        rest = [n for n in self.graph.nodes if n.op == "placeholder" and n in read and n != batch]
        constants = [node for node in rest if node.name not in sources]
        weights = [node for node in rest if node.name in sources]
        self._constants = [node.name for node in constants]
        for node in (batch, *constants):
            shared = self._laid.placeholder(node.name)
            for copies in self._copies:
                copies[node] = shared
        for network, copies in enumerate(self._copies):
            for node in weights:
                self._weights.append((network, sources[node.name]))
                copies[node] = self._laid.placeholder(f"{node.name}_{'ab'[network]}")
        for copies in self._copies:
            for node in (batch, *rest):
                if node.name in self.graph.overwritten:
                    copies[node] = self._laid.call_function(aten.clone.default, (copies[node],))

    def _lay(self, node: Node, copies: Mapping[Node, Node]) -> Node:
        """Copy one node, to run on the device at hand."""
        copy = self._laid.node_copy(node, copies.__getitem__)
        if copy.kwargs.get("device") is not None:
            copy.kwargs = {**copy.kwargs, "device": self.device}
        return copy

    def _lay_statistics(self, node: Node, name: str, products: str) -> tuple[Node, Node]:
        a, b = (copies[node] for copies in self._copies)
        sums = self._laid.call_function(
            torch.ops.repair_kernels.paired_moments.default,
            (a, b),
            {
                "channel_dim": self.graph.tap(name).channel_dim,
                "products": products,
                **self._options,
            },
        )
        return self._laid.call_method("numel", (a,)), sums
