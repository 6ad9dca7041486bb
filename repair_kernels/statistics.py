"""Statistics of two networks at every tap, in one pass over the data.

Both networks run in lockstep on one graph. At a tap the two activations meet the fused op, which
reads each once and returns the moments of this batch; they are merged into float64 totals by Chan's
rule and the activations are freed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from repair_kernels import ops
from repair_kernels.affine import ChannelAffine
from repair_kernels.batches import Batches
from repair_kernels.endpoints import capture_pair, choose_device, preserved_rng
from repair_kernels.errors import (
    EmptyDataError,
    NonFiniteActivationError,
)
from repair_kernels.execution import as_mapping, execute
from repair_kernels.graph import (
    NetworkGraph,
    State,
    state_of,
)
from repair_kernels.moments import ChannelMoments, PairedMoments
from repair_kernels.paired_stats import PairedStats, all_reduce
from repair_kernels.taps import Tap


def compute_stats(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    *,
    taps: Sequence[str] | str | None = None,
    cross: Sequence[str] | str | None = None,
    n_samples: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "tf32x3",
    backend: str | None = None,
    process_group: Any = None,
    progress: bool = False,
) -> PairedStats:
    """Compute both networks' channel moments and cross-correlations in one pass over the data.

        mean, var of every channel of a and b;   corr[i, j] = cov(a_i, b_j) / (std a_i · std b_j)

    Args:
        model_a, model_b: two networks of one architecture; left as they are, run in evaluation mode
        batches: any iterable of input tensors, or of tuples, lists or dicts whose first item is the
            input
        taps: names of activations (see `trace(...).taps`) or of modules; "all"; default: the output
            of every convolution, linear map and residual block, and the taps that matching reads
        cross: the taps at which the full correlation matrix is kept; "all"; default: the taps that
            matching reads. Named taps are recorded also where `taps` leaves them out
        n_samples: how many images to use at most
        device: where to run; default: where `model_a` is
        precision: how a GPU multiplies float32: "tf32x3", "tf32" or "ieee"
        backend: None (by device), "triton" or "torch"
        process_group: a torch.distributed group over whose ranks the statistics are merged
        progress: whether to show a progress bar
    Returns:
        `PairedMoments` by tap name, float64, on the device
    Raises:
        ArchitectureMismatchError, NonFiniteWeightError, NonFiniteActivationError,
        CalibrationDataError, GraphCaptureError, ArgumentError
    Source:
        REPAIR (Jordan et al., 2023), §2.2 and §4
    Example:
        >>> a, b = (nn.Sequential(nn.Linear(3, 4), nn.ReLU()) for _ in "ab")
        >>> stats = compute_stats(a, b, [torch.rand(8, 3), torch.rand(5, 3)])
        >>> stats["0"].n_samples, stats["0"].mean_a.shape
        (13, torch.Size([4]))
    """
    device = choose_device(device, model_a)
    with preserved_rng(device):
        try:
            data = Batches(batches, n_samples=n_samples)
        except EmptyDataError:
            if process_group is None:
                raise
            # The other ranks wait for this one: a shard without data merges as nothing.
            return all_reduce(PairedStats({}, n_images=0), process_group)
        graph = capture_pair(model_a, model_b, data)
        data.device = device
        chosen = graph.resolve(taps, graph.default_taps)
        crossed = graph.resolve(cross, graph.match_taps)
        if cross not in (None, "all"):
            chosen = graph.resolve((*chosen, *crossed), ())
        stats = collect(
            graph,
            state_of(model_a),
            state_of(model_b),
            data,
            taps=chosen,
            cross=crossed,
            precision=precision,
            backend=backend,
            progress=progress,
        )
    return stats if process_group is None else all_reduce(stats, process_group)


def collect(
    graph: NetworkGraph,
    state_a: State,
    state_b: State,
    data: Batches,
    *,
    taps: Sequence[str],
    cross: Sequence[str],
    precision: str = "tf32x3",
    backend: str | None = None,
    progress: bool = False,
) -> PairedStats:
    """Run two weight sets over the data in lockstep; return their moments at `taps`."""
    totals: dict[str, PairedMoments] = {}
    watch = FiniteWatch(("a", "b"))
    n_images = 0

    def read(tap: Tap, values: list[Tensor]) -> None:
        sums = ops.paired_moments(
            values[0],
            values[1],
            channel_dim=tap.channel_dim,
            cross=tap.name in cross,
            precision=precision,
            backend=backend,
        )
        watch.see(tap.name, (sums.mean_a + sums.m2_a, sums.mean_b + sums.m2_b))
        moments = PairedMoments.from_sums(
            values[0].numel() // values[0].shape[tap.channel_dim], sums
        )
        totals[tap.name] = totals[tap.name].merge(moments) if tap.name in totals else moments

    states = None
    with torch.no_grad():
        for batch in tqdm(
            data, total=len(data) or None, disable=not progress, desc="statistics", unit="batch"
        ):
            states = states or [as_mapping(state, batch.device) for state in (state_a, state_b)]
            execute(graph, states, batch, read, taps)
            watch.next_batch()
            n_images += len(batch)
    watch.check()
    return PairedStats({tap: totals[tap] for tap in taps}, n_images=n_images)


def collect_channels(
    graph: NetworkGraph,
    state: State,
    data: Iterable[Tensor],
    *,
    taps: Sequence[str],
    affines: Mapping[str, ChannelAffine] | None = None,
    correct: Callable[[Tap, Tensor, ChannelMoments], Tensor] | None = None,
    network: str = "merged",
    backend: str | None = None,
) -> dict[str, ChannelMoments]:
    """Run one weight set over the data and return the moments of each tap.

    Args:
        graph, state, data: what to run
        taps: where to read
        affines: corrections by tap that are applied before the moments are read
        correct: called with a tap, its value and the moments of this batch after they are read;
            returns the value to go on with
        network: what messages call the network
        backend: see `ops`
    """
    totals: dict[str, ChannelMoments] = {}
    watch = FiniteWatch((network,))
    affines = affines or {}

    def read(tap: Tap, values: list[Tensor]) -> list[Tensor]:
        value = affines[tap.name](values[0]) if tap.name in affines else values[0]
        if tap.name not in taps:
            return [value]
        sums = ops.channel_moments(value, channel_dim=tap.channel_dim, backend=backend)
        watch.see(tap.name, (sums.mean + sums.m2,))
        moments = ChannelMoments.from_sums(value.numel() // value.shape[tap.channel_dim], sums)
        totals[tap.name] = totals[tap.name].merge(moments) if tap.name in totals else moments
        return [value if correct is None else correct(tap, value, moments)]

    states = None
    with torch.no_grad():
        for batch in data:
            states = states or [as_mapping(state, batch.device)]
            execute(graph, states, batch, read, [*taps, *affines])
            watch.next_batch()
    watch.check()
    return totals


class FiniteWatch:
    """Notices the first non-finite activation; on a GPU without waiting before the pass ends."""

    def __init__(self, networks: tuple[str, ...]):
        self.networks = networks
        self._batch = 0
        self._seen: list[tuple[str, int, Tensor]] = []

    def see(self, tap: str, sums: Sequence[Tensor]) -> None:
        """Take one vector per network that is non-finite where an activation was."""
        self._seen.append((tap, self._batch, torch.stack([s.isfinite().all() for s in sums])))

    def next_batch(self) -> None:
        """Note that a batch is done; on a CPU, where waiting costs nothing, report at once."""
        if self._seen and self._seen[-1][2].device.type == "cpu":
            self.check()
        self._batch += 1

    def check(self) -> None:
        """Raise NonFiniteActivationError if anything non-finite was seen."""
        if not self._seen:
            return
        finite = torch.stack([flags for _, _, flags in self._seen]).cpu()
        seen, self._seen = self._seen, []
        for (tap, batch, _), flags in zip(seen, finite.tolist(), strict=True):
            for network, ok in zip(self.networks, flags, strict=True):
                if not ok:
                    raise NonFiniteActivationError(
                        f"activations must be finite; network {network} has NaN or infinity at "
                        f"tap {tap!r} in batch {batch}; "
                        "check that batch's inputs, and the network's weights for overflow"
                    )
