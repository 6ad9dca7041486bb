"""The work of one program of `paired_moments`: a pair of channel tiles over one split.

Channels come in tiles of BLOCK_C: first those of a, then those of b. A program takes the pair of
tiles (i, j): without JOINT i is of a and j of b, with it both are of either, and i <= j. It centres
both on pivots, multiplies on the tensor cores block by block, and adds up.

Pivots: the mean of the split's first block, or 0 for a channel whose mean lies within SNAP standard
deviations of 0, as those of most activations do. Where every pivot of both tiles is 0 there is
nothing to subtract, and the raw loop feeds the tensor cores straight from shared memory. A pivot
depends on its channel and split alone, so every program takes the same.

The sums of a tile's values are no product. Of the programs that load a tile in one split each adds
up every so-manieth block, its turn: each value is added once, and all do an equal part.

Error: a tensor core adds up by steps of 16 positions (8 in tf32) and truncates, half a unit in the
last place of the sum so far on average, 2^-24 of it or less, always towards 0. A fresh accumulator
for each block of BLOCK_N positions holds that to 8 steps at most, (8 + 1) / 2 · 2^-24 = 2.7e-7 of
the block's sum. Blocks are added in float32, rounded to nearest: k of them err by k / 2 · 2^-24 if
all roundings conspire, and by about 0.3 · sqrt(k / 3) · 2^-23 as they fall: 3.3e-7 for the k = 256
blocks of a split of 8,192 positions, and over many splits less again, since their errors are
independent and meet in float64. Without a pivot the sums are up to 1 + SNAP² times as large.
"""

import triton
import triton.language as tl

from .positions import SIZES, add_up, first_position, multiple, position_offsets


@triton.jit
def tile_pair(pair, tiles_a, tiles_b, JOINT: tl.constexpr):
    """Return the tiles (i, j) of a pair: of a x b, or of the triangle i <= j of all tiles.

    The triangle is a rectangle of half the height: row r holds r's tiles and those of the row that
    mirrors it.
    """
    if not JOINT:
        return pair % tiles_a, pair // tiles_a + tiles_a
    tiles = tiles_a + tiles_b
    even = 1 - tiles % 2
    row = pair // (tiles + even)
    column = pair % (tiles + even) - even
    straight = column >= row
    i = tl.where(straight, row, tiles - row - even)
    return i, tl.where(straight, column, tiles - 1 - even - column)


@triton.jit
def _pivot(x, held, SNAP: tl.constexpr):
    """Return a value near the mean of each column of a block whose first `held` rows count."""
    mean = tl.sum(x, axis=0) / held.to(x.dtype)
    if SNAP > 0:
        rows = tl.arange(0, x.shape[0])
        deviation = tl.where((rows < held)[:, None], x - mean[None, :], 0.0)
        variance = tl.sum(deviation * deviation, axis=0) / held.to(x.dtype)
        mean = tl.where(mean * mean <= SNAP * SNAP * variance, 0.0, mean)
    return mean


@triton.jit(do_not_specialize=SIZES)
def _paired_moments_partial_kernel(
    a_ptr,  # (images, c_a, places), by strides
    b_ptr,  # (images, c_b, places), by strides
    pivots_ptr,  # out, (splits, tiles · BLOCK_C)
    sums_ptr,  # out, (2, splits, turns, tiles · BLOCK_C): Σ (x - pivot), Σ (x - pivot)²
    products_ptr,  # out, (splits, pairs, BLOCK_C, BLOCK_C): Σ (x - pivot_x) · (y - pivot_y)
    n_samples,
    c_a,
    c_b,
    places,
    split_size,
    splits,
    tiles_a,
    tiles_b,
    pairs,
    turns,  # of a tile, at most
    stride_an,
    stride_ac,
    stride_ap,
    stride_bn,
    stride_bc,
    stride_bp,
    JOINT: tl.constexpr,  # pairs within a, within b and across, or across only
    ROWS: tl.constexpr,  # for these three see positions.py
    UNIT: tl.constexpr,
    ALIGN: tl.constexpr,
    WIDE: tl.constexpr,  # whether positions within a split need 64 bits
    ACC: tl.constexpr,  # precision of deviations and products: fp32, or fp64 for fp64
    DOT: tl.constexpr,  # type that deviations are multiplied in
    RAW_DOT: tl.constexpr,  # type that values are multiplied in as they are
    HAS_RAW: tl.constexpr,  # whether there is a raw loop
    SNAP: tl.constexpr,  # a mean within so many standard deviations of 0 needs no pivot
    PRECISION: tl.constexpr,
    GROUP: tl.constexpr,  # see `add_up`
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    # The tiles of one split run side by side: they share its activations in the L2 cache.
    pid = tl.program_id(0)
    pid_s = (pid // pairs).to(tl.int64)
    i, j = tile_pair(pid % pairs, tiles_a, tiles_b, JOINT)
    split_size = multiple(split_size, 16)  # blocks of positions are
    if UNIT == "place":
        places = multiple(places, ALIGN)
        stride_ac = multiple(stride_ac, ALIGN)
        stride_bc = multiple(stride_bc, ALIGN)
        stride_ap = 1
        stride_bp = 1
    elif UNIT == "channel":
        c_a = multiple(c_a, ALIGN)
        c_b = multiple(c_b, ALIGN)
        stride_ap = multiple(stride_ap, ALIGN)
        stride_bp = multiple(stride_bp, ALIGN)
        stride_ac = 1
        stride_bc = 1
    if not ROWS:
        stride_an = multiple(stride_an, ALIGN)
        stride_bn = multiple(stride_bn, ALIGN)
    # Here x is the tile that i names, and y that of j.
    if JOINT:
        x_ptr = tl.where(i < tiles_a, a_ptr, b_ptr)
        y_ptr = tl.where(j < tiles_a, a_ptr, b_ptr)
        tile_x = tl.where(i < tiles_a, i, i - tiles_a)
        tile_y = tl.where(j < tiles_a, j, j - tiles_a)
        c_x = tl.where(i < tiles_a, c_a, c_b)
        c_y = tl.where(j < tiles_a, c_a, c_b)
        stride_xn = tl.where(i < tiles_a, stride_an, stride_bn)
        stride_xc = tl.where(i < tiles_a, stride_ac, stride_bc)
        stride_xp = tl.where(i < tiles_a, stride_ap, stride_bp)
        stride_yn = tl.where(j < tiles_a, stride_an, stride_bn)
        stride_yc = tl.where(j < tiles_a, stride_ac, stride_bc)
        stride_yp = tl.where(j < tiles_a, stride_ap, stride_bp)
        turns_x, turn_x = turns, j
        turns_y, turn_y = turns, tl.where(i == j, -1, i)  # beside itself a tile is added up once
    else:
        x_ptr, tile_x, c_x = a_ptr, i, c_a
        y_ptr, tile_y, c_y = b_ptr, j - tiles_a, c_b
        stride_xn, stride_xc, stride_xp = stride_an, stride_ac, stride_ap
        stride_yn, stride_yc, stride_yp = stride_bn, stride_bc, stride_bp
        turns_x, turn_x = tiles_b, tile_y
        turns_y, turn_y = tiles_a, tile_x
    offs_c = tl.arange(0, BLOCK_C)
    offs_x = tile_x.to(tl.int64) * BLOCK_C + offs_c
    offs_y = tile_y.to(tl.int64) * BLOCK_C + offs_c
    mask_x = offs_x < c_x
    mask_y = offs_y < c_y
    # From here positions count from the start of the split's first image.
    origin_x, skip, size = first_position(
        pid_s, split_size, n_samples, places, stride_xn, stride_xp, ROWS
    )
    origin_y, _, _ = first_position(
        pid_s, split_size, n_samples, places, stride_yn, stride_yp, ROWS
    )
    if UNIT == "place":
        skip = multiple(skip, ALIGN)
        size = multiple(size, ALIGN)
    if not WIDE:
        skip = skip.to(tl.int32)
        size = size.to(tl.int32)
    base_x_ptrs = x_ptr + origin_x + offs_x[None, :] * stride_xc  # [1, BLOCK_C]
    base_y_ptrs = y_ptr + origin_y + offs_y[None, :] * stride_yc

    head_n = tl.arange(0, BLOCK_N)
    mask_n = (head_n < size)[:, None]
    held = tl.minimum(size, BLOCK_N)
    head_x = position_offsets(skip + head_n, places, stride_xn, stride_xp, ROWS)[:, None]
    head_y = position_offsets(skip + head_n, places, stride_yn, stride_yp, ROWS)[:, None]
    head_x = tl.load(base_x_ptrs + head_x, mask=mask_n & mask_x[None, :], other=0.0).to(ACC)
    head_y = tl.load(base_y_ptrs + head_y, mask=mask_n & mask_y[None, :], other=0.0).to(ACC)
    # Of the values' own precision, which keeps x - pivot exact where x lies within a factor 2 of it
    # (Sterbenz), as 16-bit deviations far from zero do.
    pivot_x = _pivot(head_x, held, SNAP).to(a_ptr.dtype.element_ty).to(ACC)  # [BLOCK_C]
    pivot_y = _pivot(head_y, held, SNAP).to(a_ptr.dtype.element_ty).to(ACC)

    acc_products = tl.zeros([BLOCK_C, BLOCK_C], ACC)
    acc_sum_x = tl.zeros([GROUP, BLOCK_C], ACC)
    acc_sum_y = tl.zeros([GROUP, BLOCK_C], ACC)
    acc_squares_x = tl.zeros([GROUP, BLOCK_C], ACC)
    acc_squares_y = tl.zeros([GROUP, BLOCK_C], ACC)
    pivots = tl.sum((pivot_x != 0.0).to(tl.int32), axis=0)
    pivots += tl.sum((pivot_y != 0.0).to(tl.int32), axis=0)
    # One of two loops runs. NaN is a pivot that is not 0.
    for CENTRED in tl.static_range(0 if HAS_RAW else 1, 2):
        chosen = True
        if HAS_RAW:
            chosen = (pivots > 0).to(tl.int32) == CENTRED
        if chosen:
            wait_x, wait_y = turn_x, turn_y
            for start in range(0, size, BLOCK_N):
                offs_n = tl.cast(start, size.dtype) + tl.arange(0, BLOCK_N)
                valid_x = (offs_n < size)[:, None] & mask_x[None, :]
                valid_y = (offs_n < size)[:, None] & mask_y[None, :]
                offs_n += skip
                x_ptrs = position_offsets(offs_n, places, stride_xn, stride_xp, ROWS)[:, None]
                y_ptrs = position_offsets(offs_n, places, stride_yn, stride_yp, ROWS)[:, None]
                x = tl.load(base_x_ptrs + x_ptrs, mask=valid_x, other=0.0)  # [BLOCK_N, BLOCK_C]
                y = tl.load(base_y_ptrs + y_ptrs, mask=valid_y, other=0.0)
                if CENTRED:
                    x = tl.where(valid_x, x.to(ACC) - pivot_x[None, :], 0.0)
                    y = tl.where(valid_y, y.to(ACC) - pivot_y[None, :], 0.0)
                if wait_x == 0:
                    wait_x += turns_x
                    values = x.to(ACC)
                    acc_sum_x += add_up(values, GROUP, UNIT)
                    acc_squares_x += add_up(values * values, GROUP, UNIT)
                if wait_y == 0:
                    wait_y += turns_y
                    values = y.to(ACC)
                    acc_sum_y += add_up(values, GROUP, UNIT)
                    acc_squares_y += add_up(values * values, GROUP, UNIT)
                x = x.to(DOT if CENTRED else RAW_DOT)
                y = y.to(DOT if CENTRED else RAW_DOT)
                # Not into `acc_products`: see the module on truncation.
                acc_products += tl.dot(tl.trans(x), y, input_precision=PRECISION, out_dtype=ACC)
                wait_x -= 1
                wait_y -= 1

    offs_product = offs_c[:, None] * BLOCK_C + offs_c[None, :]
    tl.store(products_ptr + pid.to(tl.int64) * (BLOCK_C * BLOCK_C) + offs_product, acc_products)
    # Vectors lie tile by tile, those of a first.
    length = tl.cast(tiles_a + tiles_b, tl.int64) * BLOCK_C
    squares_ptr = sums_ptr + splits * turns * length
    offs_x = i.to(tl.int64) * BLOCK_C + offs_c
    offs_y = j.to(tl.int64) * BLOCK_C + offs_c
    offs_sum_x = (pid_s * turns + turn_x) * length + offs_x
    offs_sum_y = (pid_s * turns + turn_y) * length + offs_y
    tl.store(sums_ptr + offs_sum_x, tl.sum(acc_sum_x.to(tl.float64), axis=0))
    tl.store(squares_ptr + offs_sum_x, tl.sum(acc_squares_x.to(tl.float64), axis=0))
    if turn_y >= 0:
        tl.store(sums_ptr + offs_sum_y, tl.sum(acc_sum_y.to(tl.float64), axis=0))
        tl.store(squares_ptr + offs_sum_y, tl.sum(acc_squares_y.to(tl.float64), axis=0))
    if turn_x == 0:
        tl.store(pivots_ptr + pid_s * length + offs_x, pivot_x.to(tl.float64))
    if turn_y == 0:
        tl.store(pivots_ptr + pid_s * length + offs_y, pivot_y.to(tl.float64))
