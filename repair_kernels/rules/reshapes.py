"""Rules of operators that change the order and the shape of dimensions."""

from math import prod
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from repair_kernels.axes import Axis
from repair_kernels.rules.tracker import Axes, Tracker, argument, reason, rule, same_size, shape

aten = torch.ops.aten


@rule(aten.permute, aten.numpy_T)
def permute(node: Node, track: Tracker) -> Axes:
    """Exchange axes."""
    axes = track.axes(argument(node, 0))
    order = argument(node, 1, default=range(len(axes))[::-1])
    return [axes[dim] for dim in order]


@rule(aten.transpose, aten.t, aten.mT, aten.swapaxes)
def transpose(node: Node, track: Tracker) -> Axes:
    """Exchange two axes, the last two where none are given."""
    axes = track.axes(argument(node, 0))
    first = argument(node, 1, default=max(0, len(axes) - 2))
    second = argument(node, 2, default=-1)
    axes[first], axes[second] = axes[second], axes[first]
    return axes


@rule(aten.expand)
def expand(node: Node, track: Tracker) -> Axes:
    """Let nothing move along new and repeated dimensions, which hold one value many times."""
    axes = track.axes(argument(node, 0))
    return [None] * (len(shape(node)) - len(axes)) + axes


@rule(
    aten.view,
    aten.reshape,
    aten._unsafe_view,
    aten.flatten,
    aten.unflatten,
    aten.squeeze,
    aten.unsqueeze,
)
def reshape(node: Node, track: Tracker) -> Axes:
    """Follow axes through a change of shape: kept, or flattened into blocks of positions.

    Shapes are cut into the shortest runs of dimensions with equal products. In a run of several
    dimensions onto one, a channel becomes the block of the positions that it covers. A channel axis
    that is split, or shares its run with another, is pinned.
    """
    x = argument(node, 0)
    result: Axes = []
    for sources, targets in _runs(shape(x), shape(node)):
        sizes = [shape(x)[dim] for dim in sources]
        moving = [i for i, dim in enumerate(sources) if track.axis(x, dim) is not None]
        wide = [i for i, dim in enumerate(targets) if not same_size(shape(node)[dim], 1)]
        axes: Axes = [None] * len(targets)
        numeric = all(isinstance(size, int) for size in sizes)
        if len(moving) == 1 and len(wide) == 1 and numeric:
            axes[wide[0]] = _flatten(track, track.axis(x, sources[moving[0]]), sizes, moving[0])
        elif moving:
            track.pin(
                x, reason(node, "splits or mixes this dimension"), [sources[i] for i in moving]
            )
        result += axes
    return result


def _flatten(track: Tracker, axis: Axis | None, sizes: list[int], moving: int) -> Axis | None:
    """Return the flat axis of dimensions of these sizes, of which one holds channels."""
    if axis is None or prod(sizes) == len(axis):
        return axis
    flat = track.channels.fresh(prod(sizes))
    rows = np.moveaxis(flat.reshape(sizes), moving, 0).reshape(len(axis), -1)
    track.channels.bind(np.concatenate([axis[:, None], rows], axis=1))
    return flat


def _runs(before: tuple, after: tuple) -> list[tuple[list[int], list[int]]]:
    """Cut two shapes into the shortest runs of dimensions with equal products."""
    runs = []
    i = j = 0
    while i < len(before) or j < len(after):
        if i < len(before) and j < len(after) and same_size(before[i], after[j]):
            runs.append(([i], [j]))
            i, j = i + 1, j + 1
            continue
        sources, targets = [], []
        product_before: Any = 1
        product_after: Any = 1
        while not (sources or targets) or not same_size(product_before, product_after):
            behind = _hint(product_before) <= _hint(product_after)
            if i < len(before) and (behind or j >= len(after)):
                product_before, sources, i = product_before * before[i], [*sources, i], i + 1
            elif j < len(after):
                product_after, targets, j = product_after * after[j], [*targets, j], j + 1
            else:
                break
        runs.append((sources, targets))
    return runs


def _hint(size: Any) -> int:
    """Return a size as it was when the graph was captured."""
    return size.node.hint if isinstance(size, torch.SymInt) else size
