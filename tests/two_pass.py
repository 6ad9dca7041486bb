"""The oracle of moments: centre, then multiply, in numpy's float64; rows are samples."""

import numpy as np
import torch
from torch import Tensor

from repair_kernels.moments import PairedMoments


def two_pass(a: Tensor, b: Tensor, products: str = "cross") -> PairedMoments:
    """Return the moments of some rows, with one kind of products of deviations."""
    x, y = a.numpy().astype(np.float64), b.numpy().astype(np.float64)
    mean_a, mean_b = x.mean(0), y.mean(0)
    x, y = x - mean_a, y - mean_b
    values = {"mean_a": mean_a, "m2_a": (x * x).sum(0), "mean_b": mean_b, "m2_b": (y * y).sum(0)}
    if products == "diagonal":
        values["diagonal"] = (x * y).sum(0)
    if products in ("cross", "joint"):
        values["cross"] = x.T @ y
    if products == "joint":
        values |= {"within_a": x.T @ x, "within_b": y.T @ y}
    return PairedMoments(len(a), **{name: torch.from_numpy(v) for name, v in values.items()})
