"""`paired_moments` beside what else computes the same, for the real taps, in its three forms.

python -m pytest bench/bench_paired_moments.py -o python_files='bench_*.py' --benchmark-json=FILE
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from bench import eager
from bench.conftest import ON_GPU
from bench.forms import FORMS, worst_error
from bench.measuring.contest import Contest, Provider, input_sets
from bench.measuring.roofline import unit_of
from bench.shapes import TAPS, Tap
from repair_kernels import ops

# ResNet50 first: the goals are about it, and a stage may run out of time. A CPU gets small batches.
SHAPES = tuple(
    tap if ON_GPU else replace(tap, batch=max(8, tap.batch // 16))
    for tap in sorted(TAPS, key=lambda tap: tap.network != "resnet50")
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ALLOWED, ALLOWED_TF32 = 2e-5, 2e-3  # relative to sqrt(m2_a · m2_b)
if ON_GPU:
    torch._dynamo.config.recompile_limit = 256


@contextmanager
def tf32():
    """Let PyTorch multiply float32 with tf32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def best_tf32(a: Tensor, b: Tensor, form: str) -> eager.Sums:
    """Run the best eager form with tf32 products."""
    with tf32():
        return eager.best(a, b, form)


# Compiled once for all shapes: what changes becomes a variable.
COMPILED = {"two_pass": eager.two_pass, "best": eager.best} if ON_GPU else {}
COMPILED = {name: torch.compile(call) for name, call in COMPILED.items()}


def providers(form: str, dtype: str) -> dict[str, tuple[Provider, str]]:
    """Return every provider of a form and its precision."""
    ours = partial(ops.paired_moments, **FORMS[form])
    found: dict[str, tuple[Provider, str]] = {
        "two_pass": (partial(eager.two_pass, form=form), "ieee"),
        "best": (partial(eager.best, form=form), "ieee"),
        "published": (partial(eager.published, form=form), "ieee"),
        "ours": (ours, "tf32x3"),
    }
    if form == "joint":
        found["cov"] = (eager.covariance, "ieee")
    if not ON_GPU:
        return found
    for name, call in COMPILED.items():
        found[f"{name}_compiled"] = (partial(call, form=form), "ieee")
    if form != "diagonal" and dtype == "fp32":
        found["best_tf32"] = (partial(best_tf32, form=form), "tf32")
        found["ours_tf32"] = (partial(ours, precision="tf32"), "tf32")
        found["ours_ieee"] = (partial(ours, precision="ieee"), "ieee")
    if form == "cross" and dtype == "bf16":
        found["raw_16bit"] = (eager.raw_16bit, "tf32x3")
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tap", SHAPES, ids=lambda tap: tap.label)
def test_paired_moments(
    tap: Tap, dtype: str, layout: str, form: str, device: torch.device, compete: Callable
) -> None:
    """Time every provider at one tap."""
    if layout == "channels_last" and len(tap.shape) == 2:
        pytest.skip("rows have one layout")

    def make() -> tuple[Tensor, Tensor]:
        a = torch.randn(tap.shape, device=device) + 0.5
        b = 0.5 * a + torch.randn(tap.shape, device=device)
        if layout == "channels_last":
            a, b = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
        return a.to(DTYPES[dtype]), b.to(DTYPES[dtype])

    contest = Contest(input_sets(make, device), device)
    a, b = contest.inputs[0]
    truth = ops.paired_moments(a.double(), b.double(), backend="torch", **FORMS[form])
    entered = providers(form, dtype)
    for name, (call, precision) in entered.items():
        allowed = ALLOWED_TF32 if precision == "tf32" else ALLOWED
        contest.enter(name, call, lambda sums: worst_error(sums, truth, form), allowed)
    compete(
        contest,
        case={
            "op": "paired_moments",
            "name": tap.label,
            "dtype": dtype,
            "layout": layout,
            "form": form,
        },
        n_bytes=tap.paired_bytes(DTYPES[dtype].itemsize),
        # The floor is that of the unit that gives the accuracy: eager float32 could have used it.
        flops=lambda name: tap.paired_flops(form),
        unit=lambda name: unit_of(
            dtype, "tf32x3" if entered[name][1] == "ieee" else entered[name][1]
        ),
    )
