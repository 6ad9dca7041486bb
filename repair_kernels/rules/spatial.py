"""Rules of pooling, resizing and reducing."""

from typing import Any

import torch
from torch.fx import Node

from repair_kernels.rules.tracker import (
    RULES,
    Axes,
    Rule,
    Tracker,
    argument,
    packet,
    pin_space,
    reason,
    rule,
    shape,
)

aten = torch.ops.aten


def spatial(dims: int) -> Rule:
    """Return the rule of operators that mix positions of the last `dims` dimensions."""

    def pooled(node: Node, track: Tracker) -> Any:
        x = argument(node, 0)
        rank = len(shape(x))
        pin_space(node, track, x, range(rank - dims, rank))
        axes = track.axes(x)[: rank - dims] + [None] * dims
        return (
            [axes] * len(node.meta["val"]) if isinstance(node.meta["val"], list | tuple) else axes
        )

    return pooled


for _dims in (1, 2, 3):
    for _name in (
        *(f"{kind}_pool{_dims}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp")),
        f"max_pool{_dims}d_with_indices",
        f"_adaptive_avg_pool{_dims}d",
        *(f"{p}upsample_nearest{suffix}{_dims}d" for p in ("", "_") for suffix in ("", "_exact")),
        {1: "upsample_linear1d", 2: "upsample_bilinear2d", 3: "upsample_trilinear3d"}[_dims],
        {1: "", 2: "upsample_bicubic2d", 3: ""}[_dims],
        *(f"{kind}_pad{_dims}d" for kind in ("reflection", "replication")),
    ):
        if _name and hasattr(aten, _name):
            RULES[getattr(aten, _name)] = spatial(_dims)


@rule(aten.mean, aten.sum, aten.amax, aten.amin, aten.var, aten.std, aten.linalg_vector_norm)
def reduction(node: Node, track: Tracker) -> Axes:
    """Pin what is reduced (its sum would stay the same but for rounding); the others follow."""
    x = argument(node, 0)
    rank = len(shape(x))
    position = 2 if packet(node) is aten.linalg_vector_norm else 1
    dims = argument(node, position, "dim")
    if dims is None or dims == [] or isinstance(dims, bool):  # `std(x, unbiased)` has no dims.
        dims = range(rank)
    dims = {dim % rank for dim in ([dims] if isinstance(dims, int) else dims)}
    track.pin(x, reason(node, "reduces over this dimension"), dims)
    axes = track.axes(x)
    if len(shape(node)) == rank:
        return [None if dim in dims else axes[dim] for dim in range(rank)]
    return [axes[dim] for dim in range(rank) if dim not in dims]
