"""`lerp_rescale` beside what else computes the same, for the whole state of a ResNet50.

python -m pytest bench/bench_lerp_rescale.py -o python_files='bench_*.py' --benchmark-json=FILE

Forms: "plain" interpolates; "gather" also permutes the channels of b, out and in, and rescales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.conftest import ON_GPU
from bench.measuring.contest import Contest, Provider
from bench.shapes import RESNET50
from repair_kernels import ops
from repair_kernels.ops import Lerp

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Of values around 1, in units of the dtype's last place: roundings of products, sum and rescaling.
ALLOWED = {"fp32": 2e-6, "bf16": 6e-2}
ALPHAS = {1: [0.3], 5: [0.1, 0.3, 0.5, 0.7, 0.9]}


def interpolated(a: Tensor, b: Tensor, scale: Tensor | None, alpha: float) -> Tensor:
    """Interpolate and rescale one tensor."""
    mixed = torch.lerp(a, b, alpha)
    return mixed if scale is None else mixed.mul_(per_row(scale, a))


def eager(items: Sequence[Lerp], alphas: Sequence[float]) -> list[list[Tensor]]:
    """Go tensor by tensor: `index_select` once, then for each alpha `torch.lerp` and a product."""
    pairs = [(item.a, gathered(item), item.scale) for item in items]
    return [[interpolated(*pair, alpha) for pair in pairs] for alpha in alphas]


def foreach(items: Sequence[Lerp], alphas: Sequence[float]) -> list[list[Tensor]]:
    """Go tensor by tensor for the gathers only."""
    a, b = [item.a for item in items], [gathered(item) for item in items]
    outs = [list(torch._foreach_lerp(a, b, alpha)) for alpha in alphas]
    if items[0].scale is not None:
        scales = [per_row(item.scale, item.a) for item in items]
        for mixed in outs:
            torch._foreach_mul_(mixed, scales)
    return outs


def published(items: Sequence[Lerp], alphas: Sequence[float]) -> list[list[Tensor]]:
    """Do as the published notebooks: permuted copies, then a sum of products, then a scale."""
    pairs = [(item.a, gathered(item), item.scale) for item in items]
    outs = [[(1 - alpha) * a + alpha * b for a, b, _ in pairs] for alpha in alphas]
    if items[0].scale is None:
        return outs
    return [[x * per_row(pair[2], x) for x, pair in zip(o, pairs, strict=True)] for o in outs]


def gathered(item: Lerp) -> Tensor:
    """Return b with its channels in their new order, gathered by indices on its device."""
    b = item.b
    if item.index_out is not None:
        b = b.index_select(0, item.index_out)
    return b if item.index_in is None else b.index_select(1, item.index_in)


def per_row(scale: Tensor, x: Tensor) -> Tensor:
    """Return a scale in the shape and dtype in which it multiplies `x`."""
    return scale.view(-1, *[1] * (x.dim() - 1)).to(x.dtype)


def ours(items: Sequence[Lerp], alphas: Sequence[float]) -> list[list[Tensor]]:
    """Call the fused op."""
    return ops.lerp_rescale(items, alphas)


PROVIDERS: dict[str, Provider] = {
    "eager": eager,
    "foreach": foreach,
    "published": published,
    "ours": ours,
}
if ON_GPU:
    from repair_kernels.kernels.devices import device_of
    from repair_kernels.kernels.lerp_rescale import empty_like, launch, launch_config, lerp_table

    torch._dynamo.config.recompile_limit = 64
    prepared: dict[int, Any] = {}  # by the identity of the items, which it keeps

    @torch.compile(dynamic=True)
    def one_compiled(item: Lerp, alpha: float) -> Tensor:
        """Gather, interpolate and rescale one tensor at one alpha."""
        return interpolated(item.a, gathered(item), item.scale, alpha)

    def compiled(items: Sequence[Lerp], alphas: Sequence[float]) -> list[list[Tensor]]:
        """Go tensor by tensor, each compiled as a whole."""
        return [[one_compiled(item, alpha) for item in items] for alpha in alphas]

    def ours_prepared(items: Sequence[Lerp], alphas: Sequence[float]) -> list[list[Tensor]]:
        """Launch with a table that is there already: the fused op less its work on the host."""
        if id(items) not in prepared:
            outs = [[empty_like(item.a) for item in items] for _ in alphas]
            config = launch_config(sum(x.a.numel() for x in items), device_of(items[0].a.device))
            table = lerp_table(items, alphas, outs, config.vectors, config.block)
            prepared[id(items)] = items, outs, table, config
        _, outs, table, config = prepared[id(items)]
        launch(table.words, table, config)
        return outs

    PROVIDERS |= {"compiled": compiled, "ours_prepared": ours_prepared}


def state(dtype: torch.dtype, form: str, device: torch.device) -> list[Lerp]:
    """Return two random weight sets; the tensors of one layer share its permutations."""
    items, orders = [], {}
    for weight in RESNET50:
        a, b = (torch.randn(weight.shape, device=device).to(dtype) for _ in "ab")
        item = Lerp(a, b)
        if form == "gather":
            layer = weight.name.rpartition(".")[0].replace("bn", "conv")
            layer = layer.replace("downsample.1", "downsample.0")
            for axis, name in enumerate(("index_out", "index_in")[: a.dim()]):
                if (layer, axis) not in orders:
                    orders[layer, axis] = torch.randperm(weight.shape[axis], device=device)
                item = item._replace(**{name: orders[layer, axis]})
            item = item._replace(scale=torch.rand(weight.shape[0], device=device))
        items.append(item)
    return items


@pytest.mark.parametrize("n_alphas", ALPHAS)
@pytest.mark.parametrize("form", ["plain", "gather"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lerp_rescale(
    dtype: str, form: str, n_alphas: int, device: torch.device, compete: Callable
) -> None:
    """Time every provider for a whole state."""
    alphas = ALPHAS[n_alphas]
    if ON_GPU:
        prepared.clear()
    inputs = [(state(DTYPES[dtype], form, device), alphas) for _ in range(2)]
    contest = Contest(inputs, device)
    wide = [item._replace(a=item.a.double(), b=item.b.double()) for item in inputs[0][0]]
    truth = published(wide, alphas)

    def error_of(outs: list[list[Tensor]]) -> float:
        pairs = [
            pair
            for at_alpha, wanted in zip(outs, truth, strict=True)
            for pair in zip(at_alpha, wanted, strict=True)
        ]
        return max((x.double() - y).abs().max().item() for x, y in pairs)

    for name, provider in PROVIDERS.items():
        contest.enter(name, provider, error_of, ALLOWED[dtype])
    itemsize = DTYPES[dtype].itemsize
    numel = sum(weight.lerp_bytes(1) for weight in RESNET50) // 3
    compete(
        contest,
        case={
            "op": "lerp_rescale",
            "name": "resnet50 state",
            "dtype": dtype,
            "form": form,
            "alphas": str(n_alphas),
        },
        n_bytes=(2 + n_alphas) * numel * itemsize,
    )
