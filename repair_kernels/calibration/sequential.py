"""Taps corrected in graph order, each on the network that is corrected above it.

The whole calibration set stands at a tap, whose statistics are pooled over all of it; then every
piece is corrected there and goes on to the next tap (see `frontier.py`). So the goals hold on the
calibration set for the network as it is in evaluation mode, and the cost is one forward pass.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from repair_kernels import ops
from repair_kernels.affine import ChannelAffine
from repair_kernels.calibration.frontier import Change, Frontier, Schedule
from repair_kernels.calibration.goals import Affine, Goal, affine_to_goal
from repair_kernels.graph.execution import Run
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.graph.taps import Tap
from repair_kernels.moments import ChannelMoments
from repair_kernels.progress import meter
from repair_kernels.ranks import ALONE, Ranks
from repair_kernels.statistics.all_reduce import merged_channels
from repair_kernels.statistics.running import RunningMoments


def correct_in_order(
    graph: NetworkGraph,
    state: State,
    pieces: Iterable[Tensor],
    goals: Mapping[str, Goal],
    *,
    restore: str = "both",
    network: str = "merged",
    budget: int | None = None,
    backend: str | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Affine]:
    """Return the correction of each tap that has a goal.

    Args:
        graph, state: the network to correct
        pieces: the calibration set; read once
        goals: by tap
        restore: see `goals.RESTORE`
        network: what messages call the network
        budget: see `Frontier`
        ranks: whose pieces they are; all stand at a tap together
    Raises:
        NonFiniteActivationError: naming the tap and the piece
    """
    found: dict[str, Affine] = {}
    change: Change | None = None
    images = getattr(pieces, "expected_images", None)
    with torch.no_grad(), meter("calibration", images) as done:
        frontier = Frontier(graph, state, pieces, budget, done=done, advances=len(goals))
        for nodes, tap in _stretches(graph, goals):
            pooled = Pooled(tap.name, tap.channel_dim, network, backend, ranks)
            frontier.advance(nodes, tap.node, pooled.read, change)
            found[tap.name] = affine_to_goal(goals[tap.name], pooled.moments(), restore)
            change = _correction(tap, found[tap.name])
    return found


def _stretches(graph: NetworkGraph, goals: Mapping[str, Goal]) -> Iterator[tuple[Schedule, Tap]]:
    """Cut the schedule behind each tap to correct; what follows the last one is left out."""
    nodes = []
    for node, unused in graph.schedule:
        nodes.append((node, unused))
        tap = graph.tap_of_node.get(node.name)
        if tap is not None and tap.name in goals:
            yield nodes, tap
            nodes = []


def _correction(tap: Tap, affine: Affine) -> Change:
    layer = ChannelAffine(*affine, tap.channel_dim)

    def correct(run: Run) -> None:
        if tap.node in run.values:
            run.values[tap.node] = layer(run.values[tap.node])

    return correct


class Pooled:
    """The moments of one value over all pieces.

    Args:
        name: what messages call the value
        channel_dim: the dimension that counts its channels
        network: what messages call the network
        backend: see `ops`
        ranks: whose pieces they are
    """

    def __init__(
        self,
        name: str,
        channel_dim: int,
        network: str,
        backend: str | None,
        ranks: Ranks = ALONE,
    ):
        self._name, self._channel_dim, self._backend = name, channel_dim, backend
        self._ranks = ranks
        self._running = RunningMoments([network])

    def read(self, value: Tensor) -> None:
        """Take a piece's value."""
        sums = ops.channel_moments(value, channel_dim=self._channel_dim, backend=self._backend)
        n_samples = value.numel() // value.shape[self._channel_dim]
        self._running.add(self._name, 0, n_samples, sums)
        self._running.end_batch()

    def moments(self) -> ChannelMoments:
        """Return the moments of all ranks' values so far."""
        held = self._running.n_batches > 0 or self._ranks.size == 1
        own = {self._name: self._running.channels(self._name)} if held else {}
        return merged_channels(own, self._ranks)[self._name]
