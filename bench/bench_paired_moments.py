"""`paired_moments` beside what else computes the same, for the real taps.

python -m pytest bench/bench_paired_moments.py -o python_files='bench_*.py' --benchmark-json=FILE
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.conftest import ON_GPU
from bench.shapes import TAPS, Tap
from repair_kernels import ops

Sums = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def eager(a: Tensor, b: Tensor) -> Sums:
    """Two passes in float32: means, then centred copies and one product."""
    rows_a, rows_b = (x.movedim(1, -1).reshape(-1, x.shape[1]).float() for x in (a, b))
    mean_a, mean_b = rows_a.mean(0), rows_b.mean(0)
    rows_a, rows_b = rows_a - mean_a, rows_b - mean_b
    return mean_a, rows_a.square().sum(0), mean_b, rows_b.square().sum(0), rows_a.t() @ rows_b


def published(a: Tensor, b: Tensor) -> Sums:
    """Do as the published notebooks for one layer: raw second moments, then the means."""
    rows_a, rows_b = (x.movedim(1, -1).flatten(0, -2).float() for x in (a, b))
    n = len(rows_a)
    mean_a, mean_b = rows_a.mean(0), rows_b.mean(0)
    m2_a, m2_b = rows_a.var(0, correction=0) * n, rows_b.var(0, correction=0) * n
    cross = rows_a.t() @ rows_b - n * torch.outer(mean_a, mean_b)
    return mean_a, m2_a, mean_b, m2_b, cross


PROVIDERS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "eager": eager,
    "published": published,
    "ours": ops.paired_moments,
}
if ON_GPU:
    PROVIDERS["compiled"] = torch.compile(eager)
    PROVIDERS["ours_ieee"] = lambda a, b: ops.paired_moments(a, b, precision="ieee")
    PROVIDERS["ours_tf32"] = lambda a, b: ops.paired_moments(a, b, precision="tf32")
# A CPU is given a small batch.
SHAPES = TAPS if ON_GPU else tuple(replace(tap, batch=max(8, tap.batch // 16)) for tap in TAPS)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def worst_error(sums: Any, truth: Any) -> float:
    """Return the largest error of the cross sums, relative to sqrt(m2_a · m2_b)."""
    scale = torch.outer(truth[1], truth[3]).sqrt()
    return ((sums[4].double() - truth[4]).abs() / scale).max().item()


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tap", SHAPES, ids=lambda tap: tap.label)
def test_paired_moments(
    tap: Tap, dtype: str, layout: str, provider: str, device: torch.device, clock: Callable
) -> None:
    """Time one provider at one tap."""
    if layout == "channels_last" and len(tap.shape) == 2:
        pytest.skip("rows have one layout")
    a = (torch.randn(tap.shape, device=device) + 0.5).to(DTYPES[dtype])
    b = (0.5 * a + torch.randn(tap.shape, device=device)).to(DTYPES[dtype])
    if layout == "channels_last":
        a, b = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
    truth = ops.paired_moments(a.double(), b.double(), backend="torch")
    unit = {"ours_ieee": "ieee", "ours_tf32": "tf32"}.get(provider, "tf32x3")
    call = PROVIDERS[provider]
    clock(
        lambda: call(a, b),
        lambda sums: worst_error(sums, truth),
        allowed=2e-3 if provider == "ours_tf32" else 2e-5,
        n_bytes=tap.paired_bytes(a.element_size()),
        flops=tap.paired_flops(),
        unit="16bit" if dtype == "bf16" else unit,
    )
