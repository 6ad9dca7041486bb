"""What a launch configuration must know of a device; plain Python, so that no GPU is needed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from threading import RLock
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

Options = ParamSpec("Options")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Device:
    """One kind of processor that Triton can aim at."""

    arch: str  # "sm_90", "gfx942", or "cpu" for the interpreter
    processors: int  # streaming multiprocessors or compute units
    shared_bytes: int  # the largest block of shared memory that one program can have

    @property
    def is_hip(self) -> bool:
        """Whether the compiler's target is ROCm."""
        return self.arch.startswith("gfx")

    @property
    def lanes(self) -> int:
        """Threads of one warp."""
        return 64 if self.is_hip else 32

    @property
    def is_interpreted(self) -> bool:
        """Whether kernels run in Triton's interpreter."""
        return self.arch == "cpu"


# From the vendors' data sheets; the chips that `bench/compile_kernels.py` compiles for.
KNOWN = {
    device.arch: device
    for device in (
        Device("sm_80", processors=108, shared_bytes=163 * 1024),
        Device("sm_90", processors=132, shared_bytes=227 * 1024),
        Device("sm_100", processors=148, shared_bytes=227 * 1024),
        Device("gfx942", processors=304, shared_bytes=64 * 1024),
    )
}
# Few processors: the interpreter runs programs one after the other.
INTERPRETER = Device("cpu", processors=2, shared_bytes=1 << 30)
# It puts its own functions into Triton's language while a kernel runs: threads take turns.
_INTERPRETING = RLock()


def device_of(device: torch.device) -> Device:
    """Describe the device of a tensor."""
    if device.type != "cuda":
        return INTERPRETER
    return _gpu(torch.cuda.current_device() if device.index is None else device.index)


@lru_cache
def _gpu(index: int) -> Device:
    seen = torch.cuda.get_device_properties(index)
    hip = bool(torch.version.hip)
    arch = seen.gcnArchName.split(":")[0] if hip else f"sm_{seen.major}{seen.minor}"
    known = KNOWN.get(arch)
    # Of an unknown chip: what every supported GPU has.
    shared = known.shared_bytes if known else 64 * 1024
    return Device(arch, seen.multi_processor_count, shared)


def on_its_device(
    launcher: Callable[Concatenate[Tensor, Options], Result],
) -> Callable[Concatenate[Tensor, Options], Result]:
    """Make the device of the first tensor the current one, where Triton launches.

    In the interpreter, which no two threads may use at once, launches wait for each other.
    """

    @wraps(launcher)
    def wrapped(first: Tensor, *args: Options.args, **kwargs: Options.kwargs) -> Result:
        if first.device.type != "cuda":
            with _INTERPRETING:
                return launcher(first, *args, **kwargs)
        with torch.cuda.device(first.device):
            return launcher(first, *args, **kwargs)

    return wrapped
