"""Results written over an input that nothing else reads.

A graph computes batch norms, activation functions and sums into new memory, as its module may.
Where the input is a value that only this operator reads, and its memory nobody else's, the result
can take its place: same bits, one large tensor less. On a CPU that is worth more than its size:
`malloc` puts no aligned block into the gap that one of the same size has left.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.graph.taps import LAYERS
from repair_kernels.rules import packet

aten = torch.ops.aten


def _add(x: Tensor, other: Tensor | float, *, alpha: float = 1) -> Tensor:
    """Add over `x`, unless the sum has another shape, dtype or order in memory."""
    if not (isinstance(other, Tensor) and _layout(x) == _layout(other)):
        return torch.add(x, other, alpha=alpha)
    return x.add_(other, alpha=alpha)


def _layout(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.stride(), x.dtype


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """Normalise over `x`, unless by the batch's own statistics or by ones of another dtype."""
    vectors = weight, bias, running_mean, running_var
    options = *vectors, training, momentum, eps
    is_mixed = any(vector is not None and vector.dtype != x.dtype for vector in vectors)
    if training or is_mixed or x.numel() == 0:
        return torch.batch_norm(x, *options, cudnn_enabled)
    mean, invstd = x.new_empty(2, 0)
    aten.native_batch_norm.out(x, *options, out=x, save_mean=mean, save_invstd=invstd)
    return x


OVERWRITING: Mapping[Any, Callable[..., Tensor]] = MappingProxyType(
    {
        aten.batch_norm.default: _batch_norm,
        aten.add.Tensor: _add,
        aten.relu.default: aten.relu_.default,
        aten.hardtanh.default: aten.hardtanh_.default,
        aten.hardswish.default: aten.hardswish_.default,
        aten.silu.default: aten.silu_.default,
    }
)
"""By operator, one that computes the same bits over its first argument."""


def overwriting(nodes: Iterable[Node]) -> dict[str, Callable[..., Tensor]]:
    """Return by node what to call instead: where the first argument is free to be written over.

    It is where an operator made it in new memory, and no other one reads it.
    """
    found = {}
    for node in nodes:
        first = node.args[0] if node.args else None
        if node.target in OVERWRITING and isinstance(first, Node) and len(first.users) == 1:
            makes_new_memory = packet(first) in LAYERS or first.target in OVERWRITING
            if makes_new_memory:
                found[node.name] = OVERWRITING[node.target]
    return found
