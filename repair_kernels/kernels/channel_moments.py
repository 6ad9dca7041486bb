"""Mean and sum of squared deviations of every channel.

    mean[i] = Σ_n x[n, i] / n          m2[i] = Σ_n (x[n, i] − mean[i])²

In:    x as (images, c, places) by strides; out: mean, m2, float64, (c,).
Two stages. Stage 1: a program takes one block of channels and one split of the positions, centres
them on a pivot (the mean of the split's first block) and sums. Stage 2: one program per block of
channels merges the splits in order by Chan's rule, in float64. No atomics: the same bits each time.
Cost:  n·c·itemsize bytes read once, 3·n·c flops; floor: bytes / bandwidth.
Truth: `reference/channel_moments.py`.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.sums import ChannelSums
from .chan import merge, store_moments
from .devices import Device, device_of, on_its_device
from .positions import Positions, position_offsets


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


def launch_config(n: int, c: int, dtype: torch.dtype, device: Device) -> LaunchConfig:
    """Choose the sizes for `n` positions and `c` channels.

    Reasoned and compiled for no spills, not measured yet: blocks of 4,096 values, and programs
    enough to fill the chip twice.
    """
    block_c = min(64, max(16, triton.next_power_of_2(c)))
    block_n = 4096 // block_c
    if device.is_interpreted and n > 1024:  # a block costs the same there, whatever its size
        block_n = 512
    blocks = triton.cdiv(n, block_n)
    wanted = max(1, 2 * device.processors // triton.cdiv(c, block_c))
    split_size = triton.cdiv(blocks, min(wanted, blocks)) * block_n
    return LaunchConfig(block_n, block_c, split_size, num_warps=8, num_stages=3)


@triton.jit
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
    ACC: tl.constexpr,  # precision of the deviations: fp32, or fp64 for fp64
    WIDE: tl.constexpr,  # whether positions within a split need 64 bits
    SUM: tl.constexpr,  # precision of the sums over one block, which the GPU forms as a tree
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    pid_s = tl.program_id(0).to(tl.int64)
    pid_c = tl.program_id(1).to(tl.int64)
    offs_c = pid_c * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < c
    first = pid_s * split_size
    size = tl.minimum(split_size, n_samples - first)
    # From here positions count from the start of the split's first image.
    skip = first % places
    base_ptrs = x_ptr + (first // places) * stride_xn + offs_c[None, :] * stride_xc  # [1, BLOCK_C]
    if not WIDE:
        size = size.to(tl.int32)
        skip = skip.to(tl.int32)

    offs_n = tl.arange(0, BLOCK_N)
    mask = (offs_n < size)[:, None] & mask_c[None, :]
    x_ptrs = base_ptrs + position_offsets(skip + offs_n, places, stride_xn, stride_xp)[:, None]
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(ACC)  # [BLOCK_N, BLOCK_C]
    pivot = tl.sum(x, axis=0) / tl.minimum(size, BLOCK_N).to(ACC)  # [BLOCK_C]

    acc_sum = tl.zeros([BLOCK_C], tl.float64)
    acc_squares = tl.zeros([BLOCK_C], tl.float64)
    for start in range(0, size, BLOCK_N):
        offs_n = tl.cast(start, size.dtype) + tl.arange(0, BLOCK_N)
        mask = (offs_n < size)[:, None] & mask_c[None, :]
        x_ptrs = base_ptrs + position_offsets(skip + offs_n, places, stride_xn, stride_xp)[:, None]
        x = tl.load(x_ptrs, mask=mask, other=0.0).to(ACC)
        deviation = tl.where(mask, x - pivot[None, :], 0.0)  # [BLOCK_N, BLOCK_C]
        acc_sum += tl.sum(deviation.to(SUM), axis=0).to(tl.float64)
        acc_squares += tl.sum((deviation * deviation).to(SUM), axis=0).to(tl.float64)

    length = tl.num_programs(0).to(tl.int64) * c
    vector_ptrs = vectors_ptr + pid_s * c + offs_c
    tl.store(vector_ptrs, pivot.to(tl.float64), mask=mask_c)
    tl.store(vector_ptrs + length, acc_sum, mask=mask_c)
    tl.store(vector_ptrs + 2 * length, acc_squares, mask=mask_c)


@triton.jit
def _channel_moments_combine_kernel(
    vectors_ptr,  # (3, splits, c)
    mean_ptr,  # out, (c,)
    m2_ptr,  # out, (c,)
    n_samples,
    c,
    splits,
    split_size,
    BLOCK_C: tl.constexpr,
):
    offs_c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = offs_c < c

    mean = tl.zeros([BLOCK_C], tl.float64)
    m2 = tl.zeros([BLOCK_C], tl.float64)
    for index in range(0, splits):
        split = tl.cast(index, tl.int64)
        start = split * split_size
        before = start.to(tl.float64)
        held = tl.minimum(n_samples - start, split_size).to(tl.float64)
        mean, m2, _, _ = merge(
            vectors_ptr, split * c + offs_c, c * splits, mask_c, before, held, mean, m2
        )

    store_moments(mean_ptr, m2_ptr, offs_c, mask_c, mean, m2)


@on_its_device
def channel_moments(x: Tensor, *, channel_dim: int = 1) -> ChannelSums:
    """Return the mean and m2 of every channel of `x` in float64; see `ops.channel_moments`."""
    positions = Positions.of(x, channel_dim)
    if positions.is_rows:
        positions = positions.as_rows()
    n, c = positions.n, positions.channels
    mean = torch.empty(c, dtype=torch.float64, device=x.device)
    m2 = torch.empty_like(mean)
    if n == 0 or c == 0:
        return ChannelSums(mean.zero_(), m2.zero_())
    device = device_of(x.device)
    config = launch_config(n, c, x.dtype, device)
    acc = tl.float64 if x.dtype == torch.float64 else tl.float32
    splits = config.splits(n)
    vectors = mean.new_empty(3, splits, c)
    _channel_moments_partial_kernel[splits, triton.cdiv(c, config.block_c)](
        x_ptr=positions.view,
        vectors_ptr=vectors,
        n_samples=n,
        c=c,
        places=positions.places,
        split_size=config.split_size,
        **positions.strides("x"),
        ACC=acc,
        WIDE=positions.needs_64_bits(config.split_size, config.block_n),
        SUM=tl.float64 if device.is_interpreted else acc,  # numpy adds in order, and drifts
        BLOCK_N=config.block_n,
        BLOCK_C=config.block_c,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    _channel_moments_combine_kernel[(triton.cdiv(c, config.block_c),)](
        vectors_ptr=vectors,
        mean_ptr=mean,
        m2_ptr=m2,
        n_samples=n,
        c=c,
        splits=splits,
        split_size=config.split_size,
        BLOCK_C=config.block_c,
        num_warps=1,
        num_stages=3,
    )
    return ChannelSums(mean, m2)
