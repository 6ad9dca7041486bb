"""Rules that users add, for operators of their own or in place of one that is here."""

from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.errors import ArgumentError
from repair_kernels.rules.elementwise import ACTIVATIONS
from repair_kernels.rules.joints import ALIKE
from repair_kernels.rules.tracker import RULES, Rule, Tracker, rule_for, shape


def register_rule(
    operator: Any, rule: Rule | None = None, *, like: Any = None, replace: bool = False
) -> Any:
    """Say what an operator does to channel axes, so that `trace` can follow them through it.

    An operator without a rule pins all that it touches. The rule must let through only what the
    operator is equivariant to: for every permutation that the rule allows, permuting the operands
    and then applying the operator is the same as applying it and then permuting the result.
    `NetworkGraph.verify` tests it. `docs/rules.md` says how a rule is written.

    Args:
        operator: `torch.ops.library.name`, which stands for all overloads, or one of them
            (`torch.ops.library.name.default`)
        rule: a function of the graph's node and a `Tracker` that returns the result's axes, one
            entry per dimension; leave it out to use `register_rule` as a decorator
        like: instead of a rule, an operator with the same arguments that has one
            (`torch.ops.aten.gelu`); if that is an activation function, so is the new one
        replace: whether to replace a rule that the operator has
    Returns:
        the rule as it was given
    Raises:
        ArgumentError: something that is no operator, an operator that has a rule already, `like` an
            operator without one, or both `rule` and `like`
        ArgumentError: later, from `trace`, when the rule returns what is no axes of its result
    Example:
        >>> from repair_kernels.rules import argument
        >>> @register_rule(torch.ops.aten.special_bessel_j0)
        ... def bessel(node, track):
        ...     return track.axes(argument(node, 0))
    """
    _check_operator("operator", operator)
    if rule is None and like is None:
        return lambda function: register_rule(operator, function, replace=replace)
    if rule is not None and like is not None:
        raise ArgumentError(
            "one of `rule` and `like` says what the operator does; got both; leave one out"
        )
    if like is not None:
        _check_operator("like", like)
        rule = rule_for(like)
        if rule is None:
            raise ArgumentError(
                f"`like` must be an operator that has a rule; {like} has none; write a `rule`"
            )
    if not callable(rule):
        raise ArgumentError(
            f"`rule` must be a function of a node and a tracker; got {type(rule).__name__}; "
            "see `docs/rules.md`"
        )
    if rule_for(operator) is not None and not replace:
        raise ArgumentError(
            f"`operator` {operator} has a rule already; pass `replace=True` to replace it"
        )
    RULES[operator] = rule if like is not None else _checked(rule)
    if getattr(like, "overloadpacket", like) in ACTIVATIONS:
        ACTIVATIONS.add(getattr(operator, "overloadpacket", operator))
    return rule


def _check_operator(name: str, operator: Any) -> None:
    if not isinstance(operator, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        raise ArgumentError(
            f"`{name}` must be an operator, `torch.ops.library.name`; got {operator!r}; define "
            "your function with `torch.library.custom_op` first"
        )


def _checked(rule: Rule) -> Rule:
    """Return a rule whose result is checked to be the axes of the node's value."""

    @wraps(rule)
    def checked(node: Node, track: Tracker) -> Any:
        axes = rule(node, track)
        value = node.meta["val"]
        if isinstance(value, Tensor):
            _check_axes(node, shape(node), axes)
        else:
            if not isinstance(axes, list | tuple) or len(axes) != len(value):
                raise _wrong(node, f"a list of axes for each of {len(value)} results", axes)
            for result, held in zip(value, axes, strict=True):
                if isinstance(result, Tensor):
                    _check_axes(node, tuple(result.shape), held)
        return axes

    return checked


def _check_axes(node: Node, sizes: tuple, axes: Any) -> None:
    if not isinstance(axes, list) or len(axes) != len(sizes):
        raise _wrong(node, f"a list of {len(sizes)} axes, one for each dimension", axes)
    for dim, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
        fits = axis is None or axis is ALIKE or isinstance(axis, tuple)
        if not (axis.shape == (size,) if isinstance(axis, np.ndarray) else fits):
            came = f"an axis of {len(axis)}" if isinstance(axis, np.ndarray) else axis
            raise _wrong(node, f"an axis of {size} channels in dimension {dim}, or None", came)


def _wrong(node: Node, expected: str, came: Any) -> ArgumentError:
    return ArgumentError(
        f"the rule of {node.target} (node {node.name!r}) must return {expected}; got "
        f"{came!r}; see `docs/rules.md`"
    )
