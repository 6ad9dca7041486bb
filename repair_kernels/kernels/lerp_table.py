"""The table that tells one launch of `lerp_rescale` about every tensor, uploaded in one copy.

int64 words, one part behind the other:

    first block of each row        rows            which programs work on which row
    the fields of each row         rows × FIELDS   addresses, sizes, strides
    addresses of the outputs       rows × alphas
    weight, and of which network   alphas × 2      float64 bits; at most a half; 1: of a, 0: of b
    indices                        those that the host holds

A row is a tensor that is not empty, in the order of its output's memory: `row` elements for each
output channel, in runs of `inner`. Element (x, y, z) of the output, z within a run, takes element
(index_0[x], index_1[y], index_2[z]) of b.
"""

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton.language as tl
from torch import Tensor

from ..reference.lerp import Lerp

# fmt: off
(
    BODY,  # 2 · number of the dtype + 1 where 16 bytes at a time are possible
    NUMEL,
    ROW, ROW_MAGIC, INNER, INNER_MAGIC,  # sizes, and how to divide by them: see `magic`
    A, A_0, A_1, A_2, B, B_0, B_1, B_2,  # address and strides
    INDEX_0, INDEX_1, INDEX_2,  # addresses, 0 where there is none
    SCALE, SCALE_STEP, SHIFT, SHIFT_STEP,  # address, and elements from one alpha to the next
) = map(tl.constexpr, range(21))
FIELDS = tl.constexpr(21)
# fmt: on
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
VECTOR_BYTES = tl.constexpr(16)
NARROW = 2**31  # numbers of elements below this have 32 bits


@dataclass(frozen=True)
class LerpTable:
    """What one launch reads besides the tensors."""

    words: Tensor
    n_rows: int
    n_blocks: int
    bodies: int  # one bit for each value of BODY that occurs
    wide: bool  # whether numbers of elements need 64 bits
    held: list[Tensor]  # what the table points at, and nobody else may hold


def lerp_table(
    items: Sequence[Lerp],
    alphas: Sequence[float],
    outs: Sequence[Sequence[Tensor]],
    vectors: int,
    block: int,
) -> LerpTable:
    """Lay out the table on the tensors' device.

    Args:
        outs: for each alpha, where each item's result goes
        vectors, block: how many vectors, or elements, a program takes
    """
    rows = [k for k, item in enumerate(items) if item.a.numel()]
    header = len(rows) * (1 + FIELDS.value + len(alphas)) + 2 * len(alphas)
    packed: dict[int, tuple[int, Tensor]] = {}  # by identity: several tensors may share an index
    size = header
    for k in rows:
        for index in (items[k].index_out, items[k].index_in):
            if index is not None and index.device.type == "cpu" and id(index) not in packed:
                packed[id(index)] = size, index
                size += len(index)
    device = items[0].a.device
    words = torch.empty(size, dtype=torch.int64, device=device)
    held: list[Tensor] = []

    def address_of(index: Tensor | None) -> int:
        if index is None:
            return 0
        if id(index) in packed:
            return words.data_ptr() + 8 * packed[id(index)][0]
        held.append(index.contiguous())
        return held[-1].data_ptr()

    first, fields, targets = array("q"), array("q"), array("q")
    n_blocks, bodies, wide = 0, 0, False
    for k in rows:
        item = items[k]
        row = _row(item, outs[0][k], address_of, held)
        count = row[NUMEL.value]
        first.append(n_blocks)
        fields.extend(row)
        targets.extend([out[k].data_ptr() for out in outs])
        lanes = vectors * (16 // item.a.element_size()) if row[BODY.value] % 2 else block
        n_blocks += -(-count // lanes)
        bodies |= 1 << row[BODY.value]
        wide |= count + lanes > NARROW or _reach(item.a) >= NARROW or _reach(item.b) >= NARROW
    for alpha in alphas:
        bits = struct.unpack("<q", struct.pack("<d", min(alpha, 1 - alpha)))[0]
        targets.extend((bits, int(alpha >= 0.5)))

    # Pinned: the copy then waits for nothing, and nothing waits for it.
    host = torch.empty(size, dtype=torch.int64, pin_memory=device.type == "cuda")
    host[:header] = torch.frombuffer(first + fields + targets, dtype=torch.int64)
    for start, index in packed.values():
        host[start : start + len(index)] = index
    words.copy_(host, non_blocking=True)
    return LerpTable(words, len(rows), n_blocks, bodies, wide, held)


def empty_like(item: Lerp) -> Tensor:
    """Return memory for a result: as `a` lies if that is channels-last, else contiguous."""
    if item.a.is_contiguous() or not _is_channels_last(item):
        return torch.empty_like(item.a, memory_format=torch.contiguous_format)
    return torch.empty_like(item.a)


def _is_channels_last(item: Lerp) -> bool:
    a = item.a
    return item.segment == 1 and a.dim() > 2 and a.movedim(1, -1).is_contiguous()


def _row(item: Lerp, out: Tensor, address_of, held: list[Tensor]) -> list[int]:
    """Return the fields of one tensor, in their order."""
    a, b = item.a, item.b
    c_out, c_in, count = item.c_out, item.c_in, a.numel()
    row = inner = count // c_out
    itemsize = a.element_size()
    vector = VECTOR_BYTES.value // itemsize
    index_0, index_1, index_2 = address_of(item.index_out), 0, 0
    strides_a = strides_b = (row, 0, 1)
    body = 2 * DTYPES.index(a.dtype)
    gathers_in = item.index_in is not None and a.dim() > 1
    if out.stride() == a.stride() == b.stride() and not gathers_in:
        # Both lie as the result does, channel by channel.
        if item.index_out is None and item.scale is None and item.shift is None:
            row = inner = count
        aligned = (a.data_ptr() | b.data_ptr() | out.data_ptr()) % VECTOR_BYTES.value == 0
        body += aligned and row % vector == 0
    elif out.is_contiguous():
        inner = row // c_in
        a, b = (x.reshape(c_out, c_in, inner) for x in (a, b))
        strides_a, strides_b = a.stride(), b.stride()
        index_1 = address_of(item.index_in) if gathers_in else 0
    else:
        inner = c_in
        a, b = (x.movedim(1, -1).reshape(c_out, -1, c_in) for x in (a, b))
        strides_a, strides_b = a.stride(), b.stride()
        index_2 = address_of(item.index_in) if gathers_in else 0
    held += (a, b)
    scale, scale_step = _vector(item.scale, a, held)
    shift, shift_step = _vector(item.shift, a, held)
    return [
        *(body, count, row, magic(row), inner, magic(inner)),
        *(a.data_ptr(), *strides_a, b.data_ptr(), *strides_b),
        *(index_0, index_1, index_2, scale, scale_step, shift, shift_step),
    ]


def _vector(values: Tensor | None, a: Tensor, held: list[Tensor]) -> tuple[int, int]:
    """Return the address of a scale or shift in the kernel's dtype, and its step per alpha."""
    if values is None:
        return 0, 0
    held.append(values.to(torch.float64 if a.dtype == torch.float64 else torch.float32))
    held[-1] = held[-1].contiguous()
    return held[-1].data_ptr(), values.shape[1] if values.dim() == 2 else 0


def _reach(x: Tensor) -> int:
    """Return how far from its first element the last one lies."""
    return sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))


@lru_cache
def magic(divisor: int) -> int:
    """Return what divides by multiplying: factor + 2³² · shift, such that for 0 ≤ n < 2³¹.

        n // divisor = (n + (n · factor >> 32)) >> shift

    Source: Granlund, Montgomery (1994), Division by invariant integers using multiplication, §4.
    """
    if divisor >= NARROW:
        return 0
    shift = (divisor - 1).bit_length()
    return ((2**shift - divisor) * 2**32 // divisor + 1) + (shift << 32)
