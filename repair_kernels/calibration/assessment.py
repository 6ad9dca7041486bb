"""What a calibration achieved on its own data: statistics at the corrected taps, and the loss.

    mean error = |E[X] - goal_mean| / goal_std        std error = |std[X] / goal_std - 1|

Both are those of the merged network as it is returned, folded and in evaluation mode. A tap whose
correction is in the weights of what reads it is taken as these readers see it. The loss is compared
with that of the network that was aligned only, image by image.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repair_kernels import ops
from repair_kernels.affine import ChannelAffine
from repair_kernels.batches import Batches
from repair_kernels.calibration.assembly import MergedNetwork
from repair_kernels.calibration.goals import Goal
from repair_kernels.calibration.output_losses import LossComparison, Losses
from repair_kernels.errors import ArgumentError, NonFiniteActivationError
from repair_kernels.folding.behind import as_readers_see
from repair_kernels.graph.execution import as_mapping, execute
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.graph.taps import Tap
from repair_kernels.moments import ChannelMoments
from repair_kernels.progress import counted
from repair_kernels.ranks import ALONE, Ranks
from repair_kernels.statistics.all_reduce import merged_channels
from repair_kernels.statistics.running import RunningMoments

ON_WORSE = ("aligned", "warn")
"""What to return if a calibration makes the loss worse: the aligned network, or the corrected one
with a warning."""


@dataclass(frozen=True)
class Exactness:
    """How far a tap is from its goal: the largest error over its live channels.

    Attributes:
        mean: |mean - goal| / goal std
        std: |std / goal - 1|
        dead: how many channels are excepted: dead in both endpoints, or in the merged network
    """

    mean: float
    std: float
    dead: int


@dataclass(frozen=True)
class Assessment:
    """What was found on the calibration data.

    Attributes:
        exactness: by corrected tap; empty if the corrected network overflows
        losses: of the aligned and the corrected network; None if the corrected one overflows
        overflow: which activation of the corrected network is not finite, if any is
    """

    exactness: Mapping[str, Exactness]
    losses: Losses | None
    overflow: str | None

    @property
    def is_worse(self) -> bool:
        """Whether the calibration made the network worse on the calibration data."""
        return self.losses is None or self.losses.is_worse

    def worse(self, returned: str) -> str:
        """Say what the calibration made worse, and which network is returned."""
        what = f"the corrected network overflows on the calibration data ({self.overflow})"
        if self.losses is not None:
            what = (
                f"the correction made the {self.losses.kind} on the calibration data worse: "
                f"{self.losses.corrected:.4g}, and {self.losses.aligned:.4g} aligned only"
            )
        if returned == "aligned":
            kept = "the aligned network is returned (`on_worse='warn'` returns the corrected)"
        else:
            kept = (
                "the corrected network is returned (`on_worse='aligned'` returns the aligned one)"
            )
        return f"{what}; {kept}"


MISSED = 0.5
"""A prediction of a std that is off by half of it is none."""


def closed_form_premise(exactness: Mapping[str, Exactness]) -> tuple[str, ...]:
    """Say at which taps the closed form's prediction does not hold, if at any."""
    missed = [tap for tap, found in exactness.items() if found.std > MISSED]
    if not missed:
        return ()
    return (
        f"the closed form's premise fails at {len(missed)} of {len(exactness)} taps, the "
        f"first {missed[0]!r}, where a std is off by {exactness[missed[0]].std:.0%}; "
        "'sequential' and 'forward' measure what it predicts",
    )


def assess(
    graph: NetworkGraph,
    merged: MergedNetwork,
    ends: tuple[State, State],
    goals: Mapping[str, Goal],
    data: Batches,
    alpha: float,
    *,
    backend: str | None = None,
    ranks: Ranks = ALONE,
) -> Assessment:
    """Run a corrected network over the data, beside the same one without corrections.

    Where only some images turn out to have class numbers, the data are read once more.

    Args:
        merged: the corrected network; its interpolated weights are the aligned one
        ends: the weights of both endpoints, aligned; run only where labels do not tell the loss
        goals: of each corrected tap
        ranks: whose data it is; the same is found on each
    """
    state, layers = merged.as_graph_sees(graph)
    aligned = merged.interpolated
    views = as_readers_see(graph, aligned, state, merged.corrections.affines, merged.behind)
    running = RunningMoments(["corrected"])
    comparison = LossComparison(alpha)
    network, states = None, []
    overflow, own, is_read = None, {}, False
    try:
        with torch.no_grad():
            for batch, labels in counted(data.labelled(), "assessment", data.expected_images):
                network = network or _Watched(graph, state, layers, views, goals, running, backend)
                states = states or [as_mapping(s, batch.device) for s in (aligned, *ends)]
                corrected = network.run(batch)
                running.end_batch()
                outputs = execute(graph, states[:1], batch)
                if comparison.needs_ends(outputs[0], labels):
                    outputs += execute(graph, states[1:], batch)
                comparison.add(corrected, outputs, labels)
        is_read = True
        own = {tap: running.channels(tap) for tap in goals if network is not None}
    except NonFiniteActivationError as error:
        overflow = str(error)
    if not is_read:
        ranks.wait()
    for said in ranks.exchange("overflow", overflow):
        if said is not None:
            return Assessment({}, None, said)
    seen = merged_channels(own, ranks)
    comparison.merge(ranks)
    if comparison.is_partial:
        comparison = LossComparison(alpha, use_labels=False)
        network = _Watched(graph, state, layers, {}, {}, running, backend)
        with torch.no_grad():
            for batch in counted(data, "losses", data.expected_images):
                states = [as_mapping(s, batch.device) for s in (aligned, *ends)]
                comparison.add(network.run(batch), execute(graph, states, batch), None)
        comparison.merge(ranks)
    exactness = {tap: exactness_of(seen[tap], wanted) for tap, wanted in goals.items()}
    return Assessment(exactness, comparison.result(), None)


class _Watched:
    """The corrected network, whose taps are read on the way."""

    def __init__(
        self,
        graph: NetworkGraph,
        state: State,
        layers: Mapping[str, ChannelAffine],
        views: Mapping[str, ChannelAffine],
        goals: Mapping[str, Goal],
        running: RunningMoments,
        backend: str | None,
    ):
        self._graph, self._state = graph, state
        self._layers, self._views = dict(layers), dict(views)
        self._taps: Sequence[str] = tuple({*layers, *goals})
        self._running, self._backend = running, backend
        self._goals = goals
        self._is_placed = False

    def run(self, batch: Tensor) -> object:
        if not self._is_placed:
            self._is_placed = True
            self._state = as_mapping(self._state, batch.device)
            for held in (self._layers, self._views):  # The network's own layers stay where they are
                held |= {tap: copy.deepcopy(y).to(batch.device) for tap, y in held.items()}
        return execute(self._graph, [self._state], batch, self._read, self._taps)[0]

    def _read(self, tap: Tap, values: list[Tensor]) -> list[Tensor]:
        [value] = values
        if tap.name in self._layers:
            value = self._layers[tap.name](value)
        if tap.name in self._goals:
            seen = self._views[tap.name](value) if tap.name in self._views else value
            sums = ops.channel_moments(seen, channel_dim=tap.channel_dim, backend=self._backend)
            n_samples = seen.numel() // seen.shape[tap.channel_dim]
            self._running.add(tap.name, 0, n_samples, sums)
        return [value]


def exactness_of(moments: ChannelMoments, wanted: Goal) -> Exactness:
    """Return how far a tap's channels are from their goals."""
    std, mean = wanted.std.to(moments.mean), wanted.mean.to(moments.mean)
    live = ~(moments.dead | wanted.dead.to(moments.mean.device))
    if not bool(live.any()):
        return Exactness(0.0, 0.0, live.numel())
    mean_error = (moments.mean - mean)[live].abs() / std[live]
    std_error = (moments.std[live] / std[live] - 1).abs()
    return Exactness(float(mean_error.max()), float(std_error.max()), int((~live).sum()))


def check_on_worse(on_worse: str | None, *, optional: bool = False) -> None:
    """Check what is to be done if a calibration makes the loss worse.

    Args:
        optional: whether None, for nothing, will do
    Raises:
        ArgumentError: when it is none of `ON_WORSE`
    """
    known = (*ON_WORSE, None) if optional else ON_WORSE
    if on_worse not in known:
        raise ArgumentError(
            f"`on_worse` must be one of {', '.join(map(repr, known))}; got {on_worse!r}"
        )
