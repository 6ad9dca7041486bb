"""The registry of operator rules, and the `Tracker` through which a rule speaks about axes.

A rule sees a node of the captured graph and a `Tracker`. It reads the axes of its inputs with
`track.axis(value, dim)` (an array of vertices, or None where nothing may move), states what the
operator demands with `track.tie`, `track.adopt`, `track.pin` and `track.channels`' verbs, and
returns the axes of the result, one entry per dimension (for a list of results: one such list each).

`track.axes(value)` holds the entries to hand on. Some are no plain axis but factors of a joint one
(see `joints.py`), which a rule passes on unseen where its operator treats every element alike. An
operator that mixes positions along a dimension reads that dimension *first*, by `track.axis` or
`track.pin`, which makes it plain; then the other entries may be handed on. `broadcast` and `reduce`
are the two rules that most operators need.

A rule may only let through what is exactly equivariant. What it cannot prove it pins, with a reason
that the report repeats.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from repair_kernels.axes import Axis, ChannelAxes
from repair_kernels.rules import products
from repair_kernels.rules.joints import (
    ALIKE,
    Axes,
    Entry,
    decouple,
    entries,
    factors_of,
    joints_in,
    pin_factors,
)

aten = torch.ops.aten
HANDED_ON = {aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout}
"""Operators that return their input itself when evaluating, which their schema does not say."""
Rule = Callable[[Node, "Tracker"], Any]
RULES: dict[Any, Rule] = {}


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Register a rule for these operators (an overload packet stands for all of its overloads)."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return register


def rule_for(target: Any) -> Rule | None:
    """Return the rule of an operator, or None."""
    return RULES.get(target) or RULES.get(getattr(target, "overloadpacket", None))


def shape(value: Any) -> tuple:
    """Return the shape of a node's value; a torch.SymInt where it depends on the batch."""
    return tuple(value.meta["val"].shape)


def same_size(x: Any, y: Any) -> bool:
    """Return whether two sizes are equal, where a symbolic size equals only itself."""
    symbolic_x, symbolic_y = isinstance(x, torch.SymInt), isinstance(y, torch.SymInt)
    if symbolic_x or symbolic_y:
        return symbolic_x and symbolic_y and x.node.expr == y.node.expr
    return x == y


class Tracker:
    """The axes of every value of one graph, and the channels that they hold."""

    def __init__(self, parameters: dict[Node, str], nodes: Iterable[Node] = ()):
        self.channels = ChannelAxes()
        self.values: dict[Node, Any] = {}
        self.parameters = parameters
        self.parameter_axes: dict[tuple[str, int], Axis] = {}
        self.ordered: set[tuple[str, int]] = set()
        """Axes of parameters that are no channel axes at all: positions of a kernel."""
        self.written = written_values(nodes)

    def axis(self, value: Node, dim: int) -> Axis | None:
        """Return the vertices along `dim` of a value, made plain; a parameter's made when asked."""
        dim %= len(shape(value))
        size = shape(value)[dim]
        if value in self.parameters:
            key = (self.parameters[value], dim)
            if key not in self.parameter_axes and size > 1:
                self.parameter_axes[key] = self.channels.fresh(size)
            return self.parameter_axes.get(key)
        axes = self.values[value]
        if isinstance(axes[dim], tuple):
            axes = decouple(self.channels, axes, dim)
        entry = axes[dim]
        if isinstance(entry, tuple):
            why = f"{value.target} ({value.name}): a dimension mixes channels with the batch"
            pin_factors(self.channels, entry, why)
        elif entry is ALIKE and isinstance(size, int) and size > 1:
            entry = self.channels.fresh(size)
        if not isinstance(entry, np.ndarray):
            entry = None
        self.values[value] = [*axes[:dim], entry, *axes[dim + 1 :]]
        return entry

    def axes(self, value: Node) -> Axes:
        """Return the entries of every dimension of a value, to be handed on."""
        if value in self.parameters:
            return [self.axis(value, dim) for dim in range(len(shape(value)))]
        return list(self.values[value])

    def aligned(self, value: Node, rank: int) -> Axes:
        """Return a value's entries from the last dimension, `ALIKE` where it is broadcast."""
        axes = [
            ALIKE if isinstance(size, int) and size == 1 else entry
            for size, entry in zip(shape(value), self.axes(value), strict=True)
        ]
        return [ALIKE] * (rank - len(axes)) + axes

    def settled(self, node: Node, axes: Any) -> Any:
        """Return a rule's result in order: whole joints only, and nothing moving along size 1.

        Positions that are alike but may be written to become channels of their own.
        """
        if isinstance(axes, tuple | list) and isinstance(node.meta["val"], tuple | list):
            return axes
        if not axes or not any(e is ALIKE or isinstance(e, tuple) for e in axes):
            return axes
        sizes = shape(node)
        if any(isinstance(entry, tuple) for entry in axes):
            dims = [factors_of(e, size) for e, size in zip(axes, sizes, strict=True)]
            axes = entries(self.channels, dims)
        result: Axes = []
        for entry, size in zip(axes, sizes, strict=True):
            single = not isinstance(size, int) or size == 1
            if entry is ALIKE and node in self.written:
                entry = None if single else self.channels.fresh(size)
            result.append(None if single and not isinstance(entry, tuple) else entry)
        return result

    def tie(self, x: Axis | None, y: Axis | None, reason: str) -> Axis | None:
        """Make two axes one; where either cannot move, neither does."""
        if x is None or y is None:
            for axis in (x, y):
                if axis is not None:
                    self.channels.pin(axis, reason)
            return None
        self.channels.tie(x, y)
        return x

    def adopt(self, value: Any, dim: int, axis: Axis | None, reason: str) -> None:
        """Give a parameter's axis the channels of an activation's; None (no bias) passes."""
        if isinstance(value, Node):
            if value in self.parameters and axis is not None:
                dim %= len(shape(value))
                key = (self.parameters[value], dim)
                if key not in self.parameter_axes:
                    self.parameter_axes[key] = axis
                    return
            self.tie(self.axis(value, dim), axis, reason)

    def pin(self, value: Any, reason: str, dims: Any = None) -> None:
        """Pin the channels of these dimensions (default: of all), where there are any."""
        if not isinstance(value, Node):
            return
        if isinstance(value.meta.get("val"), torch.Tensor):
            axes = self.axes(value) if dims is None else [self.entry(value, dim) for dim in dims]
            self._pin_entries(axes, reason, wholly=dims is None)
        elif isinstance(self.values.get(value), list | tuple):
            for axes in self.values[value]:
                self._pin_entries(axes or [], reason, wholly=True)

    def _pin_entries(self, axes: Sequence[Entry], reason: str, *, wholly: bool) -> None:
        for entry in axes:
            if isinstance(entry, np.ndarray):
                self.channels.pin(entry, reason)
            elif isinstance(entry, tuple) and wholly:
                for joint in joints_in(entry):
                    self.channels.pin(joint.vertices, reason)
            elif isinstance(entry, tuple):
                pin_factors(self.channels, entry, reason)

    def entry(self, value: Node, dim: int) -> Entry:
        """Return what stands along a dimension, a joint's factors as they are."""
        dim %= len(shape(value))
        return self.axis(value, dim) if value in self.parameters else self.values[value][dim]

    def order(self, weight: Node, node: Node) -> None:
        """Pin the positions of a kernel."""
        for dim in range(2, len(shape(weight))):
            self.pin(weight, reason(node, "positions of a kernel are ordered"), [dim])
            if weight in self.parameters:
                self.ordered.add((self.parameters[weight], dim))

    def unknown(self, node: Node, reason: str) -> Any:
        """Pin all that a node touches, and return results that cannot move."""
        for value in node.all_input_nodes:
            self.pin(value, reason)
        result = node.meta.get("val")
        if isinstance(result, torch.Tensor):
            return [None] * result.dim()
        if isinstance(result, list | tuple):
            return [[None] * r.dim() if isinstance(r, torch.Tensor) else None for r in result]
        return None


def written_values(nodes: Iterable[Node]) -> set[Node]:
    """Return the values that may share memory with one that an operator writes to."""
    root: dict[Node, Node] = {}
    written: set[Node] = set()
    for node in nodes:
        schema = getattr(node.target, "_schema", None)
        source = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        aliases = schema is not None and any(r.alias_info for r in schema.returns)
        if source is not None and (aliases or packet(node) in HANDED_ON):
            root[node] = root.get(source, source)
        if schema is not None and schema.is_mutable and source is not None:
            written.add(root.get(source, source))
    return {node for node in nodes if root.get(node, node) in written}


def argument(node: Node, position: int, name: str = "", default: Any = None) -> Any:
    """Return an operator's argument, whether it was given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def packet(node: Node) -> Any:
    """Return a node's operator without its overload."""
    return getattr(node.target, "overloadpacket", node.target)


def reason(node: Node, why: str) -> str:
    """Return the text by which the report names what pinned a channel."""
    return f"{node.target} ({node.name}): {why}"


def pin_space(node: Node, track: Tracker, x: Node, dims: Any) -> None:
    """Pin what moves along dimensions in which the operator knows neighbours."""
    track.pin(x, reason(node, "positions along this dimension are ordered"), dims)


def tie_all(node: Node, track: Tracker, values: list[Node], dim: int) -> Axis | None:
    """Make one axis of the `dim` axes of several values; unclaimed parameters adopt it."""
    activations = [v for v in values if v not in track.parameters]
    ordered = activations + [v for v in values if v in track.parameters]
    axis = track.axis(ordered[0], dim)
    for value in ordered[1:]:
        why = reason(node, f"an operand cannot move along dimension {dim}")
        if value in track.parameters and axis is not None:
            track.adopt(value, dim, axis, why)
        elif value in track.parameters and activations:
            track.pin(value, why, [dim])
        else:
            axis = track.tie(axis, track.axis(value, dim), why)
    return axis


def broadcast(node: Node, track: Tracker, operands: Sequence[Node]) -> Axes:
    """Align operands from the last dimension; tie those that are not broadcast along it."""
    rank = len(shape(node))
    activations = [track.aligned(v, rank) for v in operands if v not in track.parameters]
    why = reason(node, "an operand cannot move along this dimension")
    if any(isinstance(entry, tuple) for axes in activations for entry in axes):
        parameters = [track.aligned(v, rank) for v in operands if v in track.parameters]
        return products.combine(track.channels, [*activations, *parameters], why)
    result: Axes = [None] * rank
    for dim in range(1, rank + 1):
        size = shape(node)[-dim]
        if not isinstance(size, int) or size == 1:
            continue
        present = [
            v
            for v in operands
            if len(shape(v)) >= dim
            and same_size(shape(v)[-dim], size)
            and (v in track.parameters or track.entry(v, -dim) is not ALIKE)
        ]
        result[-dim] = tie_all(node, track, present, -dim) if present else ALIKE
    return result


def reduce(node: Node, track: Tracker, x: Node, dims: Collection[int], keepdim: bool) -> Axes:
    """Take a sum, mean, maximum or norm over dimensions: it does not depend on their order."""
    rank = len(shape(x))
    gone = {dim % rank for dim in dims}
    axes = products.reduce(track.channels, track.axes(x), gone)
    return axes if keepdim else [axes[dim] for dim in range(rank) if dim not in gone]
