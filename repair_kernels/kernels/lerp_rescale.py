"""One tensor of two networks interpolated, with the channels of b gathered, and rescaled.

    mixed[i, j, k] = (1 − α) · a[i, j, k] + α · b[index_out[i], index_in[j], k]
    out[i, j, k] = scale[i] · mixed[i, j, k] + shift[i]

In:    a and b as (c_out, c_in, rest) by strides; out: the same shape, contiguous.
Cost:  3·numel·itemsize bytes (a and b read once, out written once); floor: bytes / bandwidth.
Truth: `reference/lerp_rescale.py`.
"""

import struct
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .devices import Device, device_of, on_its_device


@dataclass(frozen=True)
class LaunchConfig:
    """Sizes of one launch."""

    block: int
    wide: bool  # whether element numbers need 64 bits
    num_warps: int
    num_stages: int


def launch_config(n: int, c: int, dtype: torch.dtype, device: Device) -> LaunchConfig:
    """Choose the sizes for `n` elements in `c` output channels; reasoned, not measured yet."""
    block = 256 if device.is_interpreted and n <= 4096 else 1024
    return LaunchConfig(block, wide=n > 2**31 - block, num_warps=4, num_stages=3)


@triton.jit(do_not_specialize=["weight_a", "weight_b"])
def _lerp_rescale_kernel(
    a_ptr,
    b_ptr,
    out_ptr,
    index_out_ptr,
    index_in_ptr,
    scale_ptr,
    shift_ptr,
    weight_a,  # 1 - alpha, and alpha, as the bits of a float64: Triton passes floats as float32
    weight_b,
    n_elements,
    c_in,
    rest,
    stride_ao,
    stride_ai,
    stride_ar,
    stride_bo,
    stride_bi,
    stride_br,
    HAS_INDEX_OUT: tl.constexpr,
    HAS_INDEX_IN: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    ACC: tl.constexpr,  # fp32, or fp64 for fp64
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    offs = pid * BLOCK + tl.arange(0, BLOCK)  # [BLOCK], as all below
    mask = offs < n_elements
    offs_i = (offs // (c_in * rest)).to(tl.int64)
    offs_j = ((offs // rest) % c_in).to(tl.int64)
    offs_k = (offs % rest).to(tl.int64)

    a = tl.load(a_ptr + offs_i * stride_ao + offs_j * stride_ai + offs_k * stride_ar, mask=mask)
    from_i, from_j = offs_i, offs_j
    if HAS_INDEX_OUT:
        from_i = tl.load(index_out_ptr + offs_i, mask=mask, other=0)
    if HAS_INDEX_IN:
        from_j = tl.load(index_in_ptr + offs_j, mask=mask, other=0)
    b = tl.load(b_ptr + from_i * stride_bo + from_j * stride_bi + offs_k * stride_br, mask=mask)

    a, b = a.to(ACC), b.to(ACC)
    share_a = tl.cast(weight_a, tl.int64).to(tl.float64, bitcast=True).to(ACC)
    share_b = tl.cast(weight_b, tl.int64).to(tl.float64, bitcast=True).to(ACC)
    mixed = a * share_a + b * share_b
    # At the ends a product with 0 would lose -0.0 and turn infinity into NaN.
    mixed = tl.where(weight_b == 0, a, tl.where(weight_a == 0, b, mixed))
    if HAS_SCALE:
        mixed *= tl.load(scale_ptr + offs_i, mask=mask, other=0.0).to(ACC)
    if HAS_SHIFT:
        mixed += tl.load(shift_ptr + offs_i, mask=mask, other=0.0).to(ACC)

    tl.store(out_ptr + offs.to(tl.int64), mixed.to(out_ptr.dtype.element_ty), mask=mask)


@on_its_device
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
    out = torch.empty(a.shape, dtype=a.dtype, device=a.device)
    if out.numel() == 0:
        return out
    c_out, c_in = (*a.shape, 1, 1)[:2]
    view_a, view_b = (x.reshape(c_out, c_in, -1) for x in (a, b))
    config = launch_config(out.numel(), c_out, a.dtype, device_of(a.device))
    _lerp_rescale_kernel[(triton.cdiv(out.numel(), config.block),)](
        a_ptr=view_a,
        b_ptr=view_b,
        out_ptr=out,
        index_out_ptr=_dense(index_out, a),
        index_in_ptr=_dense(index_in, a),
        scale_ptr=_dense(scale, a),
        shift_ptr=_dense(shift, a),
        weight_a=_bits(1 - alpha),
        weight_b=_bits(alpha),
        n_elements=out.numel(),
        c_in=c_in,
        rest=view_a.shape[2],
        **dict(zip(("stride_ao", "stride_ai", "stride_ar"), view_a.stride(), strict=True)),
        **dict(zip(("stride_bo", "stride_bi", "stride_br"), view_b.stride(), strict=True)),
        HAS_INDEX_OUT=index_out is not None,
        HAS_INDEX_IN=index_in is not None and a.dim() > 1,
        HAS_SCALE=scale is not None,
        HAS_SHIFT=shift is not None,
        ACC=tl.float64 if a.dtype == torch.float64 else tl.float32,
        WIDE=config.wide,
        BLOCK=config.block,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out


def _dense(values: Tensor | None, unused: Tensor) -> Tensor:
    """Return a vector that needs no stride; for one that is absent any pointer will do."""
    return unused if values is None else values.contiguous()


def _bits(value: float) -> int:
    """Return the bits of a float64 as a signed integer."""
    return struct.unpack("<q", struct.pack("<d", value))[0]
