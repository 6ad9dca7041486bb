"""The fused ops as Triton kernels: the path that a GPU takes, and a CPU under Triton's interpreter.

Same names and signatures as `repair_kernels.reference`. `repair_kernels.ops` checks the arguments.
"""

from .channel_moments import channel_moments
from .lerp_rescale import lerp_rescale
from .paired_moments import paired_moments

__all__ = ["channel_moments", "lerp_rescale", "paired_moments"]
