"""Real processes for tests, which meet over Gloo and share nothing but a folder."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from repair_kernels.errors import RepairKernelsError

WORLD = 3


def run_ranks(work: Callable[..., None], folder: Path, *, join: bool = True) -> mp.ProcessContext:
    """Call `work(rank, folder)` in `WORLD` processes.

    A server that has imported the package starts them without delay.
    """
    mp.get_context("forkserver").set_forkserver_preload(["repair_kernels"])
    context = mp.start_processes(
        work, (folder,), nprocs=WORLD, join=join, start_method="forkserver"
    )
    assert context is not None or join
    return context  # type: ignore[return-value]


def meet(rank: int, folder: Path, timeout: float = 60) -> None:
    """Be one rank of the default group, whose ops run in plain PyTorch."""
    os.environ.pop("TRITON_INTERPRET", None)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=timeout),
    )


def told(call: Callable[[], object]) -> str:
    """Return what came of a call: a result, or an error."""
    try:
        return repr(call())
    except RepairKernelsError as error:
        return f"{type(error).__name__}: {error}"
