"""Measure `compute_stats` on a CPU against two plain inference passes of the same networks.

    python bench/statistics_cost.py [--batches 20] [--json bench/results/statistics_cost.json]

Before each batch that the statistics read, the same batch goes through both networks as plain
modules: so what is compared are slopes over batches, interleaved, without tracing or matching.
Weights and BatchNorm statistics are random. For memory see `statistics_memory.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import repair_kernels as rk  # noqa: E402
from bench.measuring.provenance import provenance  # noqa: E402
from models.resnet import imagenet_resnet18, imagenet_resnet50  # noqa: E402


@dataclass(frozen=True)
class Case:
    """Two networks of one architecture and the size of their batches."""

    label: str
    network: Any
    batch: int
    pixels: int

    def pair(self) -> tuple[nn.Module, nn.Module, Tensor]:
        """Return two networks with random BatchNorm statistics, and a batch."""
        torch.manual_seed(0)
        models = [self.network().eval() for _ in "ab"]
        for module in (module for model in models for module in model.modules()):
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
        return models[0], models[1], torch.randn(self.batch, 3, self.pixels, self.pixels)


CASES = {
    "resnet18": Case("ResNet18, 64 px, batch 64", imagenet_resnet18, 64, 64),
    "resnet50": Case("ResNet50, 128 px, batch 16", imagenet_resnet50, 16, 128),
}
PARTS = {
    "all": "all default taps",
    "moments": "moments of all default taps, no products",
    "graph": "one narrow tap: the graph alone",
}
KINDS = {
    "aten::sub": "centring",
    "aten::sum": "sums",
    "aten::linalg_vector_norm": "sums",
    "mkldnn::_linear_pointwise": "products",
    "aten::mm": "products",
}
WARM_UP = 2


class Interleaved:
    """Batches for `compute_stats`; runs the plain passes before each and times both."""

    def __init__(self, model_a: nn.Module, model_b: nn.Module, x: Tensor, batches: int):
        self.models, self.x, self.batches = (model_a, model_b), x, batches
        self.plain: list[float] = []
        self.statistics: list[float] = []

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batch again and again."""
        self.plain, self.statistics = [], []
        for _ in range(self.batches):
            start = time.perf_counter()
            with torch.no_grad():
                for model in self.models:
                    model(self.x)
            read = time.perf_counter()
            self.plain.append(read - start)
            yield self.x
            self.statistics.append(time.perf_counter() - read)


def options_of(part: str, graph: rk.NetworkGraph) -> dict[str, Any]:
    """Return what `compute_stats` is asked for."""
    smallest = min(graph.default_taps, key=lambda tap: graph.tap(tap).channels)
    return {
        "all": {},
        "moments": {"taps": graph.default_taps, "cross": ()},
        "graph": {"taps": [smallest], "cross": ()},
    }[part]


def time_of(case: Case, part: str, batches: int) -> dict[str, Any]:
    """Return the medians of both times, and of their ratio, for one batch."""
    model_a, model_b, x = case.pair()
    options = options_of(part, rk.trace(model_a, x))
    data = Interleaved(model_a, model_b, x, batches + WARM_UP)
    rk.compute_stats(model_a, model_b, data, backend="torch", **options)
    plain, ours = data.plain[WARM_UP:], data.statistics[WARM_UP:]
    ratios = [one / two for one, two in zip(ours, plain, strict=True)]
    return {
        "plain_seconds": statistics.median(plain),
        "statistics_seconds": statistics.median(ours),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
    }


def kind_of(name: str, shapes: list[Any]) -> str:
    """Return what an operation of PyTorch works for."""
    if name in KINDS:
        return KINDS[name]
    first = shapes[0] if shapes else []
    if len(first) == 4 or name == "aten::addmm":
        return "networks"
    return "totals" if name in ("aten::add_", "aten::addr_") and len(first) == 2 else "other"


def shares_of(case: Case, batches: int) -> dict[str, float]:
    """Return the shares of all operations' time, in both threads, that each kind takes."""
    model_a, model_b, x = case.pair()
    profile = torch.profiler.profile(
        record_shapes=True,
        experimental_config=torch._C._profiler._ExperimentalConfig(profile_all_threads=True),
    )

    def data() -> Iterator[Tensor]:
        for number in range(batches + WARM_UP):
            if number == WARM_UP:
                profile.start()
            yield x
        profile.stop()

    rk.compute_stats(model_a, model_b, data(), backend="torch")
    seconds: dict[str, float] = {}
    for event in profile.key_averages(group_by_input_shape=True):
        if event.key.startswith(("aten::", "mkldnn::")):
            kind = kind_of(event.key, list(event.input_shapes))
            seconds[kind] = seconds.get(kind, 0.0) + event.self_cpu_time_total
    return {kind: took / sum(seconds.values()) for kind, took in seconds.items()}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    options = parser.parse_args(arguments)
    rows = []
    for name in options.case:
        row: dict[str, Any] = {"case": CASES[name].label, "parts": {}}
        for part in PARTS:
            row["parts"][part] = found = time_of(CASES[name], part, options.batches)
            print(f"{CASES[name].label}: {PARTS[part]}: {found['ratio']:.2f}", flush=True)
        row["shares"] = shares_of(CASES[name], options.batches)
        print(f"{CASES[name].label}: {row['shares']}", flush=True)
        rows.append(row)
    device = torch.device("cpu")
    result = {**provenance("statistics_cost.py", device, arguments or sys.argv[1:]), "rows": rows}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
