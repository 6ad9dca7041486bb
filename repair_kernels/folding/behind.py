"""A tap as what reads it sees it, where the readers' weights hold its correction.

    BatchNorm:  w' (x - mean') / sqrt(var' + eps) = w (y - mean) / sqrt(var + eps)

solved for y: what the norm as it was would have to read to return what the folded one does.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.affine import ChannelAffine
from repair_kernels.folding.makers import running_statistics
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.rules import argument


def as_readers_see(
    graph: NetworkGraph,
    before: State,
    after: State,
    tap: str,
    affines: Mapping[str, ChannelAffine],
) -> ChannelAffine:
    """Return what turns a tap's value into what its readers make of it.

    Where a norm reads the tap, and holds no other correction, this comes from the weights as they
    are stored; else it is the correction that was folded.

    Args:
        before, after: the weights without and with corrections
        tap: whose correction is in its readers
        affines: all corrections, by tap
    """
    affine = affines[tap]
    norm = _reading_norm(graph, tap, affines)
    held = None if norm is None else running_statistics(graph, norm)
    if norm is None or held is None:
        return ChannelAffine(affine.scale, affine.shift, affine.channel_dim)
    mean, var, eps = held
    weight = graph.owned(argument(norm, 1))
    folded = affine.scale.to(after[var].device).double()
    ratio = _ratio(before, after, weight, folded)
    stds = [(state[var].double().to(folded.device) + eps).sqrt() for state in (before, after)]
    scale = ratio * stds[0] / stds[1]
    means = [state[mean].double().to(folded.device) for state in (before, after)]
    return ChannelAffine(scale, means[0] - scale * means[1], affine.channel_dim)


def _reading_norm(
    graph: NetworkGraph, tap: str, affines: Mapping[str, ChannelAffine]
) -> Node | None:
    """Return the first norm that reads a tap, if no other correction is in its weights."""
    node = next(node for node in graph.nodes if node.name == graph.tap(tap).node)
    norm = next((user for user in graph.users(node) if running_statistics(graph, user)), None)
    if norm is None:
        return None
    output = graph.tap_of_node.get(norm.name)
    return None if output is not None and output.name in affines else norm


def _ratio(before: State, after: State, weight: str | None, like: Tensor) -> Tensor:
    """Return by how much a norm's weights grew; 1 where they are 0 and tell nothing."""
    if weight is None:
        return torch.ones_like(like)
    old, new = (state[weight].double().to(like.device) for state in (before, after))
    return torch.where(old == 0, 1.0, new / torch.where(old == 0, 1.0, old))
