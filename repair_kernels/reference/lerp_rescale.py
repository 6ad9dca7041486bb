"""Tensors of two networks interpolated, with the channels of b gathered, and rescaled.

    mixed[i, j, …] = (1 − α) · a[i, j, …] + α · b[index_out[i], index_in[j], …]
    out[i, j, …] = scale[i] · mixed[i, j, …] + shift[i]

Kernel: `kernels/lerp_rescale.py`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .lerp import Lerp


@torch.no_grad()
def lerp_rescale(items: Sequence[Lerp], alphas: Sequence[float]) -> list[list[Tensor]]:
    """Return for each alpha the interpolated tensors; see `ops.lerp_rescale`."""
    columns = [_interpolate(item, alphas) for item in items]
    return [[column[k] for column in columns] for k in range(len(alphas))]


def _interpolate(item: Lerp, alphas: Sequence[float]) -> list[Tensor]:
    """Return one tensor at every alpha; b is gathered once."""
    a, b = item.a, _gathered(item) if any(alphas) else item.b
    is_rescaled = item.scale is not None or item.shift is not None
    if is_rescaled and a.dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()  # one rounding, after the rescaling
    spare = b if b is not item.b and b.stride() == a.stride() else None
    mixed = []
    for k, alpha in enumerate(alphas):
        # A gathered b is nobody's: the last result takes its place, which spares new memory.
        out = _lerp(a, b, alpha, spare if k == len(alphas) - 1 else None)
        mixed.append(_rescaled(out, item, k).to(item.a.dtype) if is_rescaled else out)
    return mixed


def _gathered(item: Lerp) -> Tensor:
    """Return b with its channels in their new order."""
    b = item.b
    if item.index_out is not None:
        index = item.index_out.to(b.device)
        b = b.index_select(0, index) if b.dim() else b.reshape(1).index_select(0, index)[0]
    if item.index_in is not None and b.dim() > 1:
        index = item.index_in.to(b.device)
        if item.segment > 1:
            blocks = b.reshape(item.c_out, item.c_in, item.segment, *b.shape[2:])
            b = blocks.index_select(1, index).reshape(b.shape)
        else:
            b = b.index_select(1, index)
    return b


def _lerp(a: Tensor, b: Tensor, alpha: float, out: Tensor | None) -> Tensor:
    """Return (1 − α) a + α b, in `out` if there is one, which may be `b`.

    `torch.lerp` computes near + weight · (far − near): one pass, and exact where a equals b. A
    weight below a half keeps its rounding small beside either share. Halves are exact, and so is
    their sum but for one rounding, even where a and b cancel; the difference is not. Of 16-bit
    values it is, in the float32 that `torch.lerp` then uses.
    """
    if alpha in (0, 1):
        # The ends are copies: products with 0 and 1 lose -0.0 and turn infinity into NaN.
        out = torch.empty_like(a) if out is None else out
        return out.copy_(b if alpha else a)
    if out is None and a.stride() != b.stride():
        out = torch.empty_like(a)
    if alpha == 0.5 and a.element_size() >= 4:
        return torch.add(a, b, out=out).mul_(0.5)
    near, far, weight = (a, b, alpha) if alpha < 0.5 else (b, a, 1 - alpha)
    return torch.lerp(near, far, weight, out=out)


def _rescaled(out: Tensor, item: Lerp, k: int) -> Tensor:
    """Return `out` times the scale plus the shift of alpha number k, in place."""
    along_rows = (-1, *[1] * (out.dim() - 1)) if out.dim() else ()
    for values, apply in ((item.scale, out.mul_), (item.shift, out.add_)):
        if values is not None:
            vector = values[k] if values.dim() == 2 else values
            apply(vector.to(out.dtype).reshape(along_rows))
    return out
