"""What a chip can do at most, and the least time that counted work can take on it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """A chip's data sheet: bytes/s, and flop/s of dense products by unit."""

    arch: str
    processors: int
    clock: float  # Hz, boost
    bandwidth: float
    products: dict[str, float]

    def memory_seconds(self, n_bytes: int) -> float:
        """Return the least time to move that many bytes."""
        return n_bytes / self.bandwidth

    def product_seconds(self, flops: int, unit: str) -> float:
        """Return the least time of that many flops of products."""
        return flops / self.products[unit]


# NVIDIA's data sheets of the SXM parts, dense figures without sparsity. tf32x3 does three products
# for one, and "ieee" runs on the CUDA cores.
_HOPPER = {"ieee": 67e12, "tf32x3": 495e12 / 3, "tf32": 495e12, "16bit": 990e12}
_AMPERE = {"ieee": 19.5e12, "tf32x3": 156e12 / 3, "tf32": 156e12, "16bit": 312e12}
RATES = {
    "NVIDIA H100": Rates("sm_90", 132, 1.98e9, 3.35e12, _HOPPER),
    "NVIDIA H200": Rates("sm_90", 132, 1.98e9, 4.8e12, _HOPPER),
    "NVIDIA A100": Rates("sm_80", 108, 1.41e9, 2.04e12, _AMPERE),
}


def rates_of(device_name: str) -> Rates | None:
    """Return the rates of the chip that calls itself so, or None without an entry."""
    return next((rates for name, rates in RATES.items() if device_name.startswith(name)), None)


def unit_of(dtype: str, precision: str) -> str:
    """Return the unit that multiplies values of `dtype` ("fp32", ...) at `precision` (or "")."""
    return (precision or "ieee") if dtype == "fp32" else "16bit"


def floor_seconds(device_name: str, n_bytes: int, flops: int = 0, unit: str = "ieee") -> float:
    """Return the least time that the counted work can take, NaN on a chip without an entry."""
    rates = rates_of(device_name)
    if rates is None:
        return math.nan
    return max(rates.memory_seconds(n_bytes), rates.product_seconds(flops, unit))
