"""Compile every kernel and launch configuration for real chips, on any machine, and check them.

    python bench/compile_kernels.py [--quick | --every] [--target sm_90 ...] [--json FILE]

What the launchers would launch for each tap and state of `bench/shapes.py` is compiled, and its
machine code read: registers, spills, tensor-core instructions, width of the loads. Exit status 1
when a kernel needs more shared memory than the chip has, or spills registers.

Each configuration is compiled once, with --every in every variant that Triton makes of it for
run-time sizes of 1 and multiples of 16. `--json -` prints the rows as JSON. A FILE is written as
the work goes on, and rows of it whose kernel has not changed are kept: a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench.compiled.launches as launches  # noqa: E402, I001  (first: it prepares the import of Triton)
import torch  # noqa: E402
import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from bench.compiled.disassembly import read_code  # noqa: E402
from bench.compiled.occupancy import LIMITS  # noqa: E402
from bench.measuring.provenance import provenance, write_rows  # noqa: E402
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


def row_of(
    launch: launches.Launch, target: str, used_by: list[launches.Case], known: dict[str, Any]
) -> dict[str, Any]:
    """Compile one launch for the target of that name and read off what it needs and does.

    Args:
        known: rows of earlier runs by their kernel's hash
    """
    what = {
        "kernel": launch.name,
        "target": target,
        "config": launch.config,
        "variant": launch.variant,
    }
    try:
        compiled = compile_launch(launch, TARGETS[target])
    except Exception as error:  # whatever the compiler says; it is a complaint in the end
        return what | {"failure": f"{type(error).__name__}: {error}"}
    use = {
        "memory_bound": any(case.is_memory_bound(target) for case in used_by),
        "cases": len(used_by),
    }
    if compiled.hash in known:
        return known[compiled.hash] | what | use
    code, shared = read_code(compiled), compiled.metadata.shared
    needs = launch.sizes["num_warps"], code.registers, shared
    return what | {
        "shared_bytes": shared,
        "registers": code.registers,
        "spill_bytes": code.spill_bytes,
        "programs_at_once": LIMITS[target].programs_at_once(*needs),
        "occupancy": LIMITS[target].occupancy(*needs),
        "product": code.product,
        "loads": code.loads,
        "widest_load": code.widest_load,
        "possible_load": _possible_load(launch),
        "loops": code.loops,
        **use,
        "hash": compiled.hash,
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


def compile_all(
    targets: list[str], quick: bool = False, every: bool = False, file: Path | None = None
) -> list[dict[str, Any]]:
    """Compile every distinct launch once for each target; with `file`, write down as rows come."""
    where = provenance("compile_kernels.py", torch.device("cpu"), sys.argv[1:])
    where["versions"]["triton"] = triton.__version__
    known = {}
    if file and file.exists():
        before = json.loads(file.read_text())["rows"]
        known = {row["hash"]: row for row in before if "hash" in row}
    rows = []
    for target in targets:
        used_by: dict[tuple[str, ...], list[launches.Case]] = {}
        found: dict[tuple[str, ...], launches.Launch] = {}
        for case, call in launches.cases(quick):
            for started in launches.launches_of(devices.KNOWN[target], call):
                launch = started.launch
                key = launch.name, launch.config, launch.variant if every else ""
                found.setdefault(key, launch)
                used_by.setdefault(key, []).append(case)
        for key, launch in found.items():
            rows.append(row_of(launch, target, used_by[key], known))
            if file and rows[-1].get("hash") not in known:
                done = {row.get("hash") for row in rows}
                rest = [row for hash_of, row in known.items() if hash_of not in done]
                write_rows(file, where, rows + rest)
    if file:
        write_rows(file, where, rows)
    return rows


def complaints(row: dict[str, Any]) -> list[str]:
    """Return what is wrong with one compiled launch."""
    limit = devices.KNOWN[row["target"]].shared_bytes
    found = []
    if "failure" in row:
        return [f"{row['kernel']} on {row['target']} ({row['config']}): {row['failure']}"]
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
            value = row.get(key) or "–"
            value = f"{value:.2f}" if isinstance(value, float) else str(value)
            cells.append(value.ljust(width))
        print(" ".join(cells), row["config"])


def main() -> int:
    """Compile, print, check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few launches for each kernel")
    parser.add_argument("--every", action="store_true", help="every variant of run-time sizes")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--json", metavar="FILE", help="write the rows as JSON; - prints them")
    options = parser.parse_args()
    file = Path(options.json) if options.json not in (None, "-") else None
    rows = compile_all(options.target, options.quick, options.every, file)
    if options.json == "-":
        print(json.dumps(rows, indent=1))
    else:
        print_table(rows)
    problems = [text for row in rows for text in complaints(row)]
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
