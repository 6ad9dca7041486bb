"""Memory for intermediate results that is kept from call to call.

An allocator gives freed memory back to the system, which clears it page by page when it is next
asked for: for a few megabytes that takes longer than the arithmetic done in them.
"""

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

# Values kept per slot at most: 16 MiB of float32.
MAX_KEPT = 1 << 22


class _Kept(threading.local):
    """Memory by slot, dtype and device; each thread has its own."""

    def __init__(self) -> None:
        self.slots: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}


_kept = _Kept()


def scratch(slot: str, shape: Sequence[int], like: Tensor) -> Tensor:
    """Return uninitialised memory in the dtype and on the device of `like`.

    It is written over by the next call with the same slot in the same thread.
    """
    size = math.prod(shape)
    if size > MAX_KEPT:
        return like.new_empty(shape)
    slots = _kept.slots
    key = slot, like.dtype, like.device
    if key not in slots or slots[key].numel() < size:
        slots[key] = like.new_empty(size)
    return slots[key][:size].view(*shape)
