"""Where and with what a result was measured."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import repair_kernels as rk

ROOT = Path(__file__).resolve().parents[2]


def provenance(script: str, device: torch.device, arguments: Sequence[str]) -> dict[str, Any]:
    """Return where and with what a result was measured."""
    return {
        "device": device_name(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "repair_kernels": rk.__version__,
        },
        "commit": commit(),
        "command": shlex.join(["python", f"bench/{script}", *arguments]),
    }


def commit() -> str:
    """Return the commit, and whether files differ from it; "unknown" in a copy without history."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True)
        return done.stdout.strip()

    if shutil.which("git") is None or not git("rev-parse", "HEAD"):
        return "unknown"
    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")


def write_rows(file: Path, where: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write a result: where it was measured, and its rows, one on each line."""
    head = json.dumps(where, indent=1).removesuffix("\n}")
    lines = ",\n".join(json.dumps(row) for row in rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{head},\n "rows": [\n{lines}\n]\n}}\n')


def device_name(device: torch.device) -> str:
    """Return what the device calls itself; a CPU's name comes with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), cpu)
    return f"{cpu}, {torch.get_num_threads()} threads"
