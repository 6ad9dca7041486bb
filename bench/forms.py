"""The three forms of `paired_moments`: how each is asked for, and how wrong an answer is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FORMS: dict[str, dict[str, Any]] = {
    "cross": {},
    "joint": {"joint": True},
    "diagonal": {"cross": "diagonal"},
}


def sums_of(result: Any, form: str) -> Tensor:
    """Return the sums that the form is about, of any provider."""
    if isinstance(result, Tensor):
        return result
    if not hasattr(result, "diagonal"):
        return result[4]
    if form == "diagonal":
        return result.diagonal
    if form == "cross":
        return result.cross
    upper = torch.cat((result.within_a, result.cross), 1)
    return torch.cat((upper, torch.cat((result.cross.t(), result.within_b), 1)))


def worst_error(result: Any, truth: Any, form: str) -> float:
    """Return the largest error of the sums, relative to sqrt(m2 · m2)."""
    if form == "diagonal":
        scale = (truth.m2_a * truth.m2_b).sqrt()
    else:
        m2 = torch.cat((truth.m2_a, truth.m2_b)) if form == "joint" else truth.m2_a
        scale = torch.outer(m2, m2 if form == "joint" else truth.m2_b).sqrt()
    return ((sums_of(result, form).double() - sums_of(truth, form)).abs() / scale).max().item()
