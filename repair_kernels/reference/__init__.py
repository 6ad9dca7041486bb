"""The fused ops in plain PyTorch: the truth when given float64, and the path that a CPU takes.

Same names and signatures as `repair_kernels.kernels`. `repair_kernels.ops` checks the arguments.
"""

from .channel_moments import channel_moments
from .lerp import Lerp
from .lerp_rescale import lerp_rescale
from .paired_moments import paired_moments
from .sums import ChannelSums, PairedSums

__all__ = [
    "ChannelSums",
    "Lerp",
    "PairedSums",
    "channel_moments",
    "lerp_rescale",
    "paired_moments",
]
