"""One tensor of two networks interpolated, with the channels of b gathered, and rescaled.

    mixed[i, j, …] = (1 − α) · a[i, j, …] + α · b[index_out[i], index_in[j], …]
    out[i, j, …] = scale[i] · mixed[i, j, …] + shift[i]

Kernel: `kernels/lerp_rescale.py`.
"""

import torch
from torch import Tensor


def lerp_rescale(
    a: Tensor,
    b: Tensor,
    alpha: float,
    *,
    index_out: Tensor | None = None,
    index_in: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Return the interpolated tensor in the dtype of `a`; see `ops.lerp_rescale`."""
    if alpha != 0 and index_out is not None:
        b = b.index_select(0, index_out) if b.dim() else b.expand(1).index_select(0, index_out)[0]
    if alpha != 0 and index_in is not None:
        b = b.index_select(1, index_in) if b.dim() > 1 else b
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    # The ends are copies: products with 0 and 1 lose -0.0 and turn infinity into NaN.
    if alpha == 0:
        out = a.to(dtype, copy=True)
    elif alpha == 1:
        out = b.to(dtype, copy=True)
    else:
        out = (a.to(dtype) * (1 - alpha)).add_(b.to(dtype), alpha=alpha)
    along_out = (-1, *[1] * (a.dim() - 1)) if a.dim() else ()
    if scale is not None:
        out *= scale.to(dtype).reshape(along_out)
    if shift is not None:
        out += shift.to(dtype).reshape(along_out)
    return out.to(a.dtype)
