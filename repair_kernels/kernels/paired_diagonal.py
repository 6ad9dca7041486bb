"""Moments of two networks at one tap, and the cross sums of channels that are paired already.

    diagonal[i] = Σ_n (a[n, i] − mean_a[i]) · (b[n, i] − mean_b[i])

In:    a and b as (images, c, places) by strides; out: mean, m2 of each and diagonal, float64.
Two stages, as in `channel_moments.py`, for both tensors at once: a program takes the same channels
and positions of both.
Cost:  2·n·c·itemsize bytes read once, 8·n·c flops; floor: bytes / bandwidth.
Truth: `reference/paired_moments.py`. Source: REPAIR (Jordan et al., 2023), eq. 5 needs cov(A, B).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.sums import PairedSums
from .chan import held_positions, load_split, store_moments
from .channel_moments import channel_moments, launch_config
from .devices import device_of, on_its_device
from .positions import (
    SIZES,
    Positions,
    add_up,
    addressed_alike,
    first_position,
    multiple,
    position_offsets,
)


@triton.jit(do_not_specialize=SIZES)
def _paired_diagonal_partial_kernel(
    a_ptr,  # (images, c, places), by strides
    b_ptr,
    vectors_ptr,  # out, (7, splits, c): pivot, Σ (x - pivot), Σ (x - pivot)² of a, of b; products
    n_samples,
    c,
    places,
    split_size,
    stride_an,
    stride_ac,
    stride_ap,
    stride_bn,
    stride_bc,
    stride_bp,
    DIAGONAL: tl.constexpr,  # or only the moments of both
    ROWS: tl.constexpr,  # for these three see positions.py
    UNIT: tl.constexpr,
    ALIGN: tl.constexpr,
    ACC: tl.constexpr,  # precision of the deviations: fp32, or fp64 for fp64
    WIDE: tl.constexpr,  # whether positions within a split need 64 bits
    GROUP: tl.constexpr,  # see `add_up`
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    blocks_c = tl.cdiv(c, BLOCK_C)
    pid_s = (tl.program_id(0) // blocks_c).to(tl.int64)
    pid_c = (tl.program_id(0) % blocks_c).to(tl.int64)
    split_size = multiple(split_size, 16)  # blocks of positions are
    if UNIT == "place":
        places = multiple(places, ALIGN)
        stride_ac = multiple(stride_ac, ALIGN)
        stride_bc = multiple(stride_bc, ALIGN)
        stride_ap = 1
        stride_bp = 1
    elif UNIT == "channel":
        c = multiple(c, ALIGN)
        stride_ap = multiple(stride_ap, ALIGN)
        stride_bp = multiple(stride_bp, ALIGN)
        stride_ac = 1
        stride_bc = 1
    if not ROWS:
        stride_an = multiple(stride_an, ALIGN)
        stride_bn = multiple(stride_bn, ALIGN)
    offs_c = pid_c * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < c
    # From here positions count from the start of the split's first image.
    origin_a, skip, size = first_position(
        pid_s, split_size, n_samples, places, stride_an, stride_ap, ROWS
    )
    origin_b, _, _ = first_position(
        pid_s, split_size, n_samples, places, stride_bn, stride_bp, ROWS
    )
    if UNIT == "place":
        skip = multiple(skip, ALIGN)
        size = multiple(size, ALIGN)
    if not WIDE:
        skip = skip.to(tl.int32)
        size = size.to(tl.int32)
    base_a_ptrs = a_ptr + origin_a + offs_c[None, :] * stride_ac  # [1, BLOCK_C]
    base_b_ptrs = b_ptr + origin_b + offs_c[None, :] * stride_bc

    offs_n = tl.arange(0, BLOCK_N)
    mask = (offs_n < size)[:, None] & mask_c[None, :]
    offs_a = position_offsets(skip + offs_n, places, stride_an, stride_ap, ROWS)
    offs_b = position_offsets(skip + offs_n, places, stride_bn, stride_bp, ROWS)
    a = tl.load(base_a_ptrs + offs_a[:, None], mask=mask, other=0.0).to(ACC)  # [BLOCK_N, BLOCK_C]
    b = tl.load(base_b_ptrs + offs_b[:, None], mask=mask, other=0.0).to(ACC)
    held = tl.minimum(size, BLOCK_N).to(ACC)
    pivot_a = tl.sum(add_up(a, GROUP, UNIT), axis=0) / held  # [BLOCK_C]
    pivot_b = tl.sum(add_up(b, GROUP, UNIT), axis=0) / held

    a = tl.where(mask, a - pivot_a[None, :], 0.0)
    b = tl.where(mask, b - pivot_b[None, :], 0.0)
    acc_sum_a = add_up(a, GROUP, UNIT)  # [GROUP, BLOCK_C]
    acc_sum_b = add_up(b, GROUP, UNIT)
    acc_squares_a = add_up(a * a, GROUP, UNIT)
    acc_squares_b = add_up(b * b, GROUP, UNIT)
    acc_products = add_up(a * b, GROUP, UNIT)
    for start in range(BLOCK_N, size, BLOCK_N):
        offs_n = tl.cast(start, size.dtype) + tl.arange(0, BLOCK_N)
        mask = (offs_n < size)[:, None] & mask_c[None, :]
        offs_a = position_offsets(skip + offs_n, places, stride_an, stride_ap, ROWS)
        offs_b = position_offsets(skip + offs_n, places, stride_bn, stride_bp, ROWS)
        a = tl.load(base_a_ptrs + offs_a[:, None], mask=mask, other=0.0).to(ACC)
        b = tl.load(base_b_ptrs + offs_b[:, None], mask=mask, other=0.0).to(ACC)
        a = tl.where(mask, a - pivot_a[None, :], 0.0)
        b = tl.where(mask, b - pivot_b[None, :], 0.0)
        acc_sum_a += add_up(a, GROUP, UNIT)
        acc_sum_b += add_up(b, GROUP, UNIT)
        acc_squares_a += add_up(a * a, GROUP, UNIT)
        acc_squares_b += add_up(b * b, GROUP, UNIT)
        if DIAGONAL:
            acc_products += add_up(a * b, GROUP, UNIT)

    length = tl.cdiv(n_samples, split_size).to(tl.int64) * c
    ptrs = vectors_ptr + pid_s * c + offs_c
    tl.store(ptrs, pivot_a.to(tl.float64), mask=mask_c)
    tl.store(ptrs + length, tl.sum(acc_sum_a.to(tl.float64), axis=0), mask=mask_c)
    tl.store(ptrs + 2 * length, tl.sum(acc_squares_a.to(tl.float64), axis=0), mask=mask_c)
    tl.store(ptrs + 3 * length, pivot_b.to(tl.float64), mask=mask_c)
    tl.store(ptrs + 4 * length, tl.sum(acc_sum_b.to(tl.float64), axis=0), mask=mask_c)
    tl.store(ptrs + 5 * length, tl.sum(acc_squares_b.to(tl.float64), axis=0), mask=mask_c)
    if DIAGONAL:
        tl.store(ptrs + 6 * length, tl.sum(acc_products.to(tl.float64), axis=0), mask=mask_c)


@triton.jit(do_not_specialize=SIZES)
def _paired_diagonal_combine_kernel(
    vectors_ptr,  # (7, splits, c)
    mean_a_ptr,  # out, (c,), as all below
    m2_a_ptr,
    mean_b_ptr,
    m2_b_ptr,
    diagonal_ptr,
    n_samples,
    c,
    splits,
    split_size,
    DIAGONAL: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    offs_c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < c
    length = tl.cast(splits, tl.int64) * c
    vectors_b_ptr = vectors_ptr + 3 * length
    first_a = tl.load(vectors_ptr + offs_c, mask=mask_c, other=0.0)
    first_b = tl.load(vectors_b_ptr + offs_c, mask=mask_c, other=0.0)

    acc_a = tl.zeros([BLOCK_S, BLOCK_C], tl.float64)
    acc_b = tl.zeros([BLOCK_S, BLOCK_C], tl.float64)
    acc_squares_a = tl.zeros([BLOCK_S, BLOCK_C], tl.float64)
    acc_squares_b = tl.zeros([BLOCK_S, BLOCK_C], tl.float64)
    acc_products = tl.zeros([BLOCK_S, BLOCK_C], tl.float64)
    for start in range(0, splits, BLOCK_S):
        offs_s = tl.cast(start, tl.int64) + tl.arange(0, BLOCK_S)
        held = held_positions(offs_s, splits, split_size, n_samples)[:, None]
        mask = (offs_s < splits)[:, None] & mask_c[None, :]
        offs = offs_s[:, None] * c + offs_c[None, :]
        shift_a, total_a, squares_a = load_split(vectors_ptr, offs, length, mask, first_a[None, :])
        shift_b, total_b, squares_b = load_split(
            vectors_b_ptr, offs, length, mask, first_b[None, :]
        )
        acc_a += total_a + held * shift_a
        acc_b += total_b + held * shift_b
        acc_squares_a += squares_a + shift_a * (2.0 * total_a + held * shift_a)
        acc_squares_b += squares_b + shift_b * (2.0 * total_b + held * shift_b)
        if DIAGONAL:
            products = tl.load(vectors_ptr + 6 * length + offs, mask=mask, other=0.0)
            acc_products += products + shift_a * total_b + (total_a + held * shift_a) * shift_b

    sum_a, sum_b = tl.sum(acc_a, axis=0), tl.sum(acc_b, axis=0)
    squares_a, squares_b = tl.sum(acc_squares_a, axis=0), tl.sum(acc_squares_b, axis=0)
    store_moments(mean_a_ptr, m2_a_ptr, offs_c, mask_c, first_a, sum_a, squares_a, n_samples)
    store_moments(mean_b_ptr, m2_b_ptr, offs_c, mask_c, first_b, sum_b, squares_b, n_samples)
    if DIAGONAL:
        cross = tl.sum(acc_products, axis=0) - sum_a * (sum_b / tl.cast(n_samples, tl.float64))
        tl.store(diagonal_ptr + offs_c, cross, mask=mask_c)


@on_its_device
def paired_diagonal(a: Tensor, b: Tensor, *, channel_dim: int, diagonal: bool) -> PairedSums:
    """Return the moments of `a` and `b` in float64, and their cross sums channel by channel."""
    (positions_a, positions_b), addressing = addressed_alike(
        Positions.of(a, channel_dim), Positions.of(b, channel_dim)
    )
    n, c = positions_a.n, positions_a.channels
    if positions_b.channels != c or n == 0 or c == 0:
        sums_a = channel_moments(a, channel_dim=channel_dim)
        sums_b = channel_moments(b, channel_dim=channel_dim)
        none = torch.zeros_like(sums_a.mean) if diagonal else None
        return PairedSums(*sums_a, *sums_b, None, none)
    device = device_of(a.device)
    unit = addressing["UNIT"]
    config = launch_config(n, c, a.dtype, device, unit, addressing["ALIGN"], tensors=2)
    splits = config.splits(n)
    vectors = torch.empty(7, splits, c, dtype=torch.float64, device=a.device)
    _paired_diagonal_partial_kernel[(splits * triton.cdiv(c, config.block_c),)](
        a_ptr=positions_a.view,
        b_ptr=positions_b.view,
        vectors_ptr=vectors,
        n_samples=n,
        c=c,
        places=positions_a.places,
        split_size=config.split_size,
        **positions_a.strides("a"),
        **positions_b.strides("b"),
        DIAGONAL=diagonal,
        **addressing,
        ACC=tl.float64 if a.dtype == torch.float64 else tl.float32,
        WIDE=positions_a.needs_64_bits(config.split_size, config.block_n),
        GROUP=config.group(unit, addressing["ALIGN"], a.itemsize, device.lanes),
        BLOCK_N=config.block_n,
        BLOCK_C=config.block_c,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    mean_a, m2_a, mean_b, m2_b, sums = (vectors.new_empty(c) for _ in range(5))
    _paired_diagonal_combine_kernel[(triton.cdiv(c, 8),)](
        vectors_ptr=vectors,
        mean_a_ptr=mean_a,
        m2_a_ptr=m2_a,
        mean_b_ptr=mean_b,
        m2_b_ptr=m2_b,
        diagonal_ptr=sums,
        n_samples=n,
        c=c,
        splits=splits,
        split_size=config.split_size,
        DIAGONAL=diagonal,
        BLOCK_S=min(128, triton.next_power_of_2(splits)),
        BLOCK_C=8,
        num_warps=8,
        num_stages=1,
    )
    return PairedSums(mean_a, m2_a, mean_b, m2_b, None, sums if diagonal else None)
