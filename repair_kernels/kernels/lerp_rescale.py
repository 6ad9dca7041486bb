"""Tensors of two networks interpolated, with the channels of b gathered, and rescaled.

    mixed[i, j, k] = (1 − α) · a[i, j, k] + α · b[index_out[i], index_in[j], k]
    out[i, j, k] = scale[i] · mixed[i, j, k] + shift[i]

In:    any number of tensors of any shapes, strides and dtypes, in one table (`lerp_table.py`);
       out: for each alpha and tensor the same shape, channels-last as `a` or contiguous.
One launch: a program looks up its tensor by its own number, reads a block of a and of b once, and
writes it once for each alpha; 16 bytes at a time, unless input channels are gathered.
Cost:  (2 + alphas)·numel·itemsize bytes; floor: bytes / bandwidth.
Truth: `reference/lerp_rescale.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from ..reference.lerp import Lerp
from .devices import Device, device_of, on_its_device
from .lerp_table import (
    A_0,
    A_1,
    A_2,
    B_0,
    B_1,
    B_2,
    BODY,
    FIELDS,
    INDEX_0,
    INDEX_1,
    INDEX_2,
    INNER,
    NUMEL,
    ROW,
    SCALE,
    SHIFT,
    VECTOR_BYTES,
    A,
    B,
    LerpTable,
    empty_like,
    lerp_table,
)


@dataclass(frozen=True)
class LaunchConfig:
    """Sizes of one launch."""

    vectors: int  # of 16 bytes, for one program
    block: int  # elements for one program, where they are read one by one
    num_warps: int
    num_stages: int


def launch_config(n: int, device: Device) -> LaunchConfig:
    """Choose the sizes for `n` elements in all; reasoned, not measured yet.

    A thread has 4 vectors or 8 elements of each network under way, and small tensors waste little.
    """
    if device.is_interpreted:  # a block costs the same there, whatever its size
        vectors, block = (32, 256) if n <= 4096 else (4096, 16384)
        return LaunchConfig(vectors, block, num_warps=4, num_stages=3)
    return LaunchConfig(vectors=512, block=1024, num_warps=4, num_stages=3)


@triton.constexpr_function
def _dtype(kind):
    """Return Triton's name of `lerp_table.DTYPES[kind]`."""
    return (tl.float32, tl.float16, tl.bfloat16, tl.float64)[kind]


@triton.jit(do_not_specialize=["n_rows", "n_alphas"])
def _lerp_rescale_kernel(
    table_ptr,  # see `lerp_table.py`
    n_rows,
    n_alphas,
    BODIES: tl.constexpr,  # one bit for each kind of row that occurs
    WIDE: tl.constexpr,  # whether element numbers need 64 bits
    VECTORS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pid = tl.program_id(0)
    low, high = 0, n_rows
    while high - low > 1:
        middle = (low + high) // 2
        is_later = tl.load(table_ptr + middle) > pid
        low = tl.where(is_later, low, middle)
        high = tl.where(is_later, middle, high)
    block = pid - _number(table_ptr + low, WIDE)
    row_ptr = table_ptr + n_rows + low * FIELDS
    outs_ptr = table_ptr + n_rows * (1 + FIELDS)
    alphas_ptr = outs_ptr + n_rows * n_alphas
    outs_ptr += low * n_alphas

    body = tl.load(row_ptr + BODY)
    for kind in tl.static_range(8):
        if BODIES & (1 << kind):  # noqa: SIM102 (one is known when compiling, one is not)
            if body == kind:
                if kind % 2 == 1:
                    _mix_vectors(
                        row_ptr, outs_ptr, alphas_ptr, n_alphas, block, kind // 2, WIDE, VECTORS
                    )
                else:
                    _mix_elements(
                        row_ptr, outs_ptr, alphas_ptr, n_alphas, block, kind // 2, WIDE, BLOCK
                    )


@triton.jit
def _mix_vectors(
    row_ptr,
    outs_ptr,
    alphas_ptr,
    n_alphas,
    block,
    KIND: tl.constexpr,
    WIDE: tl.constexpr,
    VECTORS: tl.constexpr,
):
    """Mix a block of 16-byte vectors; the rows of a, of b and of the output are dense."""
    DTYPE: tl.constexpr = _dtype(KIND)
    LANES: tl.constexpr = VECTOR_BYTES * 8 // DTYPE.primitive_bitwidth
    start = block * (VECTORS * LANES) + tl.arange(0, VECTORS) * LANES  # [VECTORS]
    mask = start < _number(row_ptr + NUMEL, WIDE)
    offs_0, place = _divided(start, row_ptr + ROW, WIDE)
    from_0 = _taken(row_ptr + INDEX_0, offs_0, mask)
    from_b = tl.multiple_of(from_0 * _number(row_ptr + B_0, WIDE) + place, LANES)
    lane = tl.arange(0, LANES)[None, :]
    offs = start[:, None] + lane  # [VECTORS, LANES]
    from_b = from_b[:, None] + lane

    a = tl.load(_pointer(row_ptr + A, DTYPE, VECTOR_BYTES) + offs, mask=mask[:, None])
    b = tl.load(_pointer(row_ptr + B, DTYPE, VECTOR_BYTES) + from_b, mask=mask[:, None])
    _store_mixed(a, b, offs, offs_0, mask, row_ptr, outs_ptr, alphas_ptr, n_alphas, KIND, True)


@triton.jit
def _mix_elements(
    row_ptr,
    outs_ptr,
    alphas_ptr,
    n_alphas,
    block,
    KIND: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mix a block of elements, wherever they lie."""
    DTYPE: tl.constexpr = _dtype(KIND)
    offs = block * BLOCK + tl.arange(0, BLOCK)  # [BLOCK], as all below
    mask = offs < _number(row_ptr + NUMEL, WIDE)
    offs_0, place = _divided(offs, row_ptr + ROW, WIDE)
    offs_1, offs_2 = _divided(place, row_ptr + INNER, WIDE)
    from_0 = _taken(row_ptr + INDEX_0, offs_0, mask)
    from_1 = _taken(row_ptr + INDEX_1, offs_1, mask)
    from_2 = _taken(row_ptr + INDEX_2, offs_2, mask)
    in_a = offs_0 * _number(row_ptr + A_0, WIDE) + offs_1 * _number(row_ptr + A_1, WIDE)
    in_b = from_0 * _number(row_ptr + B_0, WIDE) + from_1 * _number(row_ptr + B_1, WIDE)
    in_a += offs_2 * _number(row_ptr + A_2, WIDE)
    in_b += from_2 * _number(row_ptr + B_2, WIDE)

    a = tl.load(_pointer(row_ptr + A, DTYPE) + in_a, mask=mask)
    b = tl.load(_pointer(row_ptr + B, DTYPE) + in_b, mask=mask)
    _store_mixed(a, b, offs, offs_0, mask, row_ptr, outs_ptr, alphas_ptr, n_alphas, KIND, False)


@triton.jit
def _store_mixed(
    a,
    b,
    offs,  # where the result goes: [BLOCK], or [VECTORS, LANES]
    offs_0,  # its output channel: [BLOCK], or [VECTORS]
    mask,  # likewise
    row_ptr,
    outs_ptr,
    alphas_ptr,
    n_alphas,
    KIND: tl.constexpr,
    IS_VECTOR: tl.constexpr,
):
    """Interpolate, rescale and store a block for every alpha."""
    DTYPE: tl.constexpr = _dtype(KIND)
    ACC: tl.constexpr = tl.float64 if DTYPE.primitive_bitwidth == 64 else tl.float32
    scale = tl.load(row_ptr + SCALE)
    shift = tl.load(row_ptr + SHIFT)
    a, b = a.to(ACC), b.to(ACC)
    for k in range(n_alphas):
        weight = tl.load(alphas_ptr + 2 * k).to(tl.float64, bitcast=True).to(ACC)
        is_of_a = tl.load(alphas_ptr + 2 * k + 1) != 0
        near, far = tl.where(is_of_a, b, a), tl.where(is_of_a, a, b)
        mixed = near * (1 - weight) + far * weight
        # At the ends a product with 0 would lose -0.0 and turn infinity into NaN; and where both
        # networks agree, so does every network between them.
        mixed = tl.where(weight == 0, near, tl.where(near == far, near, mixed))
        if scale != 0:
            mixed *= _per_row(row_ptr + SCALE, k, offs_0, mask, ACC, IS_VECTOR)
        if shift != 0:
            mixed += _per_row(row_ptr + SHIFT, k, offs_0, mask, ACC, IS_VECTOR)
        out_ptr = _pointer(outs_ptr + k, DTYPE, VECTOR_BYTES if IS_VECTOR else 1)
        if IS_VECTOR:
            tl.store(out_ptr + offs, mixed.to(DTYPE), mask=mask[:, None])
        else:
            tl.store(out_ptr + offs, mixed.to(DTYPE), mask=mask)


@triton.jit
def _per_row(field_ptr, k, offs_0, mask, ACC: tl.constexpr, IS_VECTOR: tl.constexpr):
    """Return the scale or shift of each output channel for alpha number `k`."""
    values_ptr = _pointer(field_ptr, ACC) + k * tl.load(field_ptr + 1)
    # As one dimension: for two, the compiler would move the block to another layout, and back.
    values = tl.load(values_ptr + offs_0, mask=mask, other=0.0)
    return values[:, None] if IS_VECTOR else values


@triton.jit
def _pointer(field_ptr, DTYPE: tl.constexpr, ALIGNMENT: tl.constexpr = 1):
    """Return the address that a field holds, which ALIGNMENT is known to divide."""
    return tl.multiple_of(tl.load(field_ptr).to(tl.pointer_type(DTYPE)), ALIGNMENT)


@triton.jit
def _number(field_ptr, WIDE: tl.constexpr):
    """Return the size or stride that a field holds."""
    number = tl.load(field_ptr)
    return number if WIDE else number.to(tl.int32)


@triton.jit
def _divided(n, field_ptr, WIDE: tl.constexpr):
    """Return quotient and remainder of `n` by the size in a field; see `lerp_table.magic`."""
    size = _number(field_ptr, WIDE)
    if WIDE:
        quotient = n // size
    else:
        magic = tl.load(field_ptr + 1)
        high = tl.umulhi(n.to(tl.uint32), magic.to(tl.uint32))
        quotient = ((n.to(tl.uint32) + high) >> (magic >> 32).to(tl.uint32)).to(tl.int32)
    return quotient, n - quotient * size


@triton.jit
def _taken(field_ptr, offs, mask):
    """Return what an index of the table holds at `offs`; without an index `offs` itself."""
    taken = offs
    if tl.load(field_ptr) != 0:
        index = tl.load(_pointer(field_ptr, tl.int64) + offs, mask=mask, other=0)
        taken = index.to(offs.dtype)
    return taken


def lerp_rescale(items: Sequence[Lerp], alphas: Sequence[float]) -> list[list[Tensor]]:
    """Return for each alpha the interpolated tensors; see `ops.lerp_rescale`."""
    outs = [[empty_like(item.a, item.segment) for item in items] for _ in alphas]
    n = sum(item.a.numel() for item in items)
    if n and outs:
        config = launch_config(n, device_of(items[0].a.device))
        table = lerp_table(items, alphas, outs, config.vectors, config.block)
        launch(table.words, table, config)
    return outs


@on_its_device
def launch(words: Tensor, table: LerpTable, config: LaunchConfig) -> None:
    """Start the kernel on the device of the table's words."""
    _lerp_rescale_kernel[(table.n_blocks,)](
        table_ptr=words,
        n_rows=table.n_rows,
        n_alphas=table.n_alphas,
        BODIES=table.bodies,
        WIDE=table.wide,
        VECTORS=config.vectors,
        BLOCK=config.block,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
