"""Devices by name: whether they are here is asked before any work is done for them."""

from __future__ import annotations

import torch

from repair_kernels.errors import ArgumentError


def check_device(name: torch.device | str) -> torch.device:
    """Return the device of a name, on which tensors can be computed.

    Args:
        name: such as cpu, cuda or cuda:1
    Raises:
        ArgumentError: when it is no device, or none that this machine and this PyTorch have

    Example:
        >>> check_device("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (AssertionError, RuntimeError, ImportError) as error:
        here = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise ArgumentError(
            f"`device` must be one that PyTorch finds here; got {str(name)!r} ({reason}); name one "
            f"of {', '.join(here)}, or install the PyTorch that is made for it"
        ) from error
    return device
