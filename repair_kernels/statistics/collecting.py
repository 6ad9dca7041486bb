"""Statistics of two networks at every tap, in one pass over the data.

Both networks run on one graph. Where products between them are wanted, the two activations meet the
fused op, which reads each once and returns the moments of this batch. Elsewhere, and on a CPU at
every tap, the moments of each are taken as soon as its value is there. They are merged into float64
totals by Chan's rule and the activations are freed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from repair_kernels import ops
from repair_kernels.batches import Batches, open_batches
from repair_kernels.endpoints import capture_pair, choose_device, preserved_rng
from repair_kernels.errors import ArgumentError, EmptyDataError
from repair_kernels.graph.compiled import CompiledPair
from repair_kernels.graph.execution import as_mapping, execute
from repair_kernels.graph.network import (
    NetworkGraph,
    State,
    state_of,
)
from repair_kernels.graph.side_by_side import side_by_side
from repair_kernels.graph.taps import Tap
from repair_kernels.progress import counted, shown
from repair_kernels.ranks import ALONE, Ranks
from repair_kernels.shard import Shard
from repair_kernels.statistics.all_reduce import merged_stats
from repair_kernels.statistics.identity import identify
from repair_kernels.statistics.memory_plan import plan_memory
from repair_kernels.statistics.numbered import NumberedBatches, Seekable, numbered
from repair_kernels.statistics.paired_stats import PairedStats
from repair_kernels.statistics.resuming import Checkpointing, Passage, ResumablePassage
from repair_kernels.statistics.row_sharded import RowShardedProducts


def compute_stats(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    *,
    taps: Sequence[str] | str | None = None,
    cross: Sequence[str] | str | None = None,
    joint: bool = False,
    n_samples: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "tf32x3",
    backend: str | None = None,
    compile: bool = False,
    process_group: Any = None,
    shard: Shard | str | None = None,
    checkpointing: Checkpointing | None = None,
    totals: str = "auto",
    progress: bool = False,
) -> PairedStats:
    """Compute both networks' channel moments and cross-correlations in one pass over the data.

        mean, var of every channel of a and b;   corr[i, j] = cov(a_i, b_j) / (std a_i · std b_j)

    Args:
        model_a, model_b: two networks of one architecture; left as they are, run in evaluation mode
        batches: any iterable of input tensors, or of tuples, lists or dicts whose first item is the
            input. Image sources' loaders, and all batches if there is a `shard` or `checkpointing`,
            must be the same in each process and run: see `numbered`
        taps: names of activations (see `trace(...).taps`) or of modules; "all"; default: the output
            of every convolution, linear map and residual block, and the taps that matching reads
        cross: the taps at which the full correlation matrix is kept; "all"; default: the taps that
            matching reads. Named taps are recorded also where `taps` leaves them out
        joint: whether at the taps of `cross` the matrices within a and within b are kept as well
        n_samples: how many images to use at most
        device: where to run; default: where `model_a` is
        precision: how a GPU multiplies float32: "tf32x3", "tf32" or "ieee"
        backend: None (by device), "triton" or "torch"
        compile: whether to compile both networks with their statistics by `torch.compile`, for
            batches of the first one's shape; a batch of another shape, such as a smaller last one,
            runs as without. Takes from seconds to minutes before the first batch
        process_group: a torch.distributed group (`dist.group.WORLD`): each rank gives its own
            batches, as many as it has or none, and all get the statistics of all ranks' images, the
            same bits. See docs/processes.md
        shard: which part of the batches to use, such as "3/16": the parts' statistics are merged by
            `merge` or `merge_files`. `n_samples` is that of all parts together
        checkpointing: where to keep the pass on its way, so that after a kill it goes on to the
            same bits (on the same kind of machine, with as many threads); with a group, each rank
            has a file of its own
        totals: where the sums of products are kept: on the "device"; on the "host", which takes a
            copy of each batch's; or by rows over the "ranks" of `process_group`, which exchange
            each batch's, and so go in step. "auto": the first of device, ranks and host where they
            fit, but not by rows with `checkpointing` or `compile`. See docs/memory.md
        progress: whether to show images per second and time left, on standard error; of several
            ranks the first one does
    Returns:
        `PairedMoments` by tap name, float64, on the device, or on the host if totals are there or
        were kept by rows
    Raises:
        ArchitectureMismatchError, NonFiniteWeightError, NonFiniteActivationError,
        CalibrationDataError, GraphCaptureError, CompilationError, ArgumentError,
        InsufficientMemoryError; FailedRankError or LostRankError where another rank failed, or is
        gone
    Source:
        REPAIR (Jordan et al., 2023), §2.2 and §4
    Example:
        >>> a, b = (nn.Sequential(nn.Linear(3, 4), nn.ReLU()) for _ in "ab")
        >>> stats = compute_stats(a, b, [torch.rand(8, 3), torch.rand(5, 3)])
        >>> stats["0"].n_samples, stats["0"].mean_a.shape
        (13, torch.Size([4]))
    """
    device = choose_device(device, model_a)
    ranks = Ranks(process_group, device)
    told = {"taps": taps, "cross": cross, "joint": joint, "shard": shard and str(shard)}
    told["totals"] = totals
    is_numbered = shard is not None or isinstance(batches, Seekable)
    is_shown = progress and ranks.is_first
    with preserved_rng(device), shown(is_shown), ranks.together("compute_stats", **told):
        if totals == "ranks":
            _check_rows(process_group, checkpointing, compile=compile)
        part: NumberedBatches | None = None
        if is_numbered or checkpointing is not None:
            part = _own_part(batches, shard, n_samples, ranks)
            data = open_batches([] if part is None else [part.example], None, ranks)
        else:
            data = open_batches(batches, n_samples, ranks)
        graph = capture_pair(model_a, model_b, data, ranks)
        chosen = graph.resolve(taps, graph.default_taps)
        crossed = graph.resolve(cross, graph.match_taps)
        if cross not in (None, "all"):
            chosen = graph.resolve((*chosen, *crossed), ())
        states = state_of(model_a), state_of(model_b)
        products = _products(chosen, set(crossed), set(), joint)
        data_print = None if part is None else part.fingerprint
        fingerprint = identify(graph, *states, products, data=data_print)
        passage = Passage()
        if part is not None and checkpointing is not None:
            checkpointing.check_processes(ranks.size)
            if ranks.size > 1:
                checkpointing = checkpointing.of_rank(ranks.rank, ranks.size)
            options = {"precision": precision, "backend": backend, "compile": compile}
            options["shard"] = str(part.shard)
            passage = ResumablePassage(checkpointing, part, fingerprint, options, device)
        try:
            data = data if part is None else _rest_of(part, data.example, ranks)
            data.device = device
            stats = collect(
                graph,
                *states,
                data,
                taps=chosen,
                cross=crossed,
                joint=joint,
                precision=precision,
                backend=backend,
                compile=compile,
                totals=totals,
                passage=passage,
                ranks=ranks,
            )
        except EmptyDataError:
            if part is None:
                raise
            stats = passage.stats(chosen)  # a shard without images, or a pass that was done
        if is_numbered and part is not None:
            fingerprint = replace(fingerprint, coverage=part.coverage)
        else:
            fingerprint = replace(fingerprint, data=None)
        is_known = part is not None or not is_numbered  # A rank without data says nothing of it.
        own = PairedStats(
            stats, n_images=stats.n_images, fingerprint=fingerprint if is_known else None
        )
        merged = merged_stats(own, ranks, overwrite=True)
        return merged if passage.rows is None else passage.rows.gathered(merged)


def _check_rows(process_group: Any, checkpointing: Checkpointing | None, *, compile: bool) -> None:
    """Refuse what does not go with totals that are kept by rows over the ranks."""
    if process_group is None:
        raise ArgumentError(
            '`totals="ranks"` needs `process_group`, whose ranks keep some rows each; got none; '
            "give one, or leave `totals` out"
        )
    if checkpointing is not None:
        raise ArgumentError(
            '`totals="ranks"` needs a pass that all ranks make in one go: a kill between their '
            "checkpoints would leave them with rows of different batches; got `checkpointing`; "
            'leave one of the two out, or take totals="host"'
        )
    if compile:
        raise ArgumentError(
            '`totals="ranks"` needs the sums of one tap after the other; got `compile=True`, which '
            "gives those of all taps at once; leave one of the two out"
        )


def _own_part(
    batches: Iterable[Any], shard: Shard | str | None, n_samples: int | None, ranks: Ranks
) -> NumberedBatches | None:
    """Return this rank's batches with their numbers; None if it has none and others may have."""
    try:
        part = numbered(batches, shard=shard, n_samples=n_samples)
        part.example  # noqa: B018
    except EmptyDataError:
        if ranks.size == 1:
            raise
        return None
    return part


def _rest_of(part: NumberedBatches, example: Tensor, ranks: Ranks) -> Batches:
    """Return what is to be counted yet; there may be nothing if there are other ranks."""
    if ranks.size == 1:
        return Batches(part)
    try:
        rest = Batches(part)
    except EmptyDataError:
        rest = Batches([example[:0]])
    rest.share(example, rest.is_repeatable, ranks)
    return rest


def collect(
    graph: NetworkGraph,
    state_a: State,
    state_b: State,
    data: Batches,
    *,
    taps: Sequence[str],
    cross: Sequence[str],
    diagonal: Sequence[str] = (),
    joint: bool = False,
    precision: str = "tf32x3",
    backend: str | None = None,
    compile: bool = False,
    totals: str = "auto",
    passage: Passage | None = None,
    ranks: Ranks = ALONE,
) -> PairedStats:
    """Run two weight sets over the data in lockstep; return their moments at `taps`.

    Args:
        cross: where products between all channels are kept
        diagonal: where only those of paired channels are
        joint: whether products within each network are kept, too, at the taps of `cross`
        compile: whether to compile both networks with their statistics
        totals: where sums of products are kept
        passage: what was counted before, to be gone on with; holds the sums of products if they are
            kept by rows, and then these statistics have none
        ranks: those that may keep the sums of products by rows
    """
    crossed, diagonals = set(cross), set(diagonal) - set(cross)
    together = [tap for tap in taps if tap in crossed | diagonals]
    passage = passage or Passage()
    running = passage.running
    products = _products(taps, crossed, diagonals, joint)
    device = data.device or data.first.device
    plan = plan_memory(
        graph,
        (state_a, state_b),
        data.first,
        products,
        device=device,
        totals=totals,
        compile=compile,
        ranks=ranks,
        by_rows=not (compile or passage.is_kept),
    )
    plan.check()
    running.keep_products_on(torch.device("cpu") if plan.on_host else device)
    rows = RowShardedProducts(plan.layout, ranks, device) if plan.by_rows else None
    passage.rows, data.in_step = rows, plan.by_rows

    def read_both(tap: Tap, values: list[Tensor]) -> None:
        a, b = values
        is_crossed = tap.name in crossed
        onto = None
        if is_crossed and rows is None:
            widths = a.shape[tap.channel_dim], b.shape[tap.channel_dim]
            onto = running.onto(tap.name, *widths, a.device)
        sums = ops.paired_moments(
            a,
            b,
            moments=running.added(tap.name),
            onto=onto,
            channel_dim=tap.channel_dim,
            cross=is_crossed or "diagonal",
            joint=joint and is_crossed,
            precision=precision,
            backend=backend,
        )
        if rows is not None:
            sums = rows.add(tap.name, _positions(a, tap), sums)
        running.add_pair(tap.name, _positions(a, tap), sums)

    def read_one(tap: Tap, network: int, value: Tensor) -> None:
        sums = ops.channel_moments(value, channel_dim=tap.channel_dim, backend=backend)
        running.add(tap.name, network, _positions(value, tap), sums)

    states = compiled = None
    weights: list[Tensor] = []
    with torch.no_grad(), side_by_side(2, device) as for_each:
        for batch in counted(data, "statistics"):
            states = states or [as_mapping(state, batch.device) for state in (state_a, state_b)]
            # Compiled for the first batch's size, which a pass that goes on may not meet at first.
            if compile and compiled is None and passage.first_size in (None, len(batch)):
                compiled = CompiledPair(
                    graph, batch, products, precision=precision, backend=backend
                )
                weights = compiled.inputs(states)
            if compiled is not None and compiled.takes(batch):
                for name, (n, sums) in compiled(weights, batch).items():
                    running.add_pair(name, n, sums)
            else:
                read_twice = set() if ops.reads_once(batch, backend) else set(together)
                execute(
                    graph,
                    states,
                    batch,
                    read_both,
                    together,
                    on_each=read_one,
                    each=[tap for tap in taps if tap in read_twice or tap not in together],
                    for_each=for_each,
                    overwrite=True,
                )
            passage.end_batch(len(batch))
        if rows is not None:
            rows.end()
        passage.end()
    return passage.stats(taps)


def _products(
    taps: Sequence[str], crossed: set[str], diagonals: set[str], joint: bool
) -> dict[str, str]:
    """Return by tap what is summed there, as `library.PRODUCTS` calls it."""
    full = "joint" if joint else "cross"
    return {
        tap: full if tap in crossed else "diagonal" if tap in diagonals else "none" for tap in taps
    }


def _positions(value: Tensor, tap: Tap) -> int:
    return value.numel() // value.shape[tap.channel_dim]
