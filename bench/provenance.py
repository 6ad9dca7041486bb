"""Where and with what a result was measured."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import repair_kernels as rk

ROOT = Path(__file__).resolve().parents[1]


def provenance(script: str, device: torch.device, arguments: Sequence[str]) -> dict[str, Any]:
    """Return where and with what a result was measured."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True)
        return done.stdout.strip()

    return {
        "device": device_name(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "repair_kernels": rk.__version__,
        },
        "commit": git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else ""),
        "command": shlex.join(["python", f"bench/{script}", *arguments]),
    }


def device_name(device: torch.device) -> str:
    """Return what the device calls itself; a CPU's name comes with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), cpu)
    return f"{cpu}, {torch.get_num_threads()} threads"
