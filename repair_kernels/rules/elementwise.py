"""Rules of elementwise operators, of one tensor and of several that are broadcast."""

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.rules.tracker import Axes, Tracker, argument, broadcast, rule

aten = torch.ops.aten


def _operators(names: str) -> set:
    """Return the operators of these names, as far as this version of torch has them."""
    return {getattr(aten, name) for name in names.split() if hasattr(aten, name)}


ACTIVATIONS = _operators("""
    relu relu_ gelu gelu_ silu silu_ sigmoid sigmoid_ tanh tanh_ hardtanh hardtanh_
    hardswish hardswish_ hardsigmoid hardsigmoid_ elu elu_ leaky_relu leaky_relu_ relu6
    relu6_ selu selu_ celu celu_ softplus mish mish_ prelu
""")
"""Activation functions: a group is matched on the output of one, where there is one."""

IDENTITIES = _operators("""
    dropout dropout_ alpha_dropout feature_dropout feature_alpha_dropout clone contiguous
    detach alias
""")
"""Operators that hand their input's values on when evaluating."""

UNARY = (
    ACTIVATIONS
    | IDENTITIES
    | _operators("""
    logit hardshrink softshrink threshold threshold_ log_sigmoid detach_ lift_fresh_copy to
    _to_copy type_as neg abs exp exp_ log log1p expm1 sqrt rsqrt square reciprocal erf sin
    cos round floor ceil sign
""")
)
"""Operators that treat elements alike."""

BROADCAST = _operators("""
    add add_ sub sub_ rsub mul mul_ div div_ pow pow_ maximum minimum where eq ne lt le gt
    ge logical_and logical_or atan2 lerp addcmul addcdiv clamp clamp_ clamp_min clamp_min_
    clamp_max clamp_max_
""")
"""Operators of several tensors; some of them may be numbers."""


@rule(*(UNARY - {aten.prelu}))
def elementwise(node: Node, track: Tracker) -> Axes:
    """Hand on the axes of the one tensor that comes in."""
    return track.axes(argument(node, 0))


@rule(*BROADCAST)
def pointwise(node: Node, track: Tracker) -> Axes:
    """Tie the operands along the dimensions that they share."""
    operands = [
        value for value in node.all_input_nodes if isinstance(value.meta.get("val"), Tensor)
    ]
    return broadcast(node, track, operands)
