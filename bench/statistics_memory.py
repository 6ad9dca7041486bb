"""Measure the memory that `compute_stats` takes on a CPU beside one plain pass of both networks.

    python bench/statistics_memory.py [--processes 5] [--json bench/results/statistics_memory.json]

The largest resident set of a fresh process (Linux) that makes two networks, traces one of them and
then runs either three batches through both, or the statistics of these. Which thread allocates
first is a matter of chance, so that each is measured in several processes, in turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import repair_kernels as rk  # noqa: E402
from bench.measuring.provenance import provenance, write_rows  # noqa: E402
from bench.statistics_cost import CASES, Case  # noqa: E402

BATCHES = 3


def resident(key: str) -> int:
    """Return the resident set of this process in bytes: "VmRSS" now, "VmHWM" at its largest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"this system does not tell {key}")


def memory_of(case: Case, what: str) -> dict[str, int]:
    """Return the largest resident set in plain passes or statistics, and its growth."""
    model_a, model_b, x = case.pair()
    rk.trace(model_a, x)  # imports most of PyTorch, in both cases
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the largest so far is forgotten
    if what == "plain":
        with torch.no_grad():
            for _ in range(BATCHES):
                _ = model_a(x), model_b(x)
    else:
        rk.compute_stats(model_a, model_b, [x] * BATCHES, backend="torch")
    peak = resident("VmHWM")
    return {"peak_bytes": peak, "grown_bytes": peak - before}


def in_its_own_process(name: str, what: str) -> dict[str, int]:
    """Measure in a fresh process, since a resident set never shrinks."""
    command = [sys.executable, __file__, "--measure", name, what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--processes", type=int, default=5, help="of each kind")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "WHAT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        name, what = options.measure
        print(json.dumps(memory_of(CASES[name], what)))
        return 0
    rows: list[dict[str, Any]] = []
    for name in options.case:
        row: dict[str, Any] = {"case": CASES[name].label, "plain": [], "statistics": []}
        for _ in range(options.processes):
            for what in ("plain", "statistics"):
                row[what].append(in_its_own_process(name, what))
                print(f"{row['case']}: {what}: {row[what][-1]}", flush=True)
        rows.append(row)
    device = torch.device("cpu")
    where = provenance("statistics_memory.py", device, arguments or sys.argv[1:])
    if options.json:
        write_rows(options.json, where, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
