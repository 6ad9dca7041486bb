"""What each ATen operator does to channel axes: one small function per kind of operator.

`tracker.py` says how a rule is written; importing this package registers all of them.
"""

from repair_kernels.rules import (
    attention,
    constants,
    elementwise,
    layers,
    matrices,
    norms,
    reductions,
    reshapes,
    segments,
    spatial,
)
from repair_kernels.rules.custom import register_rule
from repair_kernels.rules.elementwise import ACTIVATIONS, IDENTITIES
from repair_kernels.rules.tracker import (
    RULES,
    Axes,
    Tracker,
    argument,
    broadcast,
    packet,
    reason,
    reduce,
    rule,
    rule_for,
    shape,
)

__all__ = [
    "ACTIVATIONS",
    "IDENTITIES",
    "RULES",
    "Axes",
    "Tracker",
    "argument",
    "attention",
    "broadcast",
    "constants",
    "elementwise",
    "layers",
    "matrices",
    "norms",
    "packet",
    "reason",
    "reduce",
    "reductions",
    "register_rule",
    "reshapes",
    "rule",
    "rule_for",
    "segments",
    "shape",
    "spatial",
]
