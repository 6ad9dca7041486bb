"""Moments of two networks at one tap, and the cross sums between all their channels.

    cross[i, j] = Σ_n (a[n, i] − mean_a[i]) · (b[n, j] − mean_b[j])

In:    a and b as (images, c, places) by strides; out: mean, m2 of each and cross, float64; with
       `joint` also the same sums within a and within b, each symmetric block computed once.
Two stages. Stage 1 (`paired_tiles.py`): a program takes a pair of channel tiles and one split of
the positions, and multiplies on the tensor cores. Stage 2 (`paired_combine.py`): the splits are
merged in float64. No atomics, one order: the same bits each time.
`cross=False` and `cross="diagonal"` are `paired_diagonal.py`.
Cost:  2·n·c·itemsize bytes, each activation once per tile row or column (then from the L2 cache);
       2·n·c_a·c_b flops, with `joint` n·(c_a + c_b)². Out: 8 bytes for each pair.
       Floor: max(bytes / bandwidth, flops / rate of the tensor cores at `precision`).
Truth: `reference/paired_moments.py`. Source: REPAIR (Jordan et al., 2023), eq. 2.
"""

from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.sums import PairedSums
from .channel_moments import LaunchConfig
from .devices import Device, device_of, on_its_device
from .paired_combine import _paired_moments_combine_kernel
from .paired_diagonal import paired_diagonal
from .paired_tiles import _paired_moments_partial_kernel
from .positions import Positions, addressed_alike

SIXTEEN_BIT = (torch.float16, torch.bfloat16)


def pairs_of_tiles(c_a: int, c_b: int, block_c: int, joint: bool) -> int:
    """Return how many pairs of channel tiles have to be multiplied."""
    tiles_a, tiles_b = triton.cdiv(c_a, block_c), triton.cdiv(c_b, block_c)
    tiles = tiles_a + tiles_b
    return tiles * (tiles + 1) // 2 if joint else tiles_a * tiles_b


def launch_config(
    n: int,
    c_a: int,
    c_b: int,
    dtype: torch.dtype,
    device: Device,
    precision: str = "tf32x3",
    joint: bool = False,
) -> LaunchConfig:
    """Choose the sizes for `n` positions. Reasoned and compiled for no spills, not measured yet."""
    block_n, block_c, num_warps, num_stages = _tile(n, max(c_a, c_b), dtype, device, precision)
    pairs = pairs_of_tiles(c_a, c_b, block_c, joint)
    # The float32 sums of one split stay within the budget (see `paired_tiles.py`), and a split is
    # at least so long that reading its part of the activations takes longer than its products.
    longest = min(max(2**13, 4 * triton.next_power_of_2(max(c_a, c_b))), 2**15)
    shortest = 64 if device.is_interpreted else 256
    split_size = max(triton.cdiv(n, _wanted_splits(pairs, device)), shortest)
    split_size = min(triton.cdiv(split_size, block_n) * block_n, longest)
    return LaunchConfig(block_n, block_c, split_size, num_warps, num_stages)


def _wanted_splits(pairs: int, device: Device) -> int:
    """Return the number of splits that leaves the fewest processors idle in the last round."""

    def busy(splits: int) -> float:
        programs = splits * pairs
        return programs / (triton.cdiv(programs, device.processors) * device.processors)

    most = max(1, device.processors // pairs)
    # More rounds, and with them more partial sums, only where one round leaves a tenth idle.
    return next((k for k in range(most, 4 * most + 1) if busy(k) >= 0.9), most)


def _tile(
    n: int, c: int, dtype: torch.dtype, device: Device, precision: str
) -> tuple[int, int, int, int]:
    """Return block_n, block_c, num_warps and num_stages."""
    if device.is_interpreted:  # a block costs the same there, whatever its size
        return (64 if n <= 1024 else 512), 64, 8, 2
    if dtype == torch.float64:
        return 32, 32, 8, 2
    if precision == "ieee":  # products without tensor cores
        return 16, 64, 8, 2
    width = min(128, max(16, triton.next_power_of_2(c)))
    if dtype in SIXTEEN_BIT:
        return 64, width, 8, 3
    return 32, width, 8, (2 if precision == "tf32x3" else 3)


@on_its_device
def paired_moments(
    a: Tensor,
    b: Tensor,
    *,
    channel_dim: int = 1,
    cross: bool | Literal["diagonal"] = True,
    joint: bool = False,
    precision: str = "tf32x3",
) -> PairedSums:
    """Return the moments of `a` and `b` and their cross sums in float64; see `ops`."""
    new = {"dtype": torch.float64, "device": a.device}
    c_a, c_b = a.shape[channel_dim], b.shape[channel_dim]
    if cross is not True:
        return paired_diagonal(a, b, channel_dim=channel_dim, diagonal=cross == "diagonal")
    if a.numel() == 0 or b.numel() == 0:
        return _sums_without_pairs(a, b, channel_dim, joint)
    (positions_a, positions_b), addressing = addressed_alike(
        Positions.of(a, channel_dim), Positions.of(b, channel_dim)
    )
    n = positions_a.n
    device = device_of(a.device)
    dot_precision = _dot_precision(a.dtype, precision, device)
    config = launch_config(n, c_a, c_b, a.dtype, device, dot_precision, joint)
    splits = config.splits(n)
    tiles_a, tiles_b = triton.cdiv(c_a, config.block_c), triton.cdiv(c_b, config.block_c)
    pairs = pairs_of_tiles(c_a, c_b, config.block_c, joint)
    turns = tiles_a + tiles_b if joint else max(tiles_a, tiles_b)
    sizes = {
        "n_samples": n,
        "c_a": c_a,
        "c_b": c_b,
        "splits": splits,
        "split_size": config.split_size,
        "tiles_a": tiles_a,
        "tiles_b": tiles_b,
        "pairs": pairs,
        "turns": turns,
    }
    acc = torch.float64 if a.dtype == torch.float64 else torch.float32
    length = (tiles_a + tiles_b) * config.block_c
    partial = {
        "pivots_ptr": torch.empty(splits, length, **new),
        "sums_ptr": torch.empty(2, splits, turns, length, **new),
        "products_ptr": a.new_empty(splits, pairs, config.block_c, config.block_c, dtype=acc),
    }
    unit = addressing["UNIT"]
    _paired_moments_partial_kernel[(splits * pairs,)](
        a_ptr=positions_a.view,
        b_ptr=positions_b.view,
        **partial,
        **sizes,
        places=positions_a.places,
        **positions_a.strides("a"),
        **positions_b.strides("b"),
        JOINT=joint,
        **addressing,
        WIDE=positions_a.needs_64_bits(config.split_size, config.block_n),
        **_multiplication(a.dtype, dot_precision, unit, device),
        GROUP=config.group(unit, a.itemsize, device.lanes),
        BLOCK_N=config.block_n,
        BLOCK_C=config.block_c,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    sums = {
        "mean_a": torch.empty(c_a, **new),
        "m2_a": torch.empty(c_a, **new),
        "mean_b": torch.empty(c_b, **new),
        "m2_b": torch.empty(c_b, **new),
        "cross": torch.empty(c_a, c_b, **new),
    }
    if joint:
        sums["within_a"] = torch.empty(c_a, c_a, **new)
        sums["within_b"] = torch.empty(c_b, c_b, **new)
    # 4,096 float64 values at once: what the registers of 4 warps hold with room to spare.
    turns_at_once = triton.next_power_of_2(turns)
    block_s = min(64, triton.next_power_of_2(splits), max(1, 256 // turns_at_once))
    block_y = min(config.block_c, 16 if block_s >= 16 else 32)
    block_x = min(config.block_c, 32, 4096 // (block_s * block_y))
    parts = (config.block_c // block_x) * (config.block_c // block_y)
    within = {"within_a_ptr": sums["cross"], "within_b_ptr": sums["cross"]}  # unused without joint
    _paired_moments_combine_kernel[(pairs * parts,)](
        **partial,
        **within | {f"{name}_ptr": values for name, values in sums.items()},
        **sizes,
        JOINT=joint,
        TURNS=turns_at_once,
        BLOCK_C=config.block_c,
        BLOCK_S=block_s,
        BLOCK_X=block_x,
        BLOCK_Y=block_y,
        num_warps=4,
        num_stages=1,
    )
    return PairedSums(**sums)


def _sums_without_pairs(a: Tensor, b: Tensor, channel_dim: int, joint: bool) -> PairedSums:
    """Return the sums where there are no positions, or one network has no channels."""
    moments = paired_diagonal(a, b, channel_dim=channel_dim, diagonal=False)
    c_a, c_b = len(moments.mean_a), len(moments.mean_b)
    cross = moments.mean_a.new_zeros(c_a, c_b)
    if not joint:
        return moments._replace(cross=cross)
    within_a, within_b = (
        paired_moments(x, x, channel_dim=channel_dim, precision="ieee").cross
        if x.numel()
        else cross.new_zeros(c, c)
        for x, c in ((a, c_a), (b, c_b))
    )
    return moments._replace(cross=cross, within_a=within_a, within_b=within_b)


def _multiplication(
    dtype: torch.dtype, precision: str, unit: str, device: Device
) -> dict[str, object]:
    """Return the kernel's flags for how values are multiplied, raw and centred.

    There is a raw loop where operands can go from memory to the tensor cores as they are: 16-bit
    values, and tf32 along places (Hopper takes it in no other order). 16-bit deviations are wanted
    up to 8e-6, float32 ones up to 1e-6: so a mean of 4 or of 1 standard deviations needs no pivot.
    """
    acc = dot = raw_dot = tl.float64 if dtype == torch.float64 else tl.float32
    # Not under the interpreter, whose bf16 is wrong; and deviations can leave the range of fp16.
    if dtype in SIXTEEN_BIT and not device.is_interpreted:
        raw_dot = tl.float16 if dtype == torch.float16 else tl.bfloat16
        dot = tl.float32 if dtype == torch.float16 else tl.bfloat16
    has_raw = dtype in SIXTEEN_BIT or (precision == "tf32" and unit == "place")
    return {
        "ACC": acc,
        "DOT": dot,
        "RAW_DOT": raw_dot,
        "HAS_RAW": has_raw,
        "SNAP": (4.0 if dtype in SIXTEEN_BIT else 1.0) if has_raw else 0.0,
        "PRECISION": precision,
    }


def _dot_precision(dtype: torch.dtype, precision: str, device: Device) -> str:
    """Return what `tl.dot` is asked for: never less than `precision` promises."""
    if dtype == torch.float64:
        return "ieee"
    if dtype in SIXTEEN_BIT:
        precision = "tf32"  # exact: their significands fit
    # ROCm has no tf32x3, and tf32 on one chip only: float32 products there.
    if device.is_hip and (precision == "tf32x3" or device.arch != "gfx942"):
        return "ieee"
    return precision
