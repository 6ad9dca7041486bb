"""Rules of operators that change the order and the shape of dimensions, or repeat along them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from repair_kernels.rules.joints import (
    ALIKE,
    Axes,
    Dims,
    Factor,
    copied,
    entries,
    factors_of,
    regroup,
)
from repair_kernels.rules.tracker import Tracker, argument, reason, rule, same_size, shape

aten = torch.ops.aten


@rule(aten.permute, aten.numpy_T)
def permute(node: Node, track: Tracker) -> Axes:
    """Exchange axes."""
    axes = track.axes(argument(node, 0))
    order = argument(node, 1, "dims", range(len(axes))[::-1])
    return [axes[dim] for dim in order]


@rule(aten.transpose, aten.t, aten.mT, aten.swapaxes)
def transpose(node: Node, track: Tracker) -> Axes:
    """Exchange two axes, the last two where none are given."""
    axes = track.axes(argument(node, 0))
    first = argument(node, 1, default=max(0, len(axes) - 2))
    second = argument(node, 2, default=-1)
    axes[first], axes[second] = axes[second], axes[first]
    return axes


@rule(aten.expand, aten.expand_as, aten.broadcast_to)
def expand(node: Node, track: Tracker) -> Axes:
    """Repeat one position along new dimensions, and along those of size 1."""
    x = argument(node, 0)
    return track.aligned(x, len(shape(node)))


@rule(aten.repeat, aten.tile)
def repeat(node: Node, track: Tracker) -> Axes:
    """Repeat whole axes: a channel becomes the block of its copies."""
    x = argument(node, 0)
    result = []
    for size, times, entry in _repeats(node, x, track):
        result.append([Factor(times, ALIKE), *factors_of(entry, size)])
    return entries(track.channels, result)


@rule(aten.repeat_interleave.self_int)
def repeat_interleave(node: Node, track: Tracker) -> Axes:
    """Repeat each position: a channel becomes the block of its copies."""
    x = argument(node, 0)
    if argument(node, 2, "dim") is None:
        return track.unknown(node, reason(node, "flattens before it repeats"))
    result = []
    for size, times, entry in _repeats(node, x, track):
        result.append([*factors_of(entry, size), Factor(times, ALIKE)])
    return entries(track.channels, result)


def _repeats(node: Node, x: Node, track: Tracker) -> list[tuple[Any, int, Any]]:
    """Return for each dimension of the result the input's size, its repeats, and its entry."""
    after = shape(node)
    sizes = (1,) * (len(after) - len(shape(x))) + shape(x)
    ratios = [
        1 if same_size(new, old) else new // old for new, old in zip(after, sizes, strict=True)
    ]
    return list(
        zip(map(exact, sizes), map(exact, ratios), track.aligned(x, len(after)), strict=True)
    )


@rule(
    aten.view,
    aten.view_as,
    aten.reshape,
    aten.reshape_as,
    aten._unsafe_view,
    aten.flatten,
    aten.unflatten,
    aten.squeeze,
    aten.unsqueeze,
)
def reshape(node: Node, track: Tracker) -> Axes:
    """Follow vertices through a change of shape as an array of indices would.

    Shapes are cut into the shortest runs of dimensions with equal products; within a run the
    factors of dimensions are cut and joined in row-major order. A run is pinned where its sizes do
    not divide each other.
    """
    x = argument(node, 0)
    before, after = shape(x), shape(node)
    runs = _runs(before, after)
    value = copied(_factors(track, x, runs))
    result: Dims = [[] for _ in after]
    for sources, targets in runs:
        factors = [factor for dim in sources for factor in value[dim]]
        if len(sources) == len(targets) == 1:
            result[targets[0]] = factors
        elif not any(isinstance(f.size, int) and f.size == 0 for f in factors):
            dims = regroup(factors, [exact(after[dim]) for dim in targets])
            if dims is None:
                track.pin(x, reason(node, "splits or mixes this dimension"), sources)
                dims = [[Factor(exact(after[dim]), None)] for dim in targets]
            for dim, cut in zip(targets, dims, strict=True):
                result[dim] = cut
    return entries(track.channels, result)


def _factors(track: Tracker, x: Node, runs: list[tuple[list[int], list[int]]]) -> Dims:
    """Return a value's factors; an axis that was flattened comes apart again, if it is reshaped."""
    reshaped = {dim for sources, targets in runs for dim in sources if len(sources + targets) > 2}
    value = []
    for dim, (entry, size) in enumerate(zip(track.axes(x), shape(x), strict=True)):
        flat = track.channels.origins.get(id(entry)) if dim in reshaped else None
        value.append(list(flat[1]) if flat else factors_of(entry, exact(size)))
    return value


@rule(aten.channel_shuffle, aten.native_channel_shuffle)
def channel_shuffle(node: Node, track: Tracker) -> Axes:
    """Read (groups, c) as (c, groups)."""
    x, groups = argument(node, 0), argument(node, 1)
    c = shape(x)[1]
    rest = range(2, len(shape(x)))
    return _rearrange(
        node,
        track,
        [[shape(x)[0]], [groups, c // groups], *([shape(x)[dim]] for dim in rest)],
        [[0], [2, 1], *([dim + 1] for dim in rest)],
    )


@rule(aten.pixel_shuffle)
def pixel_shuffle(node: Node, track: Tracker) -> Axes:
    """Read (c, r, r, h, w) as (c, h, r, w, r)."""
    x, r = argument(node, 0), argument(node, 1)
    *batch, c, h, w = shape(x)
    n = len(batch)
    return _rearrange(
        node,
        track,
        [*([size] for size in batch), [c // r**2, r, r], [h], [w]],
        [*([dim] for dim in range(n)), [n], [n + 3, n + 1], [n + 4, n + 2]],
    )


@rule(aten.pixel_unshuffle)
def pixel_unshuffle(node: Node, track: Tracker) -> Axes:
    """Read (c, h, r, w, r) as (c, r, r, h, w)."""
    x, r = argument(node, 0), argument(node, 1)
    *batch, c, h, w = shape(x)
    n = len(batch)
    return _rearrange(
        node,
        track,
        [*([size] for size in batch), [c], [h // r, r], [w // r, r]],
        [*([dim] for dim in range(n)), [n, n + 2, n + 4], [n + 1], [n + 3]],
    )


def _rearrange(
    node: Node, track: Tracker, sizes: Sequence[Sequence[Any]], order: Sequence[Sequence[int]]
) -> Axes:
    """Cut each dimension into `sizes`, number the parts, and join those of each row of `order`."""
    x = argument(node, 0)
    value = copied([factors_of(e, exact(s)) for e, s in zip(track.axes(x), shape(x), strict=True)])
    parts: Dims = []
    for factors, cut in zip(value, sizes, strict=True):
        dims = regroup(factors, [exact(size) for size in cut])
        if dims is None:
            return track.unknown(node, reason(node, "splits or mixes a dimension"))
        parts += dims
    joined = [[factor for part in row for factor in parts[part]] for row in order]
    return entries(track.channels, joined)


def exact(size: Any) -> Any:
    """Return a size as a number, or as an expression of the batch size."""
    return size.node.expr if isinstance(size, torch.SymInt) else size


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
