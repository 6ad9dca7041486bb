"""What `lerp_rescale` does to one tensor of the two networks."""

from typing import NamedTuple

from torch import Tensor


class Lerp(NamedTuple):
    """One tensor of both networks, how b's channels are gathered, and a's are rescaled.

    Attributes:
        a, b: of one shape (c_out, c_in · segment, …), (c_out,) or ()
        index_out, index_in: which channel of b each output and input channel takes, int64
        segment: positions that each input channel has along axis 1, more than 1 behind a flatten
        scale, shift: per output channel, shape (c_out,), or (alphas, c_out)
    """

    a: Tensor
    b: Tensor
    index_out: Tensor | None = None
    index_in: Tensor | None = None
    segment: int = 1
    scale: Tensor | None = None
    shift: Tensor | None = None

    @property
    def c_out(self) -> int:
        """Output channels; a scalar has one."""
        return self.a.shape[0] if self.a.dim() else 1

    @property
    def c_in(self) -> int:
        """Input channels; a vector has one."""
        return self.a.shape[1] // self.segment if self.a.dim() > 1 else 1
