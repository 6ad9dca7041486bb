"""The processes of `torchrun`: each takes its part of the data, the first one writes and prints."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from repair_kernels.devices import check_device
from repair_kernels.errors import ArgumentError


@dataclass(frozen=True)
class Process:
    """This process among those that work on one command.

    Attributes:
        rank, size: its number, and how many there are
        group: of torch.distributed; None if it is alone
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether it writes and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.group is not None:
            dist.barrier(self.group)

    @property
    def grouped(self) -> dict[str, Any]:
        """The argument of functions that work in groups."""
        return {} if self.group is None else {"process_group": self.group}


@contextmanager
def process_group(options: argparse.Namespace) -> Iterator[Process]:
    """Join the other processes that `torchrun` started, if it did.

    Each with a GPU of its own sets `options.device` to it, unless a device was named.

    Raises:
        ArgumentError: a backend is asked for outside of `torchrun`, or a device that is not here
    """
    backend = getattr(options, "process_group", "none")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    is_launched = "RANK" in os.environ and "MASTER_ADDR" in os.environ
    if backend in ("nccl", "gloo") and not is_launched:
        raise ArgumentError(
            f"`--process-group {backend}` needs processes that torchrun started; this is none; "
            "start it as torchrun --nproc-per-node=N -m repair_kernels ..., or leave it out"
        )
    if backend == "none" or not is_launched or (backend == "auto" and size == 1):
        _check_device_of(options)
        yield Process()
        return
    has_gpu = torch.cuda.is_available()
    if backend == "auto":
        backend = "nccl" if has_gpu else "gloo"
    if has_gpu and options.device in (None, "cuda"):
        options.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    _check_device_of(options)
    if has_gpu and options.device != "cpu":
        torch.cuda.set_device(options.device)
    dist.init_process_group(backend)
    try:
        yield Process(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
    finally:
        dist.destroy_process_group()


def _check_device_of(options: argparse.Namespace) -> None:
    """Refuse a device that is not here before any file is read."""
    device = getattr(options, "device", None)
    if device is not None:
        check_device(device)
