"""Compile every kernel and launch configuration for real chips, on any machine, and check them.

    python bench/compile_kernels.py [--quick] [--target sm_90 ...] [--kernel NAME] [--json FILE]

What the launchers would launch for each tap and state of `bench/shapes.py` is compiled, and its
machine code read: registers, spills, tensor-core instructions, width of the loads. Exit status 1
when a kernel needs more shared memory than the chip has, or spills registers. `--json -` prints.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench.launches as launches  # noqa: E402, I001  (first: it prepares the import of Triton)
import torch  # noqa: E402
import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from bench.disassembly import read_code  # noqa: E402
from bench.occupancy import LIMITS  # noqa: E402
from bench.provenance import provenance, write_rows  # noqa: E402
from repair_kernels.kernels import devices  # noqa: E402

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
COLUMNS = {  # key of a row -> head and width in the printed table
    "kernel": ("kernel", 34),
    "target": ("target", 7),
    "shared_bytes": ("shared", 7),
    "registers": ("regs", 5),
    "spill_bytes": ("spills", 6),
    "programs_at_once": ("at once", 7),
    "occupancy": ("occ.", 5),
    "product": ("product", 8),
    "widest_load": ("load", 4),
}


def compile_launch(launch: launches.Launch, target: GPUTarget) -> Any:
    """Compile one launch as Triton's just-in-time compiler would."""
    positions = {name: index for index, name in enumerate(launch.kernel.arg_names)}
    source = ASTSource(
        fn=launch.kernel,
        signature=dict(launch.signature),
        constexprs=dict(launch.constants),
        attrs={(positions[name],): [["tt.divisibility", 16]] for name in launch.aligned},
    )
    return triton.compile(source, target=target, options=dict(launch.options))


def row_of(launch: launches.Launch, target: str, used_by: list[launches.Case]) -> dict[str, Any]:
    """Compile one launch for the target of that name and read off what it needs and does."""
    compiled = compile_launch(launch, TARGETS[target])
    code, shared = read_code(compiled), compiled.metadata.shared
    # A compiler may add warps of its own, which only copy or multiply.
    warps = launch.sizes["num_warps"]
    needs = warps, code.registers, shared
    return {
        "kernel": launch.name,
        "target": target,
        "config": launch.config,
        "shared_bytes": shared,
        "registers": code.registers,
        "spill_bytes": code.spill_bytes,
        "programs_at_once": LIMITS[target].programs_at_once(*needs),
        "occupancy": LIMITS[target].occupancy(*needs),
        "product": code.product,
        "loads": code.loads,
        "widest_load": code.widest_load,
        "possible_load": _possible_load(launch),
        "loop_slots": code.loop_slots,
        "memory_bound": any(case.is_memory_bound(target) for case in used_by),
        "cases": len(used_by),
    }


def _possible_load(launch: launches.Launch) -> int | None:
    """Return the bytes of an activation that the launch allows to load at once, None without any.

    Neighbours must lie side by side, from starts that the loads' width divides.
    """
    align = launch.sizes.get("ALIGN")
    kinds = [kind.lstrip("*") for name, kind in launch.signature if name in launches.INPUTS]
    if align is None or not kinds:
        return None
    return min(16, align * launches.DTYPES[kinds[0]].itemsize)


def compile_all(targets: list[str], quick: bool, kernel: str = "") -> list[dict[str, Any]]:
    """Compile every distinct launch once for each target."""
    rows = []
    for target in targets:
        used_by: dict[tuple[str, str], list[launches.Case]] = {}
        found: dict[tuple[str, str], launches.Launch] = {}
        for case, call in launches.cases(quick):
            for started in launches.launches_of(devices.KNOWN[target], call):
                key = started.launch.name, started.launch.config
                found.setdefault(key, started.launch)
                used_by.setdefault(key, []).append(case)
        rows += [
            row_of(launch, target, used_by[key])
            for key, launch in found.items()
            if kernel in launch.name
        ]
    return rows


def complaints(row: dict[str, Any]) -> list[str]:
    """Return what is wrong with one compiled launch."""
    limit = devices.KNOWN[row["target"]].shared_bytes
    found = []
    if row["shared_bytes"] > limit:
        found.append(f"needs {row['shared_bytes']} bytes of shared memory, the chip has {limit}")
    if row["spill_bytes"]:
        found.append(f"spills {row['spill_bytes']} bytes")
    return [f"{row['kernel']} on {row['target']} ({row['config']}) {text}" for text in found]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print one line for each compiled launch."""
    print(" ".join(head.ljust(width) for head, width in COLUMNS.values()), "config")
    for row in rows:
        cells = []
        for key, (_, width) in COLUMNS.items():
            value = f"{row[key]:.2f}" if key == "occupancy" else str(row[key] or "–")
            cells.append(value.ljust(width))
        print(" ".join(cells), row["config"])


def main() -> int:
    """Compile, print, check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few launches for each kernel")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--kernel", default="", help="only kernels with this in their name")
    parser.add_argument("--json", metavar="FILE", help="write the rows as JSON; - prints them")
    options = parser.parse_args()
    rows = compile_all(options.target, options.quick, options.kernel)
    if options.json == "-":
        print(json.dumps(rows, indent=1))
    else:
        print_table(rows)
    if options.json not in (None, "-"):
        where = provenance("compile_kernels.py", torch.device("cpu"), sys.argv[1:])
        where["versions"]["triton"] = triton.__version__
        write_rows(Path(options.json), where, rows)
    problems = [text for row in rows for text in complaints(row)]
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
