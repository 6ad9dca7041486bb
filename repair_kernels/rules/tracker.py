"""The registry of operator rules, and the `Tracker` through which a rule speaks about axes.

A rule sees a node of the captured graph and a `Tracker`. It reads the axes of its inputs with
`track.axis(value, dim)` (an array of vertices, or None where nothing may move), states what the
operator demands with `track.tie`, `track.adopt`, `track.pin` and `track.channels.bind`, and returns
the axes of the result, one entry per dimension (for a list of results: one such list each).

A rule may only let through what is exactly equivariant. What it cannot prove it pins, with a reason
that the report repeats.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from repair_kernels.axes import Axis, ChannelAxes

aten = torch.ops.aten
Axes = list[Axis | None]
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

    def __init__(self, parameters: dict[Node, str]):
        self.channels = ChannelAxes()
        self.values: dict[Node, Any] = {}
        self.parameters = parameters
        self.parameter_axes: dict[tuple[str, int], Axis] = {}
        self.ordered: set[tuple[str, int]] = set()
        """Axes of parameters that are no channel axes at all: positions of a kernel."""

    def axis(self, value: Node, dim: int) -> Axis | None:
        """Return the vertices along `dim` of a value, a parameter's made when asked for."""
        dim %= len(shape(value))
        if value not in self.parameters:
            return self.values[value][dim]
        size = shape(value)[dim]
        key = (self.parameters[value], dim)
        if key not in self.parameter_axes and size > 1:
            self.parameter_axes[key] = self.channels.fresh(size)
        return self.parameter_axes.get(key)

    def axes(self, value: Node) -> Axes:
        """Return the vertices along every dimension of a value."""
        return [self.axis(value, dim) for dim in range(len(shape(value)))]

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
        if isinstance(value, Node) and isinstance(value.meta.get("val"), torch.Tensor):
            for dim in range(len(shape(value))) if dims is None else dims:
                axis = self.axis(value, dim)
                if axis is not None:
                    self.channels.pin(axis, reason)
        elif isinstance(value, Node) and isinstance(self.values.get(value), list | tuple):
            for axes in self.values[value]:
                for axis in axes or []:
                    if axis is not None:
                        self.channels.pin(axis, reason)

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
