"""Float64 totals: the sums that Chan's rule adds, and the checks that all moments share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from repair_kernels.errors import ArchitectureMismatchError, ArgumentError, CalibrationDataError

INDEX_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
# Products that are held at once: 1 MiB, which stays in a core's cache.
OUTER_ELEMENTS = 2**17

Indices = Tensor | np.ndarray | Sequence[int]


def between(n_1: int, n_2: int) -> float:
    """Return what the squared distance of two sets' means weighs in their pooled sum of squares.

    Σ_n (x_n - mean)² = m2_1 + m2_2 + (mean_2 - mean_1)² n_1 n_2 / (n_1 + n_2)
    """
    return n_1 * n_2 / (n_1 + n_2)


def merge_means_(mean: Tensor, n_1: int, other: Tensor, n_2: int) -> Tensor:
    """Move `mean` of n_1 samples to that of n_2 more as well; return how far they were apart."""
    delta = other - mean
    mean.add_(delta, alpha=n_2 / (n_1 + n_2))
    return delta


def add_outer_(
    total: Tensor,
    delta: Tensor,
    weight: float,
    rows: slice = slice(None),
) -> None:
    """Add weight · delta deltaᵀ to a symmetric matrix, which stays symmetric to the bit.

    A fused multiply-add, as in `addr_`, rounds [i, j] and [j, i] apart where only one of them falls
    into a whole vector register. So the products are rounded first, a few rows at a time.

    Args:
        rows: which rows of the matrix `total` is
    """
    at_once = max(1, OUTER_ELEMENTS // max(1, len(delta)))
    for block, part in zip(total.split(at_once), delta[rows].split(at_once), strict=True):
        block.add_(torch.outer(part, delta).mul_(weight))


def as_total(sums: Tensor) -> Tensor:
    """Return what an op summed as a total: float64, without a gradient."""
    return sums.detach().to(torch.float64)


def require_samples(n_samples: int) -> int:
    """Return `n_samples`, once known not to be 0."""
    if n_samples == 0:
        raise CalibrationDataError(
            "variance and correlation need at least one sample, and these moments hold none. "
            "Merge them with the moments of some data first."
        )
    return n_samples


def is_count(count: object) -> TypeGuard[int]:
    """Tell whether this is a whole number of at least 0."""
    return isinstance(count, int) and not isinstance(count, bool) and count >= 0


def check_count(name: str, count: int) -> None:
    """Refuse what is no number of samples, or of images."""
    if not is_count(count):
        raise ArgumentError(f"`{name}` must be an int of at least 0; got {count!r}.")


def check_vectors(**vectors: Tensor) -> None:
    """Refuse totals per channel that are not float64, or not as long as the first of them."""
    length = next(iter(vectors.values())).numel()
    for name, vector in vectors.items():
        if vector.dtype != torch.float64 or tuple(vector.shape) != (length,):
            raise ArgumentError(
                f"`{name}` must be a float64 tensor of shape ({length},), one value per channel; "
                f"got {vector.dtype} of shape {tuple(vector.shape)}. "
                "Use `from_sums` for what the ops return."
            )


def check_products(
    name: str, products: Tensor | None, shape: tuple[int, ...], meaning: str
) -> None:
    """Refuse sums of products, where there are any, of another shape or dtype."""
    if products is None:
        return
    if tuple(products.shape) != shape or products.dtype != torch.float64:
        raise ArgumentError(
            f"`{name}` must be a float64 tensor of shape {shape}, {meaning}; "
            f"got {products.dtype} of shape {tuple(products.shape)}."
        )


def check_square(c_a: int, c_b: int) -> None:
    """Refuse to pair channel i of a with channel i of b where one has more."""
    if c_a != c_b:
        raise ArgumentError(
            f"a diagonal needs as many channels in a as in b; got {c_a} and {c_b}. "
            "Use `cov` or `corr`."
        )


def check_mergeable(name: str, mine: Tensor, theirs: Tensor) -> None:
    """Refuse totals of another width or on another device."""
    if mine.shape != theirs.shape:
        raise ArchitectureMismatchError(
            f"moments to merge must have equally many channels in `{name}`; got {mine.numel()} "
            f"and {theirs.numel()}. Merge statistics of one tap of one architecture."
        )
    if mine.device != theirs.device:
        raise ArgumentError(
            f"moments to merge must be on one device; got {mine.device} and {theirs.device}. "
            "Move one of them with `.to(device)`."
        )


def checked_indices(indices: Indices, channels: Tensor) -> Tensor:
    """Return `indices` as int64 on the channels' device, once known to be a bijection."""
    gather = torch.as_tensor(indices, device="cpu")
    c = channels.numel()
    is_index = gather.numel() == 0 or gather.dtype in INDEX_DTYPES
    if not is_index or not torch.equal(gather.sort().values.long(), torch.arange(c)):
        raise ArgumentError(
            f"`indices` must hold every channel from 0 to {c - 1} exactly once; got "
            f"{gather.dtype} of shape {tuple(gather.shape)}. Use the `indices` of a "
            f"`Permutation` of {c} channels."
        )
    return gather.to(channels.device, torch.int64)
