"""The second stage of `paired_moments`: what the splits found becomes moments and cross sums.

Two kinds of programs, both in float64 and always in the same order, by the rule in `chan.py`:

    pairs    BLOCK_X × BLOCK_Y channel pairs of one pair of tiles
    moments  mean and m2 of BLOCK_Y channels of one tile

Either adds up all splits, BLOCK_S at a time. The partial products are read once, by the first kind.
"""

import math

import triton
import triton.language as tl

from .chan import held_positions, store_moments
from .paired_tiles import tile_pair
from .positions import SIZES


def combine_blocks(splits: int, block_c: int, is_interpreted: bool = False) -> dict[str, int]:
    """Return the sizes of a program, of 1,024 products: the more splits, the fewer pairs.

    So there are programs for the whole chip, and few steps for each. Of 128 threads each takes four
    neighbouring products of two splits: their vectors stay in registers too.
    """
    block_s = min(32, triton.next_power_of_2(splits))
    if is_interpreted:  # a block costs the same there, whatever its size
        return {"BLOCK_S": block_s, "BLOCK_X": block_c, "BLOCK_Y": block_c}
    pairs = 1024 // block_s
    # The power of two below the square root, but 32 bytes or more side by side in memory.
    block_y = min(block_c, max(8, 1 << (math.isqrt(pairs).bit_length() - 1)))
    return {"BLOCK_S": block_s, "BLOCK_X": min(block_c, pairs // block_y), "BLOCK_Y": block_y}


@triton.jit
def _load_turns(sums_ptr, offs_s, offs, splits, turns, turns_held, length):
    """Return one sum of each split and channel, added up over the programs that took turns."""
    mask = (offs_s < splits)[:, None]
    ptrs = sums_ptr + offs_s[:, None] * turns * length + offs[None, :]
    total = tl.load(ptrs, mask=mask, other=0.0)
    for turn in range(1, turns_held):
        total += tl.load(ptrs + turn * length, mask=mask, other=0.0)
    return total


@triton.jit
def _load_shift(pivots_ptr, offs_s, offs, splits, length, first):
    """Return how far the pivots of each split are from those of the first."""
    mask = (offs_s < splits)[:, None]
    pivot = tl.load(pivots_ptr + offs_s[:, None] * length + offs[None, :], mask=mask, other=0.0)
    return tl.where(mask, pivot - first[None, :], 0.0)


@triton.jit
def _combine_pairs(
    pid,
    pivots_ptr,
    sums_ptr,
    products_ptr,
    cross_ptr,
    within_a_ptr,
    within_b_ptr,
    n_samples,
    c_a,
    c_b,
    splits,
    split_size,
    tiles_a,
    tiles_b,
    pairs,
    turns,
    JOINT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    """Store the cross sums of a block of pairs."""
    per_row: tl.constexpr = BLOCK_C // BLOCK_Y
    per_tile: tl.constexpr = BLOCK_C // BLOCK_X * per_row
    length = tl.cast(tiles_a + tiles_b, tl.int64) * BLOCK_C  # of a vector over all tiles
    pair = pid // per_tile
    i, j = tile_pair(pair, tiles_a, tiles_b, JOINT)
    # Here x is the tile that i names, and y that of j.
    part = pid % per_tile
    within_x = part // per_row * BLOCK_X + tl.arange(0, BLOCK_X)
    within_y = part % per_row * BLOCK_Y + tl.arange(0, BLOCK_Y)
    offs_x = i.to(tl.int64) * BLOCK_C + within_x
    offs_y = j.to(tl.int64) * BLOCK_C + within_y

    turns_x = turns if JOINT else tiles_b
    turns_y = turns if JOINT else tiles_a
    first_x = tl.load(pivots_ptr + offs_x)
    first_y = tl.load(pivots_ptr + offs_y)
    offs_pair = (pair.to(tl.int64) * BLOCK_C + within_x[:, None]) * BLOCK_C + within_y[None, :]

    # A division calls a function, which would have to save all registers further down.
    inverse = 1.0 / tl.cast(n_samples, tl.float64)
    acc_products = tl.zeros([BLOCK_S, BLOCK_X, BLOCK_Y], tl.float64)
    acc_x = tl.zeros([BLOCK_S, BLOCK_X], tl.float64)
    acc_y = tl.zeros([BLOCK_S, BLOCK_Y], tl.float64)
    for start in range(0, splits, BLOCK_S):
        offs_s = tl.cast(start, tl.int64) + tl.arange(0, BLOCK_S)
        held = held_positions(offs_s, splits, split_size, n_samples)[:, None]
        shift_x = _load_shift(pivots_ptr, offs_s, offs_x, splits, length, first_x)
        shift_y = _load_shift(pivots_ptr, offs_s, offs_y, splits, length, first_y)
        total_x = _load_turns(sums_ptr, offs_s, offs_x, splits, turns, turns_x, length)
        total_y = _load_turns(sums_ptr, offs_s, offs_y, splits, turns, turns_y, length)
        offs = offs_s[:, None, None] * pairs * (BLOCK_C * BLOCK_C) + offs_pair[None, :, :]
        mask_s = (offs_s < splits)[:, None, None]
        products = tl.load(products_ptr + offs, mask=mask_s, other=0.0).to(tl.float64)
        moved_x = total_x + held * shift_x  # about the first pivot
        acc_products += products + shift_x[:, :, None] * total_y[:, None, :]
        acc_products += moved_x[:, :, None] * shift_y[:, None, :]
        acc_x += moved_x
        acc_y += total_y + held * shift_y
    sum_x = tl.sum(acc_x, axis=0)
    share_y = tl.sum(acc_y, axis=0) * inverse
    cross = tl.sum(acc_products, axis=0) - sum_x[:, None] * share_y[None, :]

    x_is_a, y_is_a = i < tiles_a, j < tiles_a
    offs_x = tl.where(x_is_a, offs_x, offs_x - tiles_a * BLOCK_C)  # within a or b
    offs_y = tl.where(y_is_a, offs_y, offs_y - tiles_a * BLOCK_C)
    mask_x = offs_x < tl.where(x_is_a, c_a, c_b)
    mask_y = offs_y < tl.where(y_is_a, c_a, c_b)
    mask = mask_x[:, None] & mask_y[None, :]
    across = x_is_a & (j >= tiles_a)
    tl.store(cross_ptr + offs_x[:, None] * c_b + offs_y[None, :], cross, mask=mask & across)
    if JOINT:
        # Each pair of one network is computed once and stored twice: exactly symmetric.
        once = mask & (offs_x[:, None] <= offs_y[None, :])
        within_ptr = tl.where(x_is_a, within_a_ptr, within_b_ptr)
        c = tl.where(x_is_a, c_a, c_b)
        once &= x_is_a == y_is_a
        tl.store(within_ptr + offs_x[:, None] * c + offs_y[None, :], cross, mask=once)
        tl.store(within_ptr + offs_y[None, :] * c + offs_x[:, None], cross, mask=once)


@triton.jit
def _combine_moments(
    pid,
    pivots_ptr,
    sums_ptr,
    mean_a_ptr,
    m2_a_ptr,
    mean_b_ptr,
    m2_b_ptr,
    n_samples,
    c_a,
    c_b,
    splits,
    split_size,
    tiles_a,
    tiles_b,
    turns,
    JOINT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    """Store mean and m2 of a block of channels; blocks lie tile by tile, those of a first."""
    length = tl.cast(tiles_a + tiles_b, tl.int64) * BLOCK_C  # of a vector over all tiles
    offs = pid.to(tl.int64) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    is_a = pid < tiles_a * (BLOCK_C // BLOCK_Y)
    held_turns = turns if JOINT else tl.where(is_a, tiles_b, tiles_a)
    first = tl.load(pivots_ptr + offs)
    squares_ptr = sums_ptr + splits * turns * length
    acc_total = tl.zeros([BLOCK_S, BLOCK_Y], tl.float64)
    acc_squares = tl.zeros([BLOCK_S, BLOCK_Y], tl.float64)
    for start in range(0, splits, BLOCK_S):
        offs_s = tl.cast(start, tl.int64) + tl.arange(0, BLOCK_S)
        held = held_positions(offs_s, splits, split_size, n_samples)[:, None]
        shift = _load_shift(pivots_ptr, offs_s, offs, splits, length, first)
        total = _load_turns(sums_ptr, offs_s, offs, splits, turns, held_turns, length)
        squares = _load_turns(squares_ptr, offs_s, offs, splits, turns, held_turns, length)
        acc_total += total + held * shift
        acc_squares += squares + shift * (2.0 * total + held * shift)
    total, squares = tl.sum(acc_total, axis=0), tl.sum(acc_squares, axis=0)
    offs = tl.where(is_a, offs, offs - tiles_a * BLOCK_C)  # within a or b
    mean_ptr = tl.where(is_a, mean_a_ptr, mean_b_ptr)
    m2_ptr = tl.where(is_a, m2_a_ptr, m2_b_ptr)
    mask = offs < tl.where(is_a, c_a, c_b)
    store_moments(mean_ptr, m2_ptr, offs, mask, first, total, squares, n_samples)


@triton.jit(do_not_specialize=SIZES)
def _paired_moments_combine_kernel(
    pivots_ptr,  # these three as `_paired_moments_partial_kernel` writes them
    sums_ptr,
    products_ptr,
    mean_a_ptr,  # out, (c_a,), as m2_a
    m2_a_ptr,
    mean_b_ptr,  # out, (c_b,), as m2_b
    m2_b_ptr,
    cross_ptr,  # out, (c_a, c_b)
    within_a_ptr,  # out, (c_a, c_a), with JOINT
    within_b_ptr,  # out, (c_b, c_b), with JOINT
    n_samples,
    c_a,
    c_b,
    splits,
    split_size,
    tiles_a,
    tiles_b,
    pairs,
    turns,
    JOINT: tl.constexpr,
    BLOCK_C: tl.constexpr,  # of stage 1
    BLOCK_S: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    pid = tl.program_id(0)
    blocks_of_pairs = pairs * (BLOCK_C // BLOCK_X) * (BLOCK_C // BLOCK_Y)
    if pid < blocks_of_pairs:
        _combine_pairs(
            pid,
            pivots_ptr,
            sums_ptr,
            products_ptr,
            cross_ptr,
            within_a_ptr,
            within_b_ptr,
            n_samples,
            c_a,
            c_b,
            splits,
            split_size,
            tiles_a,
            tiles_b,
            pairs,
            turns,
            JOINT,
            BLOCK_C,
            BLOCK_S,
            BLOCK_X,
            BLOCK_Y,
        )
    else:
        pid -= blocks_of_pairs
        _combine_moments(
            pid,
            pivots_ptr,
            sums_ptr,
            mean_a_ptr,
            m2_a_ptr,
            mean_b_ptr,
            m2_b_ptr,
            n_samples,
            c_a,
            c_b,
            splits,
            split_size,
            tiles_a,
            tiles_b,
            turns,
            JOINT,
            BLOCK_C,
            BLOCK_S,
            BLOCK_Y,
        )
