"""Compile every kernel and launch configuration for real chips, on any machine, and check them.

    python bench/compile_kernels.py [--quick] [--target sm_90 ...] [--kernel NAME] [--json FILE]

`--json -` prints the rows as JSON. The launchers run on tensors without storage, once for each tap
and parameter of `bench/shapes.py`, and what they would launch is compiled: nothing is written down
twice. Exit status 1 when a kernel needs more shared memory than the chip has, or spills registers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

# Compiling needs the compiler: the interpreter's kernels hold no source.
os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # today's default, without the warning
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.backends.nvidia.compiler import get_ptxas  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from bench.shapes import TAPS, WEIGHTS  # noqa: E402
from repair_kernels.kernels import (  # noqa: E402
    channel_moments,
    devices,
    lerp_rescale,
    paired_moments,
)

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
POINTERS = {torch.float64: "*fp64", torch.int64: "*i64"}
POINTERS |= {dtype: f"*{name}" for name, dtype in DTYPES.items()}
OPTIONS = ("num_warps", "num_stages")
TENSOR_CORE = re.compile(r"\bmma\.sync|\bwgmma\.mma_async|\btcgen05\.mma|\bv_s?mfma_")


@dataclass(frozen=True)
class Launch:
    """One kernel as a launcher would start it, without the values of its arguments."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]  # argument -> type; "constexpr" for the next ones
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]  # arguments that 16 divides
    options: tuple[tuple[str, int], ...]

    @property
    def config(self) -> str:
        """Everything that tells this launch from others of its kernel, on one line."""
        types = {kind.lstrip("*") for name, kind in self.signature if name in ("a_ptr", "x_ptr")}
        strides = [name for name, value in self.constants if name.startswith("stride") and value]
        values = [f"{name}={value}" for name, value in self.constants if name.isupper()]
        values += [f"{name}={value}" for name, value in self.options]
        dense = [f"unit({','.join(name.removeprefix('stride_') for name in strides)})"]
        sizes = [name for name, kind in self.signature if kind in ("i32", "i64")]
        odd = [name.removeprefix("stride_") for name in sizes if name not in self.aligned]
        odd = [f"odd({','.join(odd)})"] if odd else []
        return " ".join([*sorted(types), *values, *(dense if strides else []), *odd])


class Recorder:
    """Stands for a kernel in its module and notes the launches."""

    def __init__(self, kernel: Any, launches: dict[Launch, None]):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self._note

    def _note(self, **arguments: Any) -> None:
        options = tuple((name, arguments.pop(name)) for name in OPTIONS)
        signature, constants, aligned = {}, {}, []
        for parameter in self.kernel.params:
            name, value = parameter.name, arguments[parameter.name]
            if isinstance(value, torch.Tensor):
                signature[name] = POINTERS[value.dtype]
                aligned.append(name)
            elif parameter.is_constexpr or (value == 1 and not parameter.do_not_specialize):
                signature[name] = "constexpr"
                constants[name] = value
            else:
                signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
                if value % 16 == 0 and not parameter.do_not_specialize:
                    aligned.append(name)
        launch = Launch(
            self.kernel, tuple(signature.items()), tuple(constants.items()), tuple(aligned), options
        )
        self.launches.setdefault(launch)


@contextmanager
def recording(device: devices.Device) -> Iterator[dict[Launch, None]]:
    """Note what the launchers would launch on `device` instead of launching it."""
    launches: dict[Launch, None] = {}
    with ExitStack() as patches:
        for launcher in (channel_moments, lerp_rescale, paired_moments):
            module = sys.modules[launcher.__module__]
            patches.enter_context(mock.patch.object(module, "device_of", return_value=device))
            for name, value in list(vars(module).items()):
                if isinstance(value, triton.JITFunction) and name.endswith("_kernel"):
                    recorder = Recorder(value, launches)
                    patches.enter_context(mock.patch.object(module, name, recorder))
        yield launches


def launches_on(device: devices.Device, quick: bool) -> list[Launch]:
    """Return the distinct launches for every tap and parameter, dtype, layout and precision."""
    taps = TAPS[-2:] if quick else TAPS
    weights = WEIGHTS[3:4] if quick else WEIGHTS
    dtypes = ["fp32", "bf16"] if quick else list(DTYPES)
    with recording(device) as launches:
        for name in dtypes:
            for tap in taps:
                a = torch.empty(tap.shape, dtype=DTYPES[name], device="meta")
                layouts = [a]
                if a.dim() == 4:
                    layouts.append(a.to(memory_format=torch.channels_last))
                for x in layouts:
                    channel_moments(x)
                    for precision in ("tf32x3", "tf32", "ieee") if name == "fp32" else ("ieee",):
                        paired_moments(x, x, precision=precision)
            for weight in weights:
                a = torch.empty(weight.shape, dtype=DTYPES[name], device="meta")
                vector = torch.empty(weight.shape[0], dtype=torch.float32, device="meta")
                channels = torch.empty(weight.shape[0], dtype=torch.int64, device="meta")
                index_in = channels if a.dim() > 1 else None
                lerp_rescale(a, a, 0.3)
                lerp_rescale(
                    a, a, 0.3, index_out=channels, index_in=index_in, scale=vector, shift=vector
                )
    return list(launches)


def compile_launch(launch: Launch, target: GPUTarget) -> Any:
    """Compile one launch as Triton's just-in-time compiler would."""
    positions = {name: index for index, name in enumerate(launch.kernel.arg_names)}
    source = ASTSource(
        fn=launch.kernel,
        signature=dict(launch.signature),
        constexprs=dict(launch.constants),
        attrs={(positions[name],): [["tt.divisibility", 16]] for name in launch.aligned},
    )
    return triton.compile(source, target=target, options=dict(launch.options))


def row_of(launch: Launch, name: str) -> dict[str, Any]:
    """Compile one launch for the target called `name` and read off what it needs."""
    compiled = compile_launch(launch, TARGETS[name])
    if name.startswith("sm_"):
        code = compiled.asm["ptx"]
        registers, spills = _read_ptxas(code)
    else:
        code = compiled.asm["amdgcn"]
        registers = _number(r"\.vgpr_count:\s*(\d+)", code)
        # In bytes per lane, as NVIDIA counts them. Spilled scalars go to vector registers.
        spills = 4 * _number(r"\.vgpr_spill_count:\s*(\d+)", code)
    return {
        "kernel": launch.kernel.__name__,
        "target": name,
        "config": launch.config,
        "shared_bytes": compiled.metadata.shared,
        "spill_bytes": spills,
        "registers": registers,
        "tensor_core": bool(TENSOR_CORE.search(code)),
    }


def _read_ptxas(ptx: str) -> tuple[int, int]:
    """Assemble PTX once more with Triton's own assembler, which tells registers and spills."""
    found = re.search(r"^\.target (sm_(\d+)\w*)", ptx, re.MULTILINE)
    if found is None:
        raise RuntimeError("the PTX names no target")
    tool = get_ptxas(int(found[2])).path
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [tool, "-v", f"--gpu-name={found[1]}", str(source), "-o", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    stores = _number(r"(\d+) bytes spill stores", done.stderr)
    return _number(r"Used (\d+) registers", done.stderr), stores


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"the compiler's output has no match for {pattern!r}:\n{text[-2000:]}")
    return int(found[1])


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
    widths = {"kernel": 34, "target": 7, "shared_bytes": 7, "registers": 5, "spill_bytes": 6}
    heads = {"kernel": "kernel", "target": "target", "shared_bytes": "shared", "registers": "regs"}
    heads["spill_bytes"] = "spills"
    print(" ".join(heads[key].ljust(width) for key, width in widths.items()), "tensor config")
    for row in rows:
        cells = " ".join(str(row[key]).ljust(width) for key, width in widths.items())
        print(cells, "yes   " if row["tensor_core"] else "no    ", row["config"])


def main() -> int:
    """Compile, print, check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few launches for each kernel")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--kernel", default="", help="only kernels with this in their name")
    parser.add_argument("--json", metavar="FILE", help="write the rows as JSON; - prints them")
    options = parser.parse_args()
    rows = []
    for target in options.target:
        seen = set()
        for launch in launches_on(devices.KNOWN[target], options.quick):
            key = launch.kernel.__name__, launch.config
            if options.kernel in key[0] and key not in seen:
                seen.add(key)
                rows.append(row_of(launch, target))
    if options.json == "-":
        print(json.dumps(rows, indent=1))
    else:
        print_table(rows)
        if options.json:
            Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    problems = [text for row in rows for text in complaints(row)]
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
