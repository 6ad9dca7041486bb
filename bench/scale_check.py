"""Hold the scale model against what one machine can show: 1 and 2 processes on its processor.

    python bench/scale_check.py [--json bench/results/scale_check.json]

Each process has one thread. It measures what its processor does (convolutions, memory, the start of
an operator, Gloo), counts the operators of one batch of `compute_stats`, and predicts from both:

    batch = Σ over operators of  max(bytes / bandwidth, flops / rate) + start
    exchange = sending, as in `exchange.py` + Σ over the operators that merge

Then it runs, with all processes at once and Gloo between them. Batches are compared in processor
time, which other work on the machine changes little, and the exchange by the clock; each the least
of several.
Bytes are those that the system counted as written by the processes during `all_reduce`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import repair_kernels as rk  # noqa: E402
from bench.measuring.provenance import provenance, write_rows  # noqa: E402
from bench.scaling.exchange import all_reduce, exchange_of, merging_of  # noqa: E402
from bench.scaling.workload import Operator, OperatorCount  # noqa: E402
from models.resnet import cifar_resnet, imagenet_resnet18, imagenet_resnet50  # noqa: E402
from repair_kernels.batches import Batches  # noqa: E402
from repair_kernels.graph.network import NetworkGraph, state_of  # noqa: E402
from repair_kernels.statistics.collecting import collect  # noqa: E402

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet20, 64 images of 32 px": (lambda: cifar_resnet(20), (64, 3, 32, 32)),
    "ResNet18, 8 images of 224 px": (imagenet_resnet18, (8, 3, 224, 224)),
    "ResNet50, 4 images of 224 px": (imagenet_resnet50, (4, 3, 224, 224)),
}
WORLDS = (1, 2)
ROUNDS, BATCHES, EXCHANGES = 10, 4, 5


@dataclass(frozen=True)
class Processor:
    """What one thread of a processor does: the constants of the model on this machine."""

    flops: float  # per second, of convolutions
    bandwidth: float  # bytes/s that elementwise operators read and write
    start: float  # seconds of an operator where there is next to nothing to compute

    def seconds(self, operators: list[Operator]) -> float:
        """Return the time that the model gives to operators, one after the other."""
        return sum(
            max(one.bytes / self.bandwidth, one.flops / self.flops) + self.start
            for one in operators
        )


def processor_time(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the processor time of a call, the least of several."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def measure_processor(largest: int) -> Processor:
    """Measure this process's thread.

    Args:
        largest: bytes that the largest operator of a network moves
    """
    x, weight = torch.randn(4, 64, 56, 56), torch.randn(64, 64, 3, 3)
    activation = torch.randn(largest // 8)
    written = torch.empty_like(activation)  # Memory that is there: its first use is the system's.
    flops = 2 * x.numel() * 64 * 9
    return Processor(
        flops=flops / processor_time(lambda: torch.conv2d(x, weight, padding=1)),
        bandwidth=largest / processor_time(lambda: torch.neg(activation, out=written)),
        start=operator_seconds(),
    )


def operator_seconds() -> float:
    """Return what an operator costs where there is next to nothing to compute: ResNet20, 8 px."""
    model, x = cifar_resnet(20).eval(), torch.randn(1, 3, 8, 8)
    graph = rk.trace(model, torch.randn(2, 3, 8, 8))
    stopwatch = Stopwatch(x)
    statistics(graph, model, stopwatch)
    return min(stopwatch.times) / len(operators_of_batch(graph, model, x))


def operators_of_batch(graph: NetworkGraph, model: nn.Module, x: Tensor) -> list[Operator]:
    """Return the operators of both networks and their statistics on one batch."""

    def counted(batches: int) -> list[Operator]:
        with OperatorCount() as count:
            statistics(graph, model, [x] * batches)
        return count.operators

    return counted(3)[len(counted(2)) :]  # the last: operators come batch by batch


def statistics(graph: NetworkGraph, model: nn.Module, batches: Any) -> rk.PairedStats:
    """Run a pair of networks with the default taps."""
    state = state_of(model)
    taps = {"taps": graph.default_taps, "cross": graph.match_taps}
    return collect(graph, state, state, Batches(batches), **taps)


class Stopwatch:
    """The same batch again and again, with the processor time between requests."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.times: list[float] = []

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches; the first one warms up, and is not timed."""
        yield self.x
        for _ in range(BATCHES):
            start = time.process_time()
            yield self.x
            self.times.append(time.process_time() - start)


def measure_gloo() -> tuple[float, float, float]:
    """Return the seconds of a tiny collective, bytes/s of a large one, and seconds of a message."""
    small, large = torch.zeros(1, dtype=torch.float64), torch.zeros(2**20, dtype=torch.float64)
    start = min(clocked(lambda: dist.all_reduce(small)) for _ in range(ROUNDS))
    whole = min(clocked(lambda: dist.all_reduce(large)) for _ in range(ROUNDS))
    ranks = dist.get_world_size()
    bandwidth = 2 * (ranks - 1) / ranks * large.numel() * 8 / max(whole - start, 1e-9)
    answers: list[None] = [None] * ranks
    message = min(clocked(lambda: dist.all_gather_object(answers, None)) for _ in range(ROUNDS))
    return start, bandwidth, message / (ranks - 1)


def clocked(work: Callable[[], Any]) -> float:
    """Return how long a call takes, started by all processes together."""
    dist.barrier()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def written_bytes() -> int:
    """Return what the system says that this process has written so far, sockets included."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def be_rank(rank: int, world: int, folder: str) -> None:
    """Be one process: predict, run, and leave what came of it in a file."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting{world}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    rows = [measure_case(name, world) for name in CASES]
    Path(folder, f"{world}-{rank}.json").write_text(json.dumps(rows))
    dist.destroy_process_group()


def measure_case(name: str, world: int) -> dict[str, Any]:
    """Return what was predicted and measured of one case on this rank."""
    build, shape = CASES[name]
    torch.manual_seed(dist.get_rank())
    model, x = build().eval(), torch.randn(shape)
    graph = rk.trace(model, x)
    operators = operators_of_batch(graph, model, x)
    dist.barrier()
    processor = measure_processor(max(operator.bytes for operator in operators))
    stopwatch = Stopwatch(x)
    stats = statistics(graph, model, stopwatch)
    start, bandwidth, step = measure_gloo() if world > 1 else (0.0, 1.0, 0.0)
    exchange = exchange_of(stats, dist.group.WORLD)
    sending = exchange.seconds(
        world, start=start, bandwidth=bandwidth, step=step, message_bandwidth=bandwidth
    )
    merging = processor.seconds(merging_of(stats)) if world > 1 else 0.0
    times, written = [], []
    for _ in range(EXCHANGES):
        dist.barrier()
        before = written_bytes()
        times.append(clocked(lambda: all_reduce(stats, dist.group.WORLD)))
        dist.barrier()
        written.append(written_bytes() - before)
    return {
        "processor": vars(processor),
        "gloo": {"start": start, "bandwidth": bandwidth, "step": step},
        "operators": len(operators),
        "bytes": sum(operator.bytes for operator in operators),
        "flops": sum(operator.flops for operator in operators),
        "batch_predicted": processor.seconds(operators),
        "batch_measured": min(stopwatch.times),
        "exchange": vars(exchange),
        "exchange_predicted": sending + merging,
        "merging_predicted": merging,
        "exchange_measured": min(times),
        "sent_predicted": exchange.sent_bytes(world),
        "sent_measured": median(written),
        "total_bytes": sum(t.numel() * 8 for m in stats.values() for t in m.tensors.values()),
    }


def gathered(ranks: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return one row of all ranks: times are the slowest rank's, bytes those of all together."""
    slowest = max(ranks, key=lambda rank: rank["batch_measured"])
    row = {"case": name, "processes": len(ranks), **slowest}
    row["sent_measured"] = sum(rank["sent_measured"] for rank in ranks)
    row["exchange_measured"] = max(rank["exchange_measured"] for rank in ranks)
    return row


def main() -> int:
    """Predict and run with every number of processes, and write both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = ROOT / "bench" / "results" / "scale_check.json"
    parser.add_argument("--json", type=Path, default=results, metavar="FILE")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for world in WORLDS:
            mp.start_processes(be_rank, (world, folder), nprocs=world, start_method="spawn")
            ranks = [
                json.loads(Path(folder, f"{world}-{r}.json").read_text()) for r in range(world)
            ]
            rows += [gathered([one[i] for one in ranks], name) for i, name in enumerate(CASES)]
    for row in rows:
        ratio = row["batch_predicted"] / row["batch_measured"]
        print(f"{row['case']}, {row['processes']} processes: predicted / measured {ratio:.2f}")
    torch.set_num_threads(1)
    write_rows(options.json, provenance("scale_check.py", torch.device("cpu"), sys.argv[1:]), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
