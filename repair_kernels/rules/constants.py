"""Rules of tensors that the network makes itself, and of writing over one that it has."""

from typing import Any

import torch
from torch.fx import Node

from repair_kernels.rules.tracker import Axes, Tracker, reason, rule, shape

aten = torch.ops.aten


def _operators(names: str) -> list:
    return [getattr(aten, name) for name in names.split() if hasattr(aten, name)]


@rule(
    *_operators("""
    zeros ones full scalar_tensor zeros_like ones_like full_like new_zeros new_ones new_full
""")
)
def uniform(node: Node, track: Tracker) -> Axes:
    """Let elements that are all alike stand in any order.

    The axes are new channels, since the network may write others' values into some of them.
    """
    return [
        track.channels.fresh(size) if isinstance(size, int) and size > 1 else None
        for size in shape(node)
    ]


@rule(
    *_operators("""
    arange linspace logspace eye tril_indices triu_indices hann_window hamming_window
    empty empty_like new_empty empty_strided
""")
)
def ordered(node: Node, track: Tracker) -> Axes:
    """Let elements that differ by their place stay, and those that nothing is known of."""
    return [None] * len(shape(node))


@rule(*_operators("meshgrid one_hot bucketize searchsorted"))
def places(node: Node, track: Tracker) -> Any:
    """Pin numbers that stand for places, or make them."""
    return track.unknown(node, reason(node, "works with places"))
