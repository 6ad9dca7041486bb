"""The processes that torchrun starts, as one process group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from repair_kernels.devices import check_device


@dataclass(frozen=True)
class Process:
    """This process among those of a run.

    Attributes:
        rank, size: its number, and how many there are
        local_rank: its number on this machine
        group: of torch.distributed; None: it was started alone
        device: where it computes
    """

    rank: int
    size: int
    local_rank: int
    group: Any
    device: torch.device


@contextmanager
def started(device: torch.device | str | None, timeout: float) -> Iterator[Process]:
    """Join the other processes of torchrun, if there are any.

    Args:
        device: where to compute; default: this process's own GPU where there are GPUs, else the CPU
        timeout: seconds after which a process that does not answer ends the others
    Raises:
        ArgumentError: the device is not here
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = check_device(f"cuda:{local_rank}" if str(device) == "cuda" else device)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Process(0, 1, 0, None, device)
        return
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "nccl"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    try:
        group = dist.group.WORLD
        yield Process(dist.get_rank(), dist.get_world_size(), local_rank, group, device)
    finally:
        dist.destroy_process_group()
