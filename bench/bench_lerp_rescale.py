"""`lerp_rescale` beside what else computes the same, for parameters of ResNet50.

python -m pytest bench/bench_lerp_rescale.py -o python_files='bench_*.py' --benchmark-json=FILE
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.conftest import ON_GPU
from bench.shapes import WEIGHTS, Weight
from repair_kernels import ops

ALPHA = 0.3


def eager(a: Tensor, b: Tensor, index_out: Tensor, index_in: Tensor, scale: Tensor) -> Tensor:
    """Gather, `torch.lerp`, multiply."""
    gathered = b[index_out] if b.dim() == 1 else b[index_out[:, None], index_in]
    return torch.lerp(a, gathered, ALPHA).mul_(scale.view(-1, *[1] * (a.dim() - 1)))


def published(a: Tensor, b: Tensor, index_out: Tensor, index_in: Tensor, scale: Tensor) -> Tensor:
    """Do as the published notebooks: permuted copies, then a sum of products, then a scale."""
    b = b[index_out]
    if b.dim() > 1:
        b = b[:, index_in]
    mixed = (1 - ALPHA) * a + ALPHA * b
    return mixed * scale.view(-1, *[1] * (a.dim() - 1))


def ours(a: Tensor, b: Tensor, index_out: Tensor, index_in: Tensor, scale: Tensor) -> Tensor:
    """Call the fused op."""
    on_inputs = index_in if a.dim() > 1 else None
    return ops.lerp_rescale(a, b, ALPHA, index_out=index_out, index_in=on_inputs, scale=scale)


PROVIDERS: dict[str, Callable[..., Any]] = {"eager": eager, "published": published, "ours": ours}
if ON_GPU:
    PROVIDERS["compiled"] = torch.compile(eager)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda weight: weight.label)
def test_lerp_rescale(weight: Weight, provider: str, device: torch.device, clock: Callable) -> None:
    """Time one provider at one parameter."""
    a, b = (torch.randn(weight.shape, device=device) for _ in "ab")
    c_out, c_in = (*weight.shape, 1)[:2]
    index_out, index_in = (torch.randperm(c, device=device) for c in (c_out, c_in))
    scale = torch.rand(c_out, device=device)
    truth = published(a.double(), b.double(), index_out, index_in, scale.double())
    call = PROVIDERS[provider]
    clock(
        lambda: call(a, b, index_out, index_in, scale),
        lambda out: (out.double() - truth).abs().max().item(),
        allowed=1e-5,
        n_bytes=weight.lerp_bytes(a.element_size()),
    )
