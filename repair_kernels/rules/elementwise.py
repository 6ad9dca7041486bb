"""Rules of elementwise operators, of one tensor and of several that are broadcast."""

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.rules.tracker import Axes, Tracker, argument, broadcast, reason, rule, shape

aten = torch.ops.aten


def _operators(names: str) -> set:
    """Return the operators of these names and their in-place forms, as far as torch has them."""
    found = (getattr(aten, f"{name}{end}", None) for name in names.split() for end in ("", "_"))
    return {operator for operator in found if operator is not None}


ACTIVATIONS = _operators("""
    relu gelu silu sigmoid tanh hardtanh hardswish hardsigmoid elu leaky_relu relu6 selu celu
    softplus mish prelu rrelu log_sigmoid hardshrink softshrink threshold special_expit
""")
"""Activation functions: a group is matched on the output of one, where there is one."""

IDENTITIES = _operators("""
    dropout alpha_dropout feature_dropout feature_alpha_dropout clone contiguous detach
    alias positive lift_fresh_copy lift_fresh
""")
"""Operators that hand their input's values on when evaluating."""

UNARY = (
    ACTIVATIONS
    | IDENTITIES
    | _operators("""
    to _to_copy type_as neg abs sign sgn signbit reciprocal
    exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square
    sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh sinc
    erf erfc erfinv special_erf special_erfc special_erfinv special_ndtr special_log_ndtr
    digamma lgamma i0 logit special_logit special_entr special_exp2 special_expm1 special_log1p
    special_sinc
    ceil floor round trunc fix frac rad2deg deg2rad nan_to_num
    isfinite isinf isnan isneginf isposinf isreal logical_not bitwise_not
    zero fill
""")
)
"""Operators that treat elements alike."""

BROADCAST = _operators("""
    add sub rsub subtract mul multiply div divide true_divide floor_divide remainder fmod pow
    float_power maximum minimum fmax fmin where eq ne lt le gt ge isclose
    logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor __and__ __or__ __xor__
    atan2 arctan2 hypot copysign heaviside logaddexp logaddexp2 xlogy special_xlogy
    ldexp lerp addcmul addcdiv clamp clip clamp_min clamp_max masked_fill copy
""") | {aten.max.other, aten.min.other}
"""Operators of several tensors; some of them may be numbers."""


@rule(*(UNARY - {aten.prelu}))
def elementwise(node: Node, track: Tracker) -> Axes:
    """Hand on the axes of the one tensor that comes in."""
    return track.axes(argument(node, 0))


@rule(*BROADCAST)
def pointwise(node: Node, track: Tracker) -> Axes:
    """Tie the operands along the dimensions that they share."""
    if not isinstance(node.meta["val"], Tensor):
        return track.unknown(node, reason(node, "it returns places, not values"))
    operands = [
        value for value in node.all_input_nodes if isinstance(value.meta.get("val"), Tensor)
    ]
    return broadcast(node, track, operands)


@rule(aten.glu)
def gated(node: Node, track: Tracker) -> Axes:
    """`y_i = x_i sigmoid(x_(i + n/2))`: both halves move alike."""
    x = argument(node, 0)
    dim = argument(node, 1, "dim", -1) % len(shape(x))
    axis = track.axis(x, dim)
    axes = track.axes(x)
    if axis is not None:
        value, gate = (track.channels.occur(half) for half in np.split(axis, 2))
        axes[dim] = track.tie(value, gate, reason(node, "its gates cannot move"))
    return axes
