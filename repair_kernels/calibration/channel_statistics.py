"""Moments of each of several weight sets of one graph, in one pass over the data.

Each batch is loaded once, and runs with one weight set after the other, so that activations take
the memory of one forward pass however many weight sets there are. Statistics are pooled over all
samples; `BatchAverages` holds what published code computes instead.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from repair_kernels import ops
from repair_kernels.affine import ChannelAffine
from repair_kernels.graph.execution import as_mapping, execute
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.graph.taps import Tap
from repair_kernels.moments import ChannelMoments, PairedMoments
from repair_kernels.progress import counted
from repair_kernels.ranks import ALONE, Ranks
from repair_kernels.statistics.all_reduce import merged_channels
from repair_kernels.statistics.running import RunningMoments

Correct = Callable[[Tap, int, Tensor, ChannelMoments], Tensor]
"""Called with a tap, the number of the weight set, the tap's value and the moments of this batch;
returns the value to go on with."""


def collect_channels(
    graph: NetworkGraph,
    states: Sequence[State],
    data: Iterable[Tensor],
    *,
    taps: Sequence[str],
    affines: Sequence[Mapping[str, ChannelAffine]] | None = None,
    correct: Correct | None = None,
    networks: Sequence[str] | None = None,
    batch_mean: bool = False,
    backend: str | None = None,
    stage: str = "calibration",
    ranks: Ranks = ALONE,
) -> list[dict[str, ChannelMoments]]:
    """Run weight sets over the data and return the moments of each of them at each tap.

    Args:
        graph, states, data: what to run
        taps: where to read
        affines: for each weight set, corrections by tap, applied before the moments are read
        correct: see `Correct`
        networks: what messages call each weight set; default: "merged"
        batch_mean: whether to average over batches instead, see `BatchAverages`
        backend: see `ops`
        stage: what a progress bar calls this pass
        ranks: whose data it is; the moments are of all of it, those that `correct` gets of this
            rank's batch
    Raises:
        CalibrationDataError: there is no batch
        NonFiniteActivationError: an activation is not finite
    """
    running = (BatchAverages if batch_mean else RunningMoments)(
        networks or ["merged"] * len(states)
    )
    affines = affines or [{} for _ in states]

    def read(number: int, tap: Tap, value: Tensor) -> Tensor:
        if tap.name in affines[number]:
            value = affines[number][tap.name](value)
        if tap.name not in taps:
            return value
        sums = ops.channel_moments(value, channel_dim=tap.channel_dim, backend=backend)
        n_samples = value.numel() // value.shape[tap.channel_dim]
        running.add(tap.name, number, n_samples, sums)
        if correct is None:
            return value
        return correct(tap, number, value, ChannelMoments.from_sums(n_samples, sums))

    placed = None
    with torch.no_grad():
        for batch in counted(data, stage):
            placed = placed or [as_mapping(state, batch.device) for state in states]
            for number, state in enumerate(placed):
                execute(
                    graph,
                    [state],
                    batch,
                    lambda tap, values, number=number: [read(number, tap, values[0])],
                    [*taps, *affines[number]],
                )
            running.end_batch()
    is_mine = running.n_batches > 0 or ranks.size == 1
    keys = [(number, tap) for number in range(len(states)) for tap in taps]
    own = {(number, tap): running.channels(tap, number) for number, tap in keys if is_mine}
    found = merged_channels(own, ranks)
    return [{tap: found[number, tap] for tap in taps} for number in range(len(states))]


class BatchAverages(RunningMoments):
    """Means and standard deviations of each batch, averaged over batches of whatever size.

        mean = 1/k sum_k mean_k        std = 1/k sum_k std_k

    What the paper's published notebooks compute: a small last batch weighs as much as the others,
    and what differs between batches is lost. For comparisons only.
    """

    def __init__(self, networks: Sequence[str]):
        super().__init__(networks)
        self._sums: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._averaged = 0

    def end_batch(self) -> None:
        """Add this batch's means and standard deviations."""
        batch = [item for network in self._batch for item in network.items()]
        for key, (n, sums) in batch:
            moments = ChannelMoments.from_sums(n, sums)
            mean, std = self._sums.get(key, (0.0, 0.0))
            self._sums[key] = mean + moments.mean, std + moments.std
        self._averaged += bool(batch)
        super().end_batch()

    def channels(self, tap: str, network: int = 0) -> ChannelMoments:
        """Return the averages as moments of all samples that were seen."""
        pooled = super().channels(tap, network)
        mean, std = (total / self._averaged for total in self._sums[tap, network])
        return ChannelMoments(pooled.n_samples, mean, std.square() * pooled.n_samples)


def paired_averages(
    graph: NetworkGraph,
    state_a: State,
    state_b: State,
    data: Iterable[Tensor],
    *,
    taps: Sequence[str],
    backend: str | None = None,
) -> dict[str, PairedMoments]:
    """Return the averages over batches of both endpoints, as moments without products."""
    a, b = collect_channels(
        graph,
        [state_a, state_b],
        data,
        taps=taps,
        networks=("a", "b"),
        batch_mean=True,
        backend=backend,
        stage="statistics by batch",
    )
    return {
        tap: PairedMoments(a[tap].n_samples, a[tap].mean, a[tap].m2, b[tap].mean, b[tap].m2)
        for tap in taps
    }
