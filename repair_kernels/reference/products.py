"""Products of two centred chunks, summed over positions: the arithmetic of every cross sum.

products[i, j] = Σ_n x[i, n] · y[j, n]
"""

import platform

import torch
from torch import Tensor

# Multiplications below which calling oneDNN costs more than it saves.
WORTH_ONEDNN = 1 << 22
# Results of one product: more would leave the cache, and the memory that the allocator keeps.
RESULTS = 1 << 18


def add_products(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add x yᵀ, for chunks (c_x, positions) and (c_y, positions), to float64 totals.

    PyTorch's float32 `mm` on a CPU is MKL's, which runs at half the speed of oneDNN on AMD.
    """
    step = max(1, RESULTS // max(y.shape[0], 1))
    for start in range(0, x.shape[0], step):
        rows = slice(start, start + step)
        total[rows].add_(_product(x[rows], y))


def add_sums_of_products(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add Σ_n x[i, n] · y[i, n], the diagonal of the products, to float64 totals."""
    total.add_((x * y).sum(dim=1) if x.stride(1) == 1 else (x.t() * y.t()).sum(dim=0))


def _product(x: Tensor, y: Tensor) -> Tensor:
    size = x.shape[0] * y.shape[0] * x.shape[1]
    if HAS_ONEDNN and x.dtype == torch.float32 and x.device.type == "cpu" and size >= WORTH_ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")
    return x @ y.t()


def _has_onednn() -> bool:
    """Tell whether PyTorch has the linear map that its own compiler calls, and an x86 core."""
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


HAS_ONEDNN = _has_onednn()
