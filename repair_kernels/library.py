"""The moment ops as operators of `torch.library`, which a compiler takes whole into its graph.

Each is `ops`' function of the same name behind a schema: tensors in, new float64 tensors out,
nothing mutated, no gradient. The fake kernels give shapes, dtypes and devices without computing, so
that `torch.compile` and `torch.export` see one opaque node and fuse what is around it. Activations
come in whatever strides the compiler prefers: the kernels take any.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from repair_kernels import ops
from repair_kernels.ops import PairedSums

LAYOUT = (torch.Tag.flexible_layout,)
PRODUCTS: dict[str, dict[str, Any]] = {
    "none": {"cross": False},
    "diagonal": {"cross": "diagonal"},
    "cross": {"cross": True},
    "joint": {"cross": True, "joint": True},
}
"""What `ops.paired_moments` is asked for under each name of a set of products."""
MOMENTS = ("mean_a", "m2_a", "mean_b", "m2_b")
FIELDS = {
    "none": MOMENTS,
    "diagonal": (*MOMENTS, "diagonal"),
    "cross": (*MOMENTS, "cross"),
    "joint": (*MOMENTS, "cross", "within_a", "within_b"),
}
"""Which fields of `PairedSums` it then returns, in order."""


@torch.library.custom_op(
    "repair_kernels::channel_moments",
    mutates_args=(),
    schema="(Tensor x, *, int channel_dim=1, str? backend=None) -> (Tensor, Tensor)",
    tags=LAYOUT,
)
def channel_moments(
    x: Tensor, *, channel_dim: int = 1, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return the mean and m2 of every channel; see `ops.channel_moments`."""
    mean, m2 = _apart(ops.channel_moments(x, channel_dim=channel_dim, backend=backend))
    return mean, m2


@channel_moments.register_fake
def _(x: Tensor, *, channel_dim: int = 1, backend: str | None = None) -> tuple[Tensor, Tensor]:
    mean = x.new_empty(x.shape[channel_dim], dtype=torch.float64)
    return mean, torch.empty_like(mean)


@torch.library.custom_op(
    "repair_kernels::paired_moments",
    mutates_args=(),
    schema=(
        '(Tensor a, Tensor b, *, int channel_dim=1, str products="cross", '
        'str precision="tf32x3", str? backend=None) -> Tensor[]'
    ),
    tags=LAYOUT,
)
def paired_moments(
    a: Tensor,
    b: Tensor,
    *,
    channel_dim: int = 1,
    products: str = "cross",
    precision: str = "tf32x3",
    backend: str | None = None,
) -> list[Tensor]:
    """Return the sums of `ops.paired_moments` that `products` names, in the order of `PairedSums`.

    `products` is a key of `PRODUCTS`; `paired_sums` gives the result its names back.
    """
    sums = ops.paired_moments(
        a,
        b,
        channel_dim=channel_dim,
        **PRODUCTS[products],
        precision=precision,
        backend=backend,
    )
    return _apart(tensor for tensor in sums if tensor is not None)


@paired_moments.register_fake
def _(
    a: Tensor,
    b: Tensor,
    *,
    channel_dim: int = 1,
    products: str = "cross",
    precision: str = "tf32x3",
    backend: str | None = None,
) -> list[Tensor]:
    c_a, c_b = a.shape[channel_dim], b.shape[channel_dim]
    shapes = {
        "mean_a": (c_a,),
        "m2_a": (c_a,),
        "mean_b": (c_b,),
        "m2_b": (c_b,),
        "cross": (c_a, c_b),
        "diagonal": (c_a,),
        "within_a": (c_a, c_a),
        "within_b": (c_b, c_b),
    }
    return [a.new_empty(shapes[field], dtype=torch.float64) for field in FIELDS[products]]


def paired_sums(tensors: Sequence[Tensor], products: str) -> PairedSums:
    """Name what `paired_moments` returned."""
    named = dict(zip(FIELDS[products], tensors, strict=True))
    return PairedSums(**{"cross": None, **named})


def _apart(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copy what shares memory with an earlier tensor: operators must not return aliases."""
    found: list[Tensor] = []
    taken: set[int] = set()
    for tensor in tensors:
        memory = tensor.untyped_storage().data_ptr()
        found.append(tensor.clone() if memory in taken else tensor)
        taken.add(memory)
    return found
