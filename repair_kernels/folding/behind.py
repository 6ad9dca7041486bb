"""A tap as what reads it sees it, where the readers' weights hold its correction.

    BatchNorm:  w' (x - mean') / sqrt(var' + eps) = w (y - mean) / sqrt(var + eps)

solved for y: what the norm as it was would have to read to return what the folded one does.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.affine import ChannelAffine
from repair_kernels.folding.correction import Correction
from repair_kernels.folding.makers import running_statistics
from repair_kernels.folding.readers import reached
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.rules import argument


def as_readers_see(
    graph: NetworkGraph,
    before: State,
    after: State,
    affines: Mapping[str, ChannelAffine],
    behind: Iterable[str],
) -> dict[str, ChannelAffine]:
    """Return what turns a tap's value into what its readers make of it, by tap.

    Where a norm reads the tap, and holds no correction of its output, this comes from the weights
    as they are stored; else it is what was folded: the tap's correction, after those of earlier
    taps that are in the same readers.

    Args:
        before, after: the weights without and with corrections
        affines: all corrections, by tap
        behind: taps whose correction is in their readers
    """
    found = {}
    for tap, correction in _in_readers(graph, affines, behind).items():
        norm = _reading_norm(graph, tap, affines)
        held = None if norm is None else _before_norm(graph, before, after, norm, correction)
        found[tap] = held or ChannelAffine(correction.scale, correction.shift, correction.dim)
    return found


def _in_readers(
    graph: NetworkGraph, affines: Mapping[str, ChannelAffine], behind: Iterable[str]
) -> dict[str, Correction]:
    """Return by tap all that was folded behind it: its own correction and those that pass it."""
    node_of = {node.name: node for node in graph.nodes}
    taps = {node_of[graph.tap(tap).node]: tap for tap in behind}
    found: dict[Node, Correction] = {}
    for node in graph.nodes:
        if node in taps:
            for value, correction in reached(node, Correction.of(affines[taps[node]])):
                found[value] = correction.after(found.get(value))
    return {tap: found[node] for node, tap in taps.items()}


def _before_norm(
    graph: NetworkGraph, before: State, after: State, norm: Node, folded: Correction
) -> ChannelAffine | None:
    """Return what a norm's weights say was folded into them, if it has running statistics."""
    held = running_statistics(graph, norm)
    if held is None:
        return None
    mean, var, eps = held
    like = folded.scale.to(after[var].device)
    ratio = _ratio(before, after, graph.owned(argument(norm, 1)), like)
    stds = [(state[var].double().to(like.device) + eps).sqrt() for state in (before, after)]
    scale = ratio * stds[0] / stds[1]
    means = [state[mean].double().to(like.device) for state in (before, after)]
    return ChannelAffine(scale, means[0] - scale * means[1], folded.dim)


def _reading_norm(
    graph: NetworkGraph, tap: str, affines: Mapping[str, ChannelAffine]
) -> Node | None:
    """Return the first norm that reads a tap, if its output is not corrected."""
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
