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
from collections.abc import Callable, Sequence
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
UNDIVIDED = 31 << 32  # the `magic` of what is larger than all: it makes quotients 0


@dataclass(frozen=True)
class LerpTable:
    """What one launch reads besides the tensors."""

    words: Tensor
    n_rows: int
    n_alphas: int
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
    rows = [(item, [out[k] for out in outs]) for k, item in enumerate(items) if item.a.numel()]
    header = len(rows) * (1 + FIELDS.value + len(alphas)) + 2 * len(alphas)
    starts: dict[int, int] = {}  # by identity: several tensors may share an index
    packed: list[Tensor] = []
    size = header
    for item, _ in rows:
        for index in (item.index_out, item.index_in):
            if index is not None and index.is_cpu and id(index) not in starts:
                starts[id(index)] = size
                packed.append(index)
                size += index.numel()
    device = items[0].a.device
    words = torch.empty(size, dtype=torch.int64, device=device)
    start, held = words.data_ptr(), []

    def address_of(index: Tensor | None) -> int:
        if index is None:
            return 0
        if index.is_cpu:
            return start + 8 * starts[id(index)]
        held.append(index.contiguous())
        return held[-1].data_ptr()

    first, fields, targets = [], [], []
    n_blocks, bodies, wide = 0, 0, False
    for item, results in rows:
        row = _row(item, results[0], address_of, held)
        body, count = row[0], row[1]
        first.append(n_blocks)
        fields += row
        targets += [result.data_ptr() for result in results]
        lanes = vectors * (16 // item.a.element_size()) if body % 2 else block
        n_blocks += -(-count // lanes)
        bodies |= 1 << body
        wide |= max(count, *map(_reach, item[:2])) + lanes > NARROW
    for alpha in alphas:
        bits = struct.unpack("<q", struct.pack("<d", min(alpha, 1 - alpha)))[0]
        targets += (bits, int(alpha >= 0.5))

    # Pinned: the copy then waits for nothing, and nothing waits for it.
    host = torch.empty(size, dtype=torch.int64, pin_memory=device.type == "cuda")
    parts = [torch.frombuffer(array("q", first + fields + targets), dtype=torch.int64), *packed]
    torch.cat(parts, out=host)
    words.copy_(host, non_blocking=True)
    return LerpTable(words, len(rows), len(alphas), n_blocks, bodies, wide, held)


def empty_like(a: Tensor, segment: int = 1) -> Tensor:
    """Return memory for a result: as `a` lies if that is channels-last, else contiguous."""
    if a.is_contiguous():
        return torch.empty_like(a)
    if segment == 1 and a.dim() > 2 and a.movedim(1, -1).is_contiguous():
        return torch.empty_like(a)
    return torch.empty_like(a, memory_format=torch.contiguous_format)


def _row(
    item: Lerp, out: Tensor, address_of: Callable[[Tensor | None], int], held: list[Tensor]
) -> tuple[int, ...]:
    """Return the fields of one tensor, in their order."""
    a, b, index_out, index_in, _, scale, shift = item
    count, body = a.numel(), 2 * DTYPES.index(a.dtype)
    lies_alike = out.stride() == a.stride() == b.stride()
    at_a, at_b = a.data_ptr(), b.data_ptr()
    unaligned = (at_a | at_b | out.data_ptr()) % VECTOR_BYTES.value
    lanes = VECTOR_BYTES.value // a.element_size()
    gathers_in = index_in is not None and a.dim() > 1
    is_plain = index_out is None and scale is None and shift is None and not gathers_in
    if lies_alike and is_plain:
        body += not (unaligned or count % lanes)
        strides = (count, 0, 1)
        sizes = count, UNDIVIDED, count, UNDIVIDED
        return (body, count, *sizes, at_a, *strides, at_b, *strides, 0, 0, 0, 0, 0, 0, 0)

    c_out, c_in = item.c_out, item.c_in
    row = inner = count // c_out
    index_1 = index_2 = 0
    if lies_alike and not gathers_in:
        body += not (unaligned or row % lanes)
        strides_a = strides_b = (row, 0, 1)
    else:
        is_last = not out.is_contiguous()  # channels-last
        inner = c_in if is_last else row // c_in
        if not (a.is_contiguous() and b.is_contiguous()):
            if is_last:
                a, b = a.movedim(1, -1), b.movedim(1, -1)
            a, b = (x.reshape(c_out, row // inner, inner) for x in (a, b))
            held += (a, b)  # copies, where no strides can tell how a tensor lies
            at_a, at_b = a.data_ptr(), b.data_ptr()
        strides_a, strides_b = (
            (row, inner, 1) if x.is_contiguous() else x.stride() for x in (a, b)
        )
        index_1 = 0 if is_last else address_of(index_in)
        index_2 = address_of(index_in) if is_last else 0
    return (
        *(body, count, row, magic(row), inner, magic(inner)),
        *(at_a, *strides_a, at_b, *strides_b),
        *(address_of(index_out), index_1, index_2),
        *_vector(scale, a, held),
        *_vector(shift, a, held),
    )


def _vector(values: Tensor | None, a: Tensor, held: list[Tensor]) -> tuple[int, int]:
    """Return the address of a scale or shift in the kernel's dtype, and its step per alpha."""
    if values is None:
        return 0, 0
    held.append(values.to(torch.float64 if a.dtype == torch.float64 else torch.float32))
    held[-1] = held[-1].contiguous()
    return held[-1].data_ptr(), values.shape[1] if values.dim() == 2 else 0


def _reach(x: Tensor) -> int:
    """Return how far from its first element the last one lies."""
    if x.is_contiguous():
        return x.numel() - 1
    return sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))


@lru_cache
def magic(divisor: int) -> int:
    """Return what divides by multiplying: factor + 2³² · shift, such that for 0 ≤ n < 2³¹.

        n // divisor = (n + (n · factor >> 32)) >> shift

    Source: Granlund, Montgomery (1994), Division by invariant integers using multiplication, §4.
    """
    if divisor >= NARROW:
        return UNDIVIDED
    shift = (divisor - 1).bit_length()
    return ((2**shift - divisor) * 2**32 // divisor + 1) + (shift << 32)
