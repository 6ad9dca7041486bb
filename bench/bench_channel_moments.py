"""`channel_moments` beside what else computes the same, for the real taps.

python -m pytest bench/bench_channel_moments.py -o python_files='bench_*.py' --benchmark-json=FILE
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench.conftest import ON_GPU
from bench.measuring.contest import Contest, Provider, input_sets
from bench.shapes import TAPS, Tap
from repair_kernels import ops


def positions(x: Tensor) -> tuple[int, ...]:
    """Return the dimensions of `x` that are not channels."""
    return tuple(dim for dim in range(x.dim()) if dim != 1)


def two_pass(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two passes in float32: the mean, then the squares of a centred copy."""
    mean = x.float().mean(positions(x), keepdim=True)
    return mean.flatten(), (x.float() - mean).square().sum(positions(x))


def var_mean(x: Tensor) -> tuple[Tensor, Tensor]:
    """PyTorch's own one-pass form."""
    var, mean = torch.var_mean(x.float(), positions(x), correction=0)
    return mean, var * (x.numel() // x.shape[1])


def batch_norm_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Call the kernel of synchronised batch normalisation: one pass in the tensor's own dtype."""
    images = x if x.dim() > 2 else x[:, :, None]
    mean, inverse_std = torch.batch_norm_stats(images, 0.0)
    return mean, inverse_std.square().reciprocal() * (x.numel() // x.shape[1])


def published(x: Tensor) -> tuple[Tensor, Tensor]:
    """Do as the published notebooks: let a normalising layer in training mode keep both."""
    mean, var = torch.zeros(x.shape[1], device=x.device), torch.ones(x.shape[1], device=x.device)
    torch.nn.functional.batch_norm(x.float(), mean, var, training=True, momentum=1.0)
    n = x.numel() // x.shape[1]
    return mean, var * (n - 1)


PROVIDERS: dict[str, Provider] = {
    "two_pass": two_pass,
    "var_mean": var_mean,
    "published": published,
    "ours": ops.channel_moments,
}
if ON_GPU:
    torch._dynamo.config.recompile_limit = 256
    PROVIDERS["batch_norm_stats"] = batch_norm_stats
    PROVIDERS["two_pass_compiled"] = torch.compile(two_pass)
    PROVIDERS["var_mean_compiled"] = torch.compile(var_mean)
# ResNet50 first: the goals are about it, and a stage may run out of time. A CPU gets small batches.
SHAPES = tuple(
    tap if ON_GPU else replace(tap, batch=max(8, tap.batch // 16))
    for tap in sorted(TAPS, key=lambda tap: tap.network != "resnet50")
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ALLOWED = 2e-5  # of m2


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tap", SHAPES, ids=lambda tap: tap.label)
def test_channel_moments(
    tap: Tap, dtype: str, layout: str, device: torch.device, compete: Callable
) -> None:
    """Time every provider at one tap."""
    if layout == "channels_last" and len(tap.shape) == 2:
        pytest.skip("rows have one layout")

    def make() -> tuple[Tensor]:
        x = (torch.randn(tap.shape, device=device) + 0.5).to(DTYPES[dtype])
        return (x.contiguous(memory_format=torch.channels_last) if layout != "nchw" else x,)

    contest = Contest(input_sets(make, device), device)
    truth = ops.channel_moments(contest.inputs[0][0].double(), backend="torch")
    for name, call in PROVIDERS.items():
        contest.enter(
            name, call, lambda s: (s[1].double() / truth.m2 - 1).abs().max().item(), ALLOWED
        )
    compete(
        contest,
        case={"op": "channel_moments", "name": tap.label, "dtype": dtype, "layout": layout},
        n_bytes=tap.channel_bytes(DTYPES[dtype].itemsize),
    )
