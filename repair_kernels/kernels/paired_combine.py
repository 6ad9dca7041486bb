"""The second stage of `paired_moments`: what the splits found becomes moments and cross sums.

A program takes BLOCK_X × BLOCK_Y channel pairs of one pair of tiles and adds up all splits, BLOCK_S
at a time, by the rule in `chan.py`, in float64 and always in the same order. The more splits, the
smaller its block of pairs: then programs fill the chip, and each has few steps to take.
"""

import triton
import triton.language as tl

from .chan import held_positions, store_moments
from .paired_tiles import tile_pair
from .positions import SIZES


@triton.jit
def _load_turns(sums_ptr, offs_s, offs, splits, turns, turns_held, length, TURNS: tl.constexpr):
    """Return one sum of each split and channel, added up over the programs that took turns."""
    offs_t = tl.arange(0, TURNS)
    entries = offs_s[:, None] * turns + offs_t[None, :]
    mask = (offs_s < splits)[:, None] & (offs_t < turns_held)[None, :]
    ptrs = sums_ptr + entries[:, :, None] * length + offs[None, None, :]
    return tl.sum(tl.load(ptrs, mask=mask[:, :, None], other=0.0), axis=1)


@triton.jit
def _load_shift(pivots_ptr, offs_s, offs, splits, length, first):
    """Return how far the pivots of each split are from those of the first."""
    mask = (offs_s < splits)[:, None]
    pivot = tl.load(pivots_ptr + offs_s[:, None] * length + offs[None, :], mask=mask, other=0.0)
    return tl.where(mask, pivot - first[None, :], 0.0)


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
    TURNS: tl.constexpr,  # a power of two from `turns` on
    BLOCK_C: tl.constexpr,  # of stage 1
    BLOCK_S: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    per_row: tl.constexpr = BLOCK_C // BLOCK_Y
    per_tile: tl.constexpr = BLOCK_C // BLOCK_X * per_row
    pair = tl.program_id(0) // per_tile
    part = tl.program_id(0) % per_tile
    i, j = tile_pair(pair, tiles_a, tiles_b, JOINT)
    # Here x is the tile that i names, and y that of j; vectors lie tile by tile.
    within_x = part // per_row * BLOCK_X + tl.arange(0, BLOCK_X)
    within_y = part % per_row * BLOCK_Y + tl.arange(0, BLOCK_Y)
    offs_x = i.to(tl.int64) * BLOCK_C + within_x
    offs_y = j.to(tl.int64) * BLOCK_C + within_y
    length = tl.cast(tiles_a + tiles_b, tl.int64) * BLOCK_C
    squares_ptr = sums_ptr + splits * turns * length
    first_x = tl.load(pivots_ptr + offs_x)
    first_y = tl.load(pivots_ptr + offs_y)
    turns_x, turns_y = turns, turns
    # One block of pairs for each y stores the moments too, and for each x, if those are not y's.
    owns_x = False
    owns_y = (i == 0) & (part // per_row == 0)
    if not JOINT:
        turns_x, turns_y = tiles_b, tiles_a
        owns_x = (j == tiles_a) & (part % per_row == 0)

    acc_products = tl.zeros([BLOCK_S, BLOCK_X, BLOCK_Y], tl.float64)
    acc_x = tl.zeros([BLOCK_S, BLOCK_X], tl.float64)
    acc_y = tl.zeros([BLOCK_S, BLOCK_Y], tl.float64)
    acc_squares_x = tl.zeros([BLOCK_S, BLOCK_X], tl.float64)
    acc_squares_y = tl.zeros([BLOCK_S, BLOCK_Y], tl.float64)
    for start in range(0, splits, BLOCK_S):
        offs_s = tl.cast(start, tl.int64) + tl.arange(0, BLOCK_S)
        held = held_positions(offs_s, splits, split_size, n_samples)[:, None]
        shift_x = _load_shift(pivots_ptr, offs_s, offs_x, splits, length, first_x)
        shift_y = _load_shift(pivots_ptr, offs_s, offs_y, splits, length, first_y)
        total_x = _load_turns(sums_ptr, offs_s, offs_x, splits, turns, turns_x, length, TURNS)
        total_y = _load_turns(sums_ptr, offs_s, offs_y, splits, turns, turns_y, length, TURNS)
        rows = (offs_s * pairs + pair)[:, None] * BLOCK_C + within_x[None, :]
        products = tl.load(
            products_ptr + rows[:, :, None] * BLOCK_C + within_y[None, None, :],
            mask=(offs_s < splits)[:, None, None],
            other=0.0,
        ).to(tl.float64)
        moved_x = total_x + held * shift_x  # about the first pivot
        acc_products += products + shift_x[:, :, None] * total_y[:, None, :]
        acc_products += moved_x[:, :, None] * shift_y[:, None, :]
        acc_x += moved_x
        acc_y += total_y + held * shift_y
        if owns_x:
            squares = _load_turns(
                squares_ptr, offs_s, offs_x, splits, turns, turns_x, length, TURNS
            )
            acc_squares_x += squares + shift_x * (2.0 * total_x + held * shift_x)
        if owns_y:
            squares = _load_turns(
                squares_ptr, offs_s, offs_y, splits, turns, turns_y, length, TURNS
            )
            acc_squares_y += squares + shift_y * (2.0 * total_y + held * shift_y)

    sum_x, sum_y = tl.sum(acc_x, axis=0), tl.sum(acc_y, axis=0)
    share_y = sum_y / tl.cast(n_samples, tl.float64)
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
    mean_ptr = tl.where(y_is_a, mean_a_ptr, mean_b_ptr)
    m2_ptr = tl.where(y_is_a, m2_a_ptr, m2_b_ptr)
    squares_x, squares_y = tl.sum(acc_squares_x, axis=0), tl.sum(acc_squares_y, axis=0)
    if owns_y:
        store_moments(mean_ptr, m2_ptr, offs_y, mask_y, first_y, sum_y, squares_y, n_samples)
    if owns_x:
        store_moments(mean_a_ptr, m2_a_ptr, offs_x, mask_x, first_x, sum_x, squares_x, n_samples)
