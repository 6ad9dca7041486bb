"""Rules of reductions, which do not depend on the order of what they reduce, and of scans.

A sum over all channels is the same in any order, as is that of a linear map: what is reduced may
still move. An operator whose result says *where* something stands, or that goes through its
elements one by one, keeps them in place.
"""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.rules.tracker import Axes, Tracker, argument, reason, reduce, rule, shape

aten = torch.ops.aten


@rule(
    aten.mean,
    aten.sum,
    aten.nansum,
    aten.prod,
    aten.amax,
    aten.amin,
    aten.aminmax,
    aten.var,
    aten.std,
    aten.var_mean,
    aten.std_mean,
    aten.logsumexp,
    aten.any,
    aten.all,
    aten.count_nonzero,
    aten.linalg_vector_norm,
    aten.norm,
)
def reduction(node: Node, track: Tracker) -> Any:
    """Hand on the dimensions that are kept; those that are reduced may move all the same."""
    return _reduce(node, track, _dims(node))


@rule(aten.max, aten.min, aten.median, aten.nanmedian, aten.mode)
def selection(node: Node, track: Tracker) -> Any:
    """Reduce; where it is asked at which place the value stood, the places are fixed."""
    dims = _dims(node)
    if any(u.target is operator.getitem and argument(u, 1) == 1 and u.users for u in node.users):
        track.pin(argument(node, 0), reason(node, "returns a place along this dimension"), dims)
    return _reduce(node, track, dims)


@rule(aten.argmax, aten.argmin)
def place(node: Node, track: Tracker) -> Axes:
    """Pin what is reduced to a place in it."""
    dims = _dims(node)
    track.pin(argument(node, 0), reason(node, "returns a place along this dimension"), dims)
    return _reduce(node, track, dims)


@rule(
    aten.cumsum,
    aten.cumprod,
    aten.cummax,
    aten.cummin,
    aten.logcumsumexp,
    aten.sort,
    aten.argsort,
    aten.topk,
    aten.kthvalue,
)
def scan(node: Node, track: Tracker) -> Any:
    """Pin the dimension along which elements are gone through in order, or put in order."""
    x = argument(node, 0)
    [dim] = _dims(node)
    track.pin(x, reason(node, "elements along this dimension are in order"), [dim])
    axes = track.axes(x)
    kept: Axes = [None] if _first(node).dim() == len(axes) else []
    return _for_each_result(node, [*axes[:dim], *kept, *axes[dim + 1 :]])


def _dims(node: Node) -> list[int]:
    """Return the dimensions that an operator works along; all where it names none."""
    rank = len(shape(argument(node, 0)))
    target: Any = node.target
    names = [declared.name for declared in target._schema.arguments]
    dims = None
    if "dim" in names:
        position = names.index("dim")
        default = target._schema.arguments[position].default_value
        dims = argument(node, position, "dim", default)
    if dims is None or dims == []:
        return list(range(rank))
    return sorted({dim % max(1, rank) for dim in ([dims] if isinstance(dims, int) else dims)})


def _reduce(node: Node, track: Tracker, dims: list[int]) -> Any:
    x = argument(node, 0)
    keepdim = _first(node).dim() == len(shape(x))
    if keepdim and any(_first(node).shape[dim] != 1 for dim in dims):
        return track.unknown(node, reason(node, "it is not known what it reduces"))
    return _for_each_result(node, reduce(node, track, x, dims, keepdim))


def _first(node: Node) -> Tensor:
    results = node.meta["val"]
    return results if isinstance(results, Tensor) else results[0]


def _for_each_result(node: Node, axes: Axes) -> Any:
    results = node.meta["val"]
    return axes if isinstance(results, Tensor) else [list(axes) for _ in results]
