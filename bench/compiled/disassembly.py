"""What the machine code of a compiled kernel does: loads, products, spills, and its main loop."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

# One line of SASS:  /*0a10*/  @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
SASS = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);")
TARGET = re.compile(r"\b0x([0-9a-f]+)\s*$")
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+)")
LOADS = ("LDG", "LDGSTS", "UTMALDG", "UBLKCP")
PRODUCTS = {  # instruction of the machine -> name of it in PTX
    "HGMMA": "wgmma",
    "UTCHMMA": "tcgen05",
    "UTCQMMA": "tcgen05",
    "HMMA": "mma.sync",
    "DMMA": "mma.sync",
}
AMD_LOAD = re.compile(r"^\s+(global|buffer)_load_(\w+)", re.MULTILINE)
AMD_WIDTHS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4}
# Issue slots beyond one: fp64 runs at half the rate of fp32 on sm_90 and sm_100 (a quarter on
# sm_80), conversions to and from it at an eighth (arithmetic throughput, CUDA C++ Programming
# Guide). Products run beside the issue slots.
SLOTS = {"DADD": 2, "DMUL": 2, "DFMA": 2, "DSETP": 2, "F2F": 8, "MUFU": 8}


@dataclass(frozen=True)
class Code:
    """What was read off one kernel's machine code."""

    registers: int
    spill_bytes: int  # for each thread
    product: str | None  # "mma.sync", "wgmma", "tcgen05", "mfma"; None without tensor cores
    loads: dict[str, int]  # "LDGSTS.128" -> how many such instructions
    widest_load: int  # bytes for each thread; a bulk copy counts as 16
    loops: list[tuple[int, int]]  # of NVIDIA's: see `_loops`


def read_code(compiled: Any) -> Code:
    """Read the machine code of what `triton.compile` returned."""
    return (
        _read_amdgcn(compiled.asm["amdgcn"])
        if "amdgcn" in compiled.asm
        else _read_cubin(compiled.asm["cubin"])
    )


def _read_cubin(cubin: bytes) -> Code:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [os.fspath(tool), "-sass", "-res-usage", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return read_sass(done.stdout)


def read_sass(text: str) -> Code:
    """Read what `cuobjdump -sass -res-usage` printed of one kernel."""
    resources = RESOURCES.search(text)
    if resources is None:
        raise RuntimeError(f"cuobjdump told no registers:\n{text[:2000]}")
    lines = [(int(m[1], 16), m[2], m[3].strip()) for m in SASS.finditer(text)]
    names = Counter(name.split(".")[0] for _, name, _ in lines)
    loads: Counter[str] = Counter()
    widest = 0
    for _, name, _ in lines:
        kind, *parts = name.split(".")
        if kind in LOADS:
            width = _width(kind, parts)
            widest = max(widest, width)
            loads[kind if kind[0] == "U" else f"{kind}.{8 * width}"] += 1
    found = [product for name, product in PRODUCTS.items() if names[name]]
    # A spilled register is stored to local memory, which lies in the stack frame.
    spills = int(resources[2]) if names["STL"] else 0
    return Code(
        int(resources[1]), spills, next(iter(found), None), dict(loads), widest, _loops(lines)
    )


def _width(kind: str, parts: list[str]) -> int:
    """Return the bytes that one thread loads."""
    if kind[0] == "U" or "128" in parts:
        return 16
    if "64" in parts:
        return 8
    return next((int(part[1:]) // 8 for part in parts if part in ("U8", "S8", "U16", "S16")), 4)


def _loops(lines: list[tuple[int, str, str]]) -> list[tuple[int, int]]:
    """Return (issue slots, those of them that a branch can skip) of loops that load, short first.

    A loop goes from a branch's target back to the branch.
    """
    found = []
    for address, name, rest in lines:
        target = _target(name, rest)
        if target is None or target >= address:
            continue
        body = [line for line in lines if target <= line[0] <= address]
        if any(name.split(".")[0] in LOADS for _, name, _ in body):
            skipped, end = [], 0
            for start, name, rest in body:
                skip = _target(name, rest)
                if skip is not None and start < skip <= address and start >= end:
                    skipped += [line for line in body if start < line[0] < skip]
                    end = skip
            found.append((_slots(body), _slots(skipped)))
    return sorted(found)


def _target(name: str, rest: str) -> int | None:
    target = TARGET.search(rest)
    return int(target[1], 16) if name.startswith("BRA") and target else None


def _slots(lines: list[tuple[int, str, str]]) -> int:
    kinds = [name.split(".")[0] for _, name, _ in lines]
    return sum(SLOTS.get(kind, 1) for kind in kinds if kind not in PRODUCTS and kind != "NOP")


def _read_amdgcn(text: str) -> Code:
    loads: Counter[str] = Counter()
    widest = 0
    for space, kind in AMD_LOAD.findall(text):
        width = next((w for name, w in AMD_WIDTHS.items() if kind.endswith(name)), 2)
        widest = max(widest, width)
        loads[f"{space}.{8 * width}"] += 1
    product = "mfma" if re.search(r"\bv_s?mfma_", text) else None
    # In bytes for each lane, as NVIDIA counts them. Spilled scalars go to vector registers.
    spills = 4 * _number(r"\.vgpr_spill_count:\s*(\d+)", text)
    registers = _number(r"\.vgpr_count:\s*(\d+)", text)
    return Code(registers, spills, product, dict(loads), widest, [])


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"the compiler's output has no match for {pattern!r}:\n{text[-2000:]}")
    return int(found[1])
