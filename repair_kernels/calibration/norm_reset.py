"""BatchNorms' running statistics, computed anew on the calibration set; nothing else changes.

    running_mean = E[x]        running_var = Var[x]        (population, over all images)

x is what the BatchNorm reads in the network whose earlier BatchNorms are reset already: the whole
set stands before each BatchNorm in turn (see `frontier.py`). The published reset is one pass in
training mode with a cumulative average, where each batch is normalised by its own statistics and a
small batch weighs as much as a large one; here neither batch sizes nor their rests matter.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.calibration.frontier import Change, Frontier, Schedule
from repair_kernels.calibration.sequential import Pooled
from repair_kernels.errors import ArgumentError
from repair_kernels.folding.makers import running_statistics
from repair_kernels.graph.execution import Run
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.progress import meter
from repair_kernels.ranks import ALONE, Ranks
from repair_kernels.rules import argument


@dataclass(frozen=True)
class RunningNorm:
    """A BatchNorm, and the names of its running statistics."""

    node: Node
    mean: str
    var: str


def running_norms(graph: NetworkGraph) -> list[RunningNorm]:
    """Return the BatchNorms whose running statistics are theirs alone, in graph order."""
    held = ((node, running_statistics(graph, node)) for node in graph.nodes)
    return [RunningNorm(node, found[0], found[1]) for node, found in held if found is not None]


def check_has_norms(graph: NetworkGraph) -> None:
    """Check that there is something to reset.

    Raises:
        ArgumentError: when no BatchNorm has running statistics
    """
    if not running_norms(graph):
        raise ArgumentError(
            "variant 'reset_norm' computes BatchNorms' running statistics anew, and this network "
            "has no BatchNorm with running statistics of its own; use 'forward' or 'sequential'"
        )


def reset_statistics(
    graph: NetworkGraph,
    state: State,
    pieces: Iterable[Tensor],
    *,
    restore: str = "both",
    network: str = "merged",
    budget: int | None = None,
    backend: str | None = None,
    ranks: Ranks = ALONE,
) -> State:
    """Return the new running statistics, by name.

    Args:
        graph, state: the network
        pieces: the calibration set; read once
        restore: "both", or the variances alone ("std"), or the means alone ("mean")
        network: what messages call the network
        budget: see `Frontier`
        ranks: whose pieces they are; all stand before a BatchNorm together
    Raises:
        ArgumentError: when there is no BatchNorm
        NonFiniteActivationError: naming the BatchNorm and the piece
    """
    check_has_norms(graph)
    found: State = {}
    placeholders = {source: name for name, source in graph.sources.items()}
    change: Change | None = None
    images, norms = getattr(pieces, "expected_images", None), len(running_norms(graph))
    with torch.no_grad(), meter("calibration", images) as done:
        frontier = Frontier(graph, state, pieces, budget, done=done, advances=norms)
        for nodes, norm in _stretches(graph):
            module = norm.mean.rpartition(".")[0]
            pooled = Pooled(f"{module} (input)", 1, network, backend, ranks)
            frontier.advance(nodes, argument(norm.node, 0).name, pooled.read, change)
            moments, new = pooled.moments(), {}
            if restore != "std":
                new[norm.mean] = moments.mean
            if restore != "mean":
                new[norm.var] = moments.var
            for name, values in new.items():
                found |= {alias: values.to(state[alias].dtype) for alias in graph.aliases[name]}
            change = _statistics({placeholders[name]: found[name] for name in new})
    return found


def _stretches(graph: NetworkGraph) -> Iterator[tuple[Schedule, RunningNorm]]:
    """Cut the schedule before each BatchNorm; what follows the last one is left out."""
    norms = {norm.node: norm for norm in running_norms(graph)}
    nodes: list[tuple[Node, list[Node]]] = []
    for node, unused in graph.schedule:
        if node in norms:
            yield nodes, norms[node]
            nodes = []
        nodes.append((node, unused))


def _statistics(values: State) -> Change:
    def replace(run: Run) -> None:
        for name, value in values.items():
            run.values[name] = value.to(run.device)

    return replace
