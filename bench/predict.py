"""Count the work of every shape, and predict from the compiled kernels how long it takes.

    python bench/predict.py [--compiled FILE] [--json FILE]

A prediction is no measurement. It says what the counted work and the compiled code allow, so that
a measured time can be held against it. For each launch of a call:

    memory    bytes / (0.9 · bandwidth · share in flight): every tensor once, partial sums included.
              Share in flight: what the resident programs have asked for at once, over bandwidth ·
              latency.
    products  flops of whole tiles / (rate of the unit · what the instruction reaches of it)
    issue     issue slots of the main loop · passes / (4 per clock and processor · 0.8)
    waves     products and issue are stretched to whole waves of resident programs
    time      max(memory, products, issue) + 2.5 µs for the launch
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench.compiled.launches as launches  # noqa: E402, I001  (first: it prepares the import of Triton)
import torch  # noqa: E402

from bench.measuring.provenance import provenance, write_rows  # noqa: E402
from bench.measuring.roofline import RATES, Rates, floor_seconds, unit_of  # noqa: E402
from repair_kernels.kernels import devices  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
# What a device-to-device copy reaches of the data sheet, on an H100 (3.0 of 3.35 TB/s) and on an
# H200 (4.3 of 4.8 TB/s).
COPY_SHARE = 0.9
# From asking for a line of memory to having it under load; published figures lie about there.
LATENCY = 800e-9
# What instructions reach of the data sheet: an 8192³ bf16 product by cuBLAS ran at 0.80 of it on an
# H100 (wgmma); `mma.sync` reaches 0.63 there (Luo et al. 2024, arXiv:2402.13499) and about all of
# it on an A100.
PRODUCT_SHARE = {
    ("sm_90", "wgmma"): 0.8,
    ("sm_90", "mma.sync"): 0.6,
    ("sm_80", "mma.sync"): 0.85,
    ("sm_90", None): 0.7,
    ("sm_80", None): 0.7,
}
ISSUE_SHARE = 0.8
LAUNCH = 2.5e-6

Compiled = dict[tuple[str, str, str], dict[str, Any]]


def predict(case: launches.Case, started: list[launches.Started], chip: str, compiled: Compiled):
    """Return the floor of a case on a chip, the predicted time, and what sets either."""
    rates = RATES[chip]
    unit = unit_of(case.dtype, case.precision)
    floor = floor_seconds(chip, case.bytes, case.flops, unit)
    total, limits = 0.0, []
    for launch in started:
        row = compiled[launch.launch.name, rates.arch, launch.launch.config]
        terms = launch_terms(case, launch, row, rates, unit)
        limits.append((max(terms.values()), max(terms, key=lambda term: terms[term])))
        total += max(terms.values()) + LAUNCH
    is_memory = case.is_memory_bound(rates.arch) if floor else True
    return {
        "floor": floor,
        "bound": "memory" if is_memory and floor == rates.memory_seconds(case.bytes) else "compute",
        "predicted": total,
        "limit": max(limits)[1],
    }


def launch_terms(
    case: launches.Case, started: launches.Started, row: dict[str, Any], rates: Rates, unit: str
) -> dict[str, float]:
    """Return the seconds of one launch that each resource asks for."""
    sizes = started.launch.sizes
    scalars = dict(started.scalars)
    resident = max(1, row["programs_at_once"]) * rates.processors
    at_once = min(started.programs, resident)
    n_bytes = sum(size for _, size in started.tensors)
    if case.op == "lerp_rescale":  # its kernel has addresses in a table
        n_bytes += case.bytes
    share = min(1.0, at_once * _in_flight(started, row, case) / (rates.bandwidth * LATENCY))
    terms = {"memory": n_bytes / (COPY_SHARE * rates.bandwidth * share)}

    per_wave = resident if started.programs >= resident else rates.processors
    waves = started.programs / per_wave
    stretch = math.ceil(waves) / waves
    split, block_n = scalars.get("split_size", 0), sizes.get("BLOCK_N", 0)
    if split and block_n:
        passes = -(-split // block_n) * started.programs
        slots = _slots(row["loops"], sizes, scalars) * sizes["num_warps"] * passes
        terms["issue"] = slots / (rates.processors * 4 * rates.clock * ISSUE_SHARE) * stretch
        if "PRECISION" in sizes:
            flops = 2 * sizes["BLOCK_C"] ** 2 * block_n * passes
            reached = rates.products[unit] * PRODUCT_SHARE[rates.arch, row["product"]]
            terms["products"] = flops / reached * stretch
    return terms


def _slots(loops: list[list[int]], sizes: dict[str, Any], scalars: dict[str, int]) -> float:
    """Return the issue slots of one pass: of the raw loop where there is one, else of the only one.

    What a branch can skip is done by the programs in turn.
    """
    if not loops:
        return 0.0
    slots, skippable = loops[0 if sizes.get("HAS_RAW") else -1]
    return slots - skippable + skippable / max(1, scalars.get("turns", 1))


def _in_flight(started: launches.Started, row: dict[str, Any], case: launches.Case) -> float:
    """Return the bytes that one program has asked for and not yet got."""
    sizes = started.launch.sizes
    inputs = sum(name in launches.INPUTS for name, _ in started.launch.signature)
    if not inputs:
        if "BLOCK_X" in sizes:  # partial products, 4 bytes each
            return 4 * sizes["BLOCK_S"] * sizes["BLOCK_X"] * sizes["BLOCK_Y"]
        if "BLOCK_S" in sizes:  # pivot, sum and squares of each split and channel, 8 bytes each
            return 3 * 8 * sizes["BLOCK_S"] * sizes["BLOCK_C"]
        return 16 * 32 * sizes["num_warps"]  # a vector for each thread
    block = sizes["BLOCK_N"] * sizes["BLOCK_C"] * inputs * launches.DTYPES[case.dtype].itemsize
    ahead = any(kind.startswith(("LDGSTS", "UTMA", "UBLK")) for kind in row["loads"])
    return block * (max(1, sizes["num_stages"] - 1) if ahead else 1)


def main() -> int:
    """Predict every case and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiled", type=Path, default=RESULTS / "compiled.json")
    parser.add_argument("--json", type=Path, default=RESULTS / "predicted.json")
    options = parser.parse_args()
    rows = json.loads(options.compiled.read_text())["rows"]
    compiled = {(row["kernel"], row["target"], row["config"]): row for row in rows}
    found = []
    for case, call in launches.cases():
        if case.dtype == "fp16":  # as bf16
            continue
        chips = {}
        for chip, rates in RATES.items():
            started = launches.launches_of(devices.KNOWN[rates.arch], call)
            chips[chip] = predict(case, started, chip, compiled)
        known = {key: value for key, value in vars(case).items() if key != "tap"}
        found.append({**known, "chips": chips})
    where = provenance("predict.py", torch.device("cpu"), sys.argv[1:])
    write_rows(options.json, where, found)
    print(f"{options.json}: {len(found)} cases on {len(RATES)} chips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
