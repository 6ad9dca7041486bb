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

from typing import Any, Literal, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.sums import PairedSums
from .channel_moments import LaunchConfig
from .devices import Device, device_of, on_its_device
from .paired_combine import _paired_moments_combine_kernel, combine_blocks
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
    align: int = 16,
) -> LaunchConfig:
    """Choose the sizes for `n` positions whose loads start at multiples of `align` values.

    Reasoned and compiled for no spills, not measured yet. As many programs run at a time as the
    chip has places, all of one split side by side.
    """
    load_bytes = min(16, align * dtype.itemsize)
    tile = _tile(n, max(c_a, c_b), dtype, device, precision, load_bytes)
    pairs = pairs_of_tiles(c_a, c_b, tile.block_c, joint)
    # The float32 sums of one split stay within the budget (see `paired_tiles.py`), and a split is
    # so long that its activations outweigh its partial products, 4 bytes for each pair.
    longest = min(max(2**13, 4 * triton.next_power_of_2(max(c_a, c_b))), 2**15)
    shortest = 64 if device.is_interpreted else 256
    splits = _splits_that_fill(tile.resident * device.processors, pairs)
    split_size = min(max(triton.cdiv(n, splits), shortest), longest)
    split_size = triton.cdiv(split_size, tile.block_n) * tile.block_n
    return LaunchConfig(tile.block_n, tile.block_c, split_size, tile.num_warps, tile.num_stages)


def _splits_that_fill(places: int, pairs: int) -> int:
    """Return a number of splits that leaves few of the chip's places empty in the last round."""

    def filled(splits: int) -> float:
        programs = splits * pairs
        return programs / (triton.cdiv(programs, places) * places)

    fewest = max(1, places // pairs)
    # More rounds, and with them more partial sums, only where one leaves a tenth empty.
    return next((k for k in range(fewest, 4 * fewest + 1) if filled(k) >= 0.9), fewest)


class _Tile(NamedTuple):
    block_n: int
    block_c: int
    num_warps: int
    num_stages: int
    resident: int  # programs that one processor holds at a time


def _tile(
    n: int, c: int, dtype: torch.dtype, device: Device, precision: str, load_bytes: int
) -> _Tile:
    """Choose what one program holds: no more than registers do, and 32 KiB and more in flight.

    More than 64 channels are bound by their products, or would be by the L2 cache if tiles were
    smaller: tiles of 128 take all registers of a processor. Up to 64 channels are bound by memory:
    one tile, blocks of 32 KiB. Up to 32 a program is small, and several share a processor.
    """
    if device.is_interpreted:  # a block costs the same there, whatever its size
        return _Tile(64 if n <= 1024 else 512, 64, 8, 2, 1)
    if dtype == torch.float64:
        return _Tile(16, 64, 8, 2, 1)
    width = max(16, min(128, triton.next_power_of_2(c)))
    per_block = 2 if dtype in SIXTEEN_BIT else 1  # both fill the same 32 KiB
    if precision == "ieee":  # products without tensor cores
        large, medium, small = (16, 128, 8), (16, 64, 4), (32, 32, 4)  # 16 bytes a thread and more
        sizes = large if width == 128 else medium if width == 64 else small
        return _Tile(*sizes, num_stages=2, resident=1 if width == 128 else 2)
    if load_bytes < 8 and width > 32:  # many addresses, which take registers
        return _Tile(32, 64, 8, 3, 1)
    if precision == "tf32x3":  # both parts of each factor are held at once
        large, medium = _Tile(32, 128, 8, 2, 1), _Tile(32, 64, 4, 3, 2)
    else:
        large, medium = _Tile(32 * per_block, 128, 8, 3, 1), _Tile(64 * per_block, 64, 8, 3, 1)
    if device.arch not in ("sm_90", "sm_100"):  # both operands pass through registers
        large = large._replace(block_n=large.block_n // 2)
    if device.is_hip and width == 64:  # as many registers for warps twice as wide
        medium = medium._replace(block_n=medium.block_n // 2)
    if width > 32:
        return large if width == 128 else medium
    return _Tile(medium.block_n, width, 4, 4, 4)


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
    config = launch_config(n, c_a, c_b, a.dtype, device, dot_precision, joint, addressing["ALIGN"])
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
        **_multiplication(a.dtype, dot_precision, addressing["UNIT"], device),
        GROUP=_group(config, addressing, a.itemsize, device.lanes),
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
    blocks = combine_blocks(splits, config.block_c, device.is_interpreted)
    per_row = config.block_c // blocks["BLOCK_Y"]
    programs = pairs * (config.block_c // blocks["BLOCK_X"]) * per_row
    programs += (tiles_a + tiles_b) * per_row
    within = {"within_a_ptr": sums["cross"], "within_b_ptr": sums["cross"]}  # unused without joint
    _paired_moments_combine_kernel[(programs,)](
        **partial,
        **within | {f"{name}_ptr": values for name, values in sums.items()},
        **sizes,
        JOINT=joint,
        BLOCK_C=config.block_c,
        **blocks,
        num_warps=4,
        num_stages=1,
    )
    return PairedSums(**sums)


def _group(config: LaunchConfig, addressing: dict[str, Any], itemsize: int, lanes: int) -> int:
    """Return the rows over which sums are kept apart, at most 8 values for each thread."""
    threads = config.num_warps * lanes
    group = config.group(addressing["UNIT"], addressing["ALIGN"], itemsize, lanes)
    return min(group, max(1, 8 * threads // config.block_c))


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
