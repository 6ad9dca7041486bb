"""Mean and sum of squared deviations of every channel.

    mean[i] = Σ_n x[n, i] / n          m2[i] = Σ_n (x[n, i] − mean[i])²

In:    x as (images, c, places) by strides; out: mean, m2, float64, (c,).
Two stages. Stage 1: a program takes one block of channels and one split of the positions, centres
them on a pivot (the mean of the split's first block) and sums: a thread keeps its own float32 sums
over the whole split, so that threads meet once, in float64, at the end. Stage 2: one program per
block of channels merges the splits in a fixed order, in float64. No atomics: the same bits each
time.
Cost:  n·c·itemsize bytes read once, 3·n·c flops; floor: bytes / bandwidth.
Truth: `reference/channel_moments.py`.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.sums import ChannelSums
from .chan import held_positions, load_split, store_moments
from .devices import Device, device_of, on_its_device
from .positions import (
    SIZES,
    Positions,
    Unit,
    add_up,
    addressed_alike,
    first_position,
    multiple,
    position_offsets,
)


@dataclass(frozen=True)
class LaunchConfig:
    """Sizes of one launch."""

    block_n: int
    block_c: int
    split_size: int  # positions of one program of stage 1, a multiple of block_n
    num_warps: int
    num_stages: int

    def splits(self, n: int) -> int:
        """Return the number of splits that `n` positions take."""
        return triton.cdiv(n, self.split_size)

    def group(self, unit: Unit, align: int, itemsize: int, lanes: int) -> int:
        """Return the rows of a block over which its threads spread; see `add_up`."""
        vector = min(align, 16 // itemsize)
        if unit == "place":
            return max(1, self.block_n // vector)
        across = max(1, self.block_c // vector)
        return min(self.block_n, max(1, self.num_warps * lanes // across))


# Float32 sums stay finite for values up to 1e17, and drift by less than 1e-6 of themselves.
LONGEST_SPLIT = 2**16


def launch_config(
    n: int,
    c: int,
    dtype: torch.dtype,
    device: Device,
    unit: Unit = "channel",
    align: int = 16,
    tensors: int = 1,
) -> LaunchConfig:
    """Choose the sizes for `n` positions and `c` channels of so many tensors.

    Loads run along the axis `unit` and start at multiples of `align` values.

    Reasoned and compiled, not measured yet. A program of 8 warps asks for 32 KiB at once, 16 bytes
    a thread along the axis of stride one; two such programs on a processor are 64 KiB in flight,
    more than bandwidth times latency (about 25 bytes/ns · 800 ns = 20 KiB on an H100). Two tensors
    have five sums for each pair of values: to fit into registers, four programs of half the size.
    A block is at least 128 bytes long along that axis, as far as the tensor is.
    """
    if device.is_interpreted:  # a block costs the same there, whatever its size
        block_c, block_n = min(64, triton.next_power_of_2(c)), (64 if n <= 1024 else 512)
    else:
        # 32 KiB are 8 loads of 16 bytes for each of 256 threads. Never more than 16 loads.
        values = min(32 * 1024 // dtype.itemsize, 16 * 256 * align) // tensors**2
        line = 128 // dtype.itemsize
        if unit == "place":  # a warp covers 64 to 512 bytes of a channel, and several channels
            block_n = min(4 * line, max(line, triton.next_power_of_2(n)))
            block_c = min(triton.next_power_of_2(c), values // block_n)
        else:
            block_c = min(line, triton.next_power_of_2(c))
        block_n = values // block_c
    wanted = max(1, 2 * tensors * device.processors // triton.cdiv(c, block_c))
    blocks = triton.cdiv(n, block_n)
    split_size = triton.cdiv(blocks, min(wanted, blocks)) * block_n
    return LaunchConfig(block_n, block_c, min(split_size, LONGEST_SPLIT), num_warps=8, num_stages=1)


@triton.jit(do_not_specialize=SIZES)
def _channel_moments_partial_kernel(
    x_ptr,  # (images, c, places), by strides
    vectors_ptr,  # out, (3, splits, c): pivot, Σ (x - pivot), Σ (x - pivot)²
    n_samples,
    c,
    places,
    split_size,
    stride_xn,
    stride_xc,
    stride_xp,
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
        stride_xc = multiple(stride_xc, ALIGN)
        stride_xp = 1
    elif UNIT == "channel":
        c = multiple(c, ALIGN)
        stride_xp = multiple(stride_xp, ALIGN)
        stride_xc = 1
    if not ROWS:
        stride_xn = multiple(stride_xn, ALIGN)
    offs_c = pid_c * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < c
    # From here positions count from the start of the split's first image.
    origin, skip, size = first_position(
        pid_s, split_size, n_samples, places, stride_xn, stride_xp, ROWS
    )
    if UNIT == "place":
        skip = multiple(skip, ALIGN)
        size = multiple(size, ALIGN)
    if not WIDE:
        skip = skip.to(tl.int32)
        size = size.to(tl.int32)
    base_ptrs = x_ptr + origin + offs_c[None, :] * stride_xc  # [1, BLOCK_C]

    offs_n = tl.arange(0, BLOCK_N)
    mask = (offs_n < size)[:, None] & mask_c[None, :]
    offs = position_offsets(skip + offs_n, places, stride_xn, stride_xp, ROWS)
    x = tl.load(base_ptrs + offs[:, None], mask=mask, other=0.0).to(ACC)  # [BLOCK_N, BLOCK_C]
    pivot = tl.sum(add_up(x, GROUP, UNIT), axis=0) / tl.minimum(size, BLOCK_N).to(ACC)  # [BLOCK_C]

    deviation = tl.where(mask, x - pivot[None, :], 0.0)
    acc_sum = add_up(deviation, GROUP, UNIT)  # [GROUP, BLOCK_C]
    acc_squares = add_up(deviation * deviation, GROUP, UNIT)
    for start in range(BLOCK_N, size, BLOCK_N):
        offs_n = tl.cast(start, size.dtype) + tl.arange(0, BLOCK_N)
        mask = (offs_n < size)[:, None] & mask_c[None, :]
        offs = position_offsets(skip + offs_n, places, stride_xn, stride_xp, ROWS)
        x = tl.load(base_ptrs + offs[:, None], mask=mask, other=0.0).to(ACC)
        deviation = tl.where(mask, x - pivot[None, :], 0.0)
        acc_sum += add_up(deviation, GROUP, UNIT)
        acc_squares += add_up(deviation * deviation, GROUP, UNIT)

    length = tl.cdiv(n_samples, split_size).to(tl.int64) * c
    vector_ptrs = vectors_ptr + pid_s * c + offs_c
    tl.store(vector_ptrs, pivot.to(tl.float64), mask=mask_c)
    tl.store(vector_ptrs + length, tl.sum(acc_sum.to(tl.float64), axis=0), mask=mask_c)
    tl.store(vector_ptrs + 2 * length, tl.sum(acc_squares.to(tl.float64), axis=0), mask=mask_c)


@triton.jit(do_not_specialize=SIZES)
def _channel_moments_combine_kernel(
    vectors_ptr,  # (3, splits, c)
    mean_ptr,  # out, (c,)
    m2_ptr,  # out, (c,)
    n_samples,
    c,
    splits,
    split_size,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    offs_c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < c
    length = tl.cast(splits, tl.int64) * c
    first = tl.load(vectors_ptr + offs_c, mask=mask_c, other=0.0)

    acc_total = tl.zeros([BLOCK_S, BLOCK_C], tl.float64)
    acc_squares = tl.zeros([BLOCK_S, BLOCK_C], tl.float64)
    for start in range(0, splits, BLOCK_S):
        offs_s = tl.cast(start, tl.int64) + tl.arange(0, BLOCK_S)
        held = held_positions(offs_s, splits, split_size, n_samples)[:, None]
        mask = (offs_s < splits)[:, None] & mask_c[None, :]
        offs = offs_s[:, None] * c + offs_c[None, :]
        shift, total, squares = load_split(vectors_ptr, offs, length, mask, first[None, :])
        acc_total += total + held * shift
        acc_squares += squares + shift * (2.0 * total + held * shift)

    total, squares = tl.sum(acc_total, axis=0), tl.sum(acc_squares, axis=0)
    store_moments(mean_ptr, m2_ptr, offs_c, mask_c, first, total, squares, n_samples)


@on_its_device
def channel_moments(x: Tensor, *, channel_dim: int = 1) -> ChannelSums:
    """Return the mean and m2 of every channel of `x` in float64; see `ops.channel_moments`."""
    (positions,), addressing = addressed_alike(Positions.of(x, channel_dim))
    n, c = positions.n, positions.channels
    mean = torch.empty(c, dtype=torch.float64, device=x.device)
    m2 = torch.empty_like(mean)
    if n == 0 or c == 0:
        return ChannelSums(mean.zero_(), m2.zero_())
    device = device_of(x.device)
    unit = addressing["UNIT"]
    config = launch_config(n, c, x.dtype, device, unit, addressing["ALIGN"])
    splits = config.splits(n)
    vectors = mean.new_empty(3, splits, c)
    _channel_moments_partial_kernel[(splits * triton.cdiv(c, config.block_c),)](
        x_ptr=positions.view,
        vectors_ptr=vectors,
        n_samples=n,
        c=c,
        places=positions.places,
        split_size=config.split_size,
        **positions.strides("x"),
        **addressing,
        ACC=tl.float64 if x.dtype == torch.float64 else tl.float32,
        WIDE=positions.needs_64_bits(config.split_size, config.block_n),
        GROUP=config.group(unit, addressing["ALIGN"], x.itemsize, device.lanes),
        BLOCK_N=config.block_n,
        BLOCK_C=config.block_c,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    block_s = min(128, triton.next_power_of_2(splits))
    _channel_moments_combine_kernel[(triton.cdiv(c, 8),)](
        vectors_ptr=vectors,
        mean_ptr=mean,
        m2_ptr=m2,
        n_samples=n,
        c=c,
        splits=splits,
        split_size=config.split_size,
        BLOCK_S=block_s,
        BLOCK_C=8,
        num_warps=4,
        num_stages=1,
    )
    return ChannelSums(mean, m2)
