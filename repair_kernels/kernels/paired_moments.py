"""Moments of two networks at one tap, and the cross sums between all their channels.

    cross[i, j] = Σ_n (a[n, i] − mean_a[i]) · (b[n, j] − mean_b[j])

In:    a and b as (images, c, places) by strides; out: mean, m2 of each and cross, float64.
Two stages. Stage 1: a program takes a tile of (c_a × c_b) and one split of the positions, centres
both on pivots (the mean of the split's first block), multiplies on the tensor cores block by block,
and adds the blocks up in float64: a tensor core truncates its own long sums. Stage 2: a program per
tile merges the splits in order by Chan's rule. No atomics: the same bits each time.
Cost:  2·n·c·itemsize bytes, each activation once per tile row or column; 2·n·c_a·c_b flops.
       Floor: max(bytes / bandwidth, flops / rate of the tensor cores at `precision`).
Truth: `reference/paired_moments.py`. Source: REPAIR (Jordan et al., 2023), eq. 2.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.sums import PairedSums
from .chan import merge, store_moments
from .channel_moments import LaunchConfig, channel_moments
from .devices import Device, device_of, on_its_device
from .positions import Positions, position_offsets


def launch_config(
    n: int, c: int, dtype: torch.dtype, device: Device, precision: str = "tf32x3"
) -> LaunchConfig:
    """Choose the sizes for `n` positions and `c` channels, the larger of c_a and c_b.

    Reasoned and compiled for no spills, not measured yet: tiles whose float64 sums fit into the
    registers, programs enough to fill the chip twice, and no split under 256 positions.
    """
    if device.is_interpreted:  # a block costs the same there, whatever its size
        block_c, block_n, shortest = 64, (64 if n <= 1024 else 512), 64
    elif dtype == torch.float64 or precision == "ieee":  # products without tensor cores
        block_c, block_n, shortest = 32, 32, 256
    else:
        # Three products hold both parts of each factor: twice the registers.
        block_c, shortest = (32 if c <= 32 else 64), 256
        block_n = 16 if precision == "tf32x3" or c <= 32 else 32
    wanted = max(1, 2 * device.processors // triton.cdiv(c, block_c) ** 2)
    split_size = max(triton.cdiv(triton.cdiv(n, wanted), block_n) * block_n, shortest)
    return LaunchConfig(block_n, block_c, split_size, num_warps=8, num_stages=2)


@triton.jit
def _pivot(x, held, SNAP: tl.constexpr):
    """Return a value near the mean of each column of a block whose first `held` rows count."""
    mean = tl.sum(x, axis=0) / held.to(x.dtype)
    if SNAP:
        # 16-bit values: a pivot of their own precision that keeps x - pivot exact where x lies
        # within a factor 2 of it (Sterbenz), and none where values are not far from zero.
        rows = tl.arange(0, x.shape[0])
        deviation = tl.where((rows < held)[:, None], x - mean[None, :], 0.0)
        variance = tl.sum(deviation * deviation, axis=0) / held.to(x.dtype)
        mean = tl.where(mean * mean <= 16.0 * variance, 0.0, mean)
    return mean


@triton.jit
def _paired_moments_partial_kernel(
    a_ptr,  # (images, c_a, places), by strides
    b_ptr,  # (images, c_b, places), by strides
    vectors_a_ptr,  # out, (3, splits, c_a): pivot, Σ (a - pivot), Σ (a - pivot)²
    vectors_b_ptr,  # out, (3, splits, c_b)
    products_ptr,  # out, (splits, c_a, c_b): Σ (a - pivot_a) · (b - pivot_b)
    n_samples,
    c_a,
    c_b,
    places,
    split_size,
    stride_an,
    stride_ac,
    stride_ap,
    stride_bn,
    stride_bc,
    stride_bp,
    ACC: tl.constexpr,  # precision of the deviations: fp32, or fp64 for fp64
    WIDE: tl.constexpr,  # whether positions within a split need 64 bits
    SUM: tl.constexpr,  # precision of the sums over one block, which the GPU forms as a tree
    SNAP: tl.constexpr,  # 16-bit inputs: see _pivot
    DOT_16BIT: tl.constexpr,  # multiply in the inputs' own bf16; not under the interpreter
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    pid_s = tl.program_id(0).to(tl.int64)
    pid_a = tl.program_id(1).to(tl.int64)
    pid_b = tl.program_id(2).to(tl.int64)
    offs_a = pid_a * BLOCK_A + tl.arange(0, BLOCK_A)
    offs_b = pid_b * BLOCK_B + tl.arange(0, BLOCK_B)
    mask_a = offs_a < c_a
    mask_b = offs_b < c_b
    first = pid_s * split_size
    size = tl.minimum(split_size, n_samples - first)
    # From here positions count from the start of the split's first image.
    skip = first % places
    image = first // places
    base_a_ptrs = a_ptr + image * stride_an + offs_a[None, :] * stride_ac  # [1, BLOCK_A]
    base_b_ptrs = b_ptr + image * stride_bn + offs_b[None, :] * stride_bc  # [1, BLOCK_B]
    if not WIDE:
        size = size.to(tl.int32)
        skip = skip.to(tl.int32)

    offs_n = tl.arange(0, BLOCK_N)
    mask_n = offs_n < size
    held = tl.minimum(size, BLOCK_N)
    a_ptrs = base_a_ptrs + position_offsets(skip + offs_n, places, stride_an, stride_ap)[:, None]
    b_ptrs = base_b_ptrs + position_offsets(skip + offs_n, places, stride_bn, stride_bp)[:, None]
    block_a = tl.load(a_ptrs, mask=mask_n[:, None] & mask_a[None, :], other=0.0)
    block_b = tl.load(b_ptrs, mask=mask_n[:, None] & mask_b[None, :], other=0.0)
    pivot_a = _pivot(block_a.to(ACC), held, SNAP).to(a_ptr.dtype.element_ty).to(ACC)  # [BLOCK_A]
    pivot_b = _pivot(block_b.to(ACC), held, SNAP).to(b_ptr.dtype.element_ty).to(ACC)  # [BLOCK_B]

    acc_sum_a = tl.zeros([BLOCK_A], tl.float64)
    acc_sum_b = tl.zeros([BLOCK_B], tl.float64)
    acc_squares_a = tl.zeros([BLOCK_A], tl.float64)
    acc_squares_b = tl.zeros([BLOCK_B], tl.float64)
    acc_products = tl.zeros([BLOCK_A, BLOCK_B], tl.float64)
    for start in range(0, size, BLOCK_N):
        offs_n = tl.cast(start, size.dtype) + tl.arange(0, BLOCK_N)
        mask_n = offs_n < size
        offs_n += skip
        a_ptrs = base_a_ptrs + position_offsets(offs_n, places, stride_an, stride_ap)[:, None]
        b_ptrs = base_b_ptrs + position_offsets(offs_n, places, stride_bn, stride_bp)[:, None]
        valid_a = mask_n[:, None] & mask_a[None, :]
        valid_b = mask_n[:, None] & mask_b[None, :]
        a = tl.load(a_ptrs, mask=valid_a, other=0.0).to(ACC)  # [BLOCK_N, BLOCK_A]
        b = tl.load(b_ptrs, mask=valid_b, other=0.0).to(ACC)  # [BLOCK_N, BLOCK_B]
        a = tl.where(valid_a, a - pivot_a[None, :], 0.0)
        b = tl.where(valid_b, b - pivot_b[None, :], 0.0)
        acc_sum_a += tl.sum(a.to(SUM), axis=0).to(tl.float64)
        acc_sum_b += tl.sum(b.to(SUM), axis=0).to(tl.float64)
        acc_squares_a += tl.sum((a * a).to(SUM), axis=0).to(tl.float64)
        acc_squares_b += tl.sum((b * b).to(SUM), axis=0).to(tl.float64)
        if DOT_16BIT:
            a = a.to(a_ptr.dtype.element_ty)
            b = b.to(b_ptr.dtype.element_ty)
        # Out in its own precision: an fp64 addition also keeps the block's sum on its own.
        block = tl.dot(tl.trans(a), b, input_precision=PRECISION, out_dtype=ACC)
        acc_products += block.to(tl.float64)

    offs_products = (pid_s * c_a + offs_a[:, None]) * c_b + offs_b[None, :]
    tl.store(products_ptr + offs_products, acc_products, mask=mask_a[:, None] & mask_b[None, :])
    # Every tile of a row computes the same sums of a; the first one stores them. So for b.
    if pid_b == 0:
        size_a = tl.num_programs(0).to(tl.int64) * c_a
        vector_a_ptrs = vectors_a_ptr + pid_s * c_a + offs_a
        tl.store(vector_a_ptrs, pivot_a.to(tl.float64), mask=mask_a)
        tl.store(vector_a_ptrs + size_a, acc_sum_a, mask=mask_a)
        tl.store(vector_a_ptrs + 2 * size_a, acc_squares_a, mask=mask_a)
    if pid_a == 0:
        size_b = tl.num_programs(0).to(tl.int64) * c_b
        vector_b_ptrs = vectors_b_ptr + pid_s * c_b + offs_b
        tl.store(vector_b_ptrs, pivot_b.to(tl.float64), mask=mask_b)
        tl.store(vector_b_ptrs + size_b, acc_sum_b, mask=mask_b)
        tl.store(vector_b_ptrs + 2 * size_b, acc_squares_b, mask=mask_b)


@triton.jit
def _paired_moments_combine_kernel(
    vectors_a_ptr,  # (3, splits, c_a)
    vectors_b_ptr,  # (3, splits, c_b)
    products_ptr,  # (splits, c_a, c_b)
    mean_a_ptr,  # out, (c_a,), as m2_a
    m2_a_ptr,
    mean_b_ptr,  # out, (c_b,), as m2_b
    m2_b_ptr,
    cross_ptr,  # out, (c_a, c_b)
    n_samples,
    c_a,
    c_b,
    splits,
    split_size,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    pid_a = tl.program_id(0).to(tl.int64)
    pid_b = tl.program_id(1).to(tl.int64)
    offs_a = pid_a * BLOCK_A + tl.arange(0, BLOCK_A)
    offs_b = pid_b * BLOCK_B + tl.arange(0, BLOCK_B)
    mask_a = offs_a < c_a
    mask_b = offs_b < c_b
    mask = mask_a[:, None] & mask_b[None, :]

    mean_a = tl.zeros([BLOCK_A], tl.float64)
    m2_a = tl.zeros([BLOCK_A], tl.float64)
    mean_b = tl.zeros([BLOCK_B], tl.float64)
    m2_b = tl.zeros([BLOCK_B], tl.float64)
    cross = tl.zeros([BLOCK_A, BLOCK_B], tl.float64)
    for index in range(0, splits):
        split = tl.cast(index, tl.int64)
        start = split * split_size
        before = start.to(tl.float64)
        held = tl.minimum(n_samples - start, split_size).to(tl.float64)
        mean_a, m2_a, delta_a, total_a = merge(
            vectors_a_ptr, split * c_a + offs_a, c_a * splits, mask_a, before, held, mean_a, m2_a
        )
        mean_b, m2_b, delta_b, total_b = merge(
            vectors_b_ptr, split * c_b + offs_b, c_b * splits, mask_b, before, held, mean_b, m2_b
        )
        offs_products = (split * c_a + offs_a[:, None]) * c_b + offs_b[None, :]
        products = tl.load(products_ptr + offs_products, mask=mask, other=0.0)
        cross += products - total_a[:, None] * (total_b / held)[None, :]
        cross += delta_a[:, None] * (delta_b * (before * held / (before + held)))[None, :]

    tl.store(cross_ptr + offs_a[:, None] * c_b + offs_b[None, :], cross, mask=mask)
    if pid_b == 0:
        store_moments(mean_a_ptr, m2_a_ptr, offs_a, mask_a, mean_a, m2_a)
    if pid_a == 0:
        store_moments(mean_b_ptr, m2_b_ptr, offs_b, mask_b, mean_b, m2_b)


@on_its_device
def paired_moments(
    a: Tensor, b: Tensor, *, channel_dim: int = 1, cross: bool = True, precision: str = "tf32x3"
) -> PairedSums:
    """Return the moments of `a` and `b` and their cross sums in float64; see `ops`."""
    new = {"dtype": torch.float64, "device": a.device}
    c_a, c_b = a.shape[channel_dim], b.shape[channel_dim]
    if not cross or a.numel() == 0 or b.numel() == 0:
        sums_a = channel_moments(a, channel_dim=channel_dim)
        sums_b = channel_moments(b, channel_dim=channel_dim)
        return PairedSums(*sums_a, *sums_b, torch.zeros(c_a, c_b, **new) if cross else None)
    positions_a, positions_b = Positions.of(a, channel_dim), Positions.of(b, channel_dim)
    if positions_a.is_rows and positions_b.is_rows:
        positions_a, positions_b = positions_a.as_rows(), positions_b.as_rows()
    n = positions_a.n
    device = device_of(a.device)
    acc = tl.float64 if a.dtype == torch.float64 else tl.float32
    dot_precision = _dot_precision(a.dtype, precision, device)
    config = launch_config(n, max(c_a, c_b), a.dtype, device, dot_precision)
    splits = config.splits(n)
    grid = splits, triton.cdiv(c_a, config.block_c), triton.cdiv(c_b, config.block_c)
    vectors_a, vectors_b = torch.empty(3, splits, c_a, **new), torch.empty(3, splits, c_b, **new)
    products = torch.empty(splits, c_a, c_b, **new)
    _paired_moments_partial_kernel[grid](
        a_ptr=positions_a.view,
        b_ptr=positions_b.view,
        vectors_a_ptr=vectors_a,
        vectors_b_ptr=vectors_b,
        products_ptr=products,
        n_samples=n,
        c_a=c_a,
        c_b=c_b,
        places=positions_a.places,
        split_size=config.split_size,
        **positions_a.strides("a"),
        **positions_b.strides("b"),
        ACC=acc,
        WIDE=positions_a.needs_64_bits(config.split_size, config.block_n),
        SUM=tl.float64 if device.is_interpreted else acc,  # numpy adds in order, and drifts
        SNAP=a.dtype in (torch.float16, torch.bfloat16),
        DOT_16BIT=a.dtype == torch.bfloat16 and not device.is_interpreted,
        PRECISION=dot_precision,
        BLOCK_N=config.block_n,
        BLOCK_A=config.block_c,
        BLOCK_B=config.block_c,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    mean_a, m2_a = torch.empty(2, c_a, **new)
    mean_b, m2_b = torch.empty(2, c_b, **new)
    products_sum = torch.empty(c_a, c_b, **new)
    _paired_moments_combine_kernel[(triton.cdiv(c_a, 32), triton.cdiv(c_b, 32))](
        vectors_a_ptr=vectors_a,
        vectors_b_ptr=vectors_b,
        products_ptr=products,
        mean_a_ptr=mean_a,
        m2_a_ptr=m2_a,
        mean_b_ptr=mean_b,
        m2_b_ptr=m2_b,
        cross_ptr=products_sum,
        n_samples=n,
        c_a=c_a,
        c_b=c_b,
        splits=splits,
        split_size=config.split_size,
        BLOCK_A=32,
        BLOCK_B=32,
        num_warps=4,
        num_stages=2,
    )
    return PairedSums(mean_a, m2_a, mean_b, m2_b, products_sum)


def _dot_precision(dtype: torch.dtype, precision: str, device: Device) -> str:
    """Return what `tl.dot` is asked for: never less than `precision` promises."""
    if dtype == torch.float64:
        return "ieee"
    if dtype in (torch.float16, torch.bfloat16):
        precision = "tf32"  # exact: their significands fit
    # ROCm has no tf32x3, and tf32 on one chip only: float32 products there.
    if device.is_hip and (precision == "tf32x3" or device.arch != "gfx942"):
        return "ieee"
    return precision
