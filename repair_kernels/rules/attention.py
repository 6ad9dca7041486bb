"""Rules of products of tensors: matrix products, einsum, softmax and scaled dot-product attention.

In attention with heads h and d channels each,

    a[h, l, s] = softmax_s(sum_i q[h, l, i] k[h, s, i])
    y[h, l, i] = sum_s a[h, l, s] v[h, s, i]

q and k are products over i, so their channels i move in pairs, for every head on its own; a's head
stands for the set of those pairs, and for the set of v's channels.
"""

import numpy as np
import torch
from torch.fx import Node

from repair_kernels.rules import products
from repair_kernels.rules.joints import Axes
from repair_kernels.rules.segments import take
from repair_kernels.rules.tracker import Tracker, argument, reason, rule, shape

aten = torch.ops.aten
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@rule(aten.softmax, aten.log_softmax, aten._softmax, aten._log_softmax, aten._safe_softmax)
def softmax(node: Node, track: Tracker) -> Axes:
    """Keep what stands along the normalised dimension together, as a set."""
    axes = track.axes(argument(node, 0))
    products.keep_sets(track.channels, axes, [argument(node, 1, "dim") % len(axes)])
    return axes


@rule(aten.matmul, aten.mm, aten.bmm)
def matmul(node: Node, track: Tracker) -> Axes:
    """`z[.., m, n] = sum_k x[.., m, k] y[.., k, n]`; a vector has no m or n."""
    return _matmul(node, track, argument(node, 0), argument(node, 1))


@rule(aten.baddbmm)
def added_matmul(node: Node, track: Tracker) -> Axes:
    """`bias + x y`, the bias broadcast."""
    product = _matmul(node, track, argument(node, 1), argument(node, 2))
    bias = track.aligned(argument(node, 0), len(product))
    return products.combine(track.channels, [product, bias], reason(node, "its bias cannot move"))


def _matmul(node: Node, track: Tracker, x: Node, y: Node) -> Axes:
    batch = max(len(shape(x)), len(shape(y))) - 2
    names = LETTERS[:batch] if batch > 0 else ""
    m, n = ("m" if len(shape(x)) > 1 else ""), ("n" if len(shape(y)) > 1 else "")
    letters = [
        names.upper()[len(names) - max(0, len(shape(v)) - 2) :] + last
        for v, last in ((x, f"{m}k"), (y, f"k{n}"))
    ]
    return _product(node, track, [x, y], letters, f"{names.upper()}{m}{n}")


@rule(aten.einsum)
def einsum(node: Node, track: Tracker) -> Axes:
    """Multiply and sum by the letters of the equation; no letter may stand twice on one operand."""
    equation, values = argument(node, 0).replace(" ", ""), argument(node, 1)
    names, arrow, result = equation.partition("->")
    operands = names.split(",")
    if not arrow:
        result = "".join(sorted(c for c in set(names) - {","} if names.count(c) == 1))
    if "." in equation:
        spare = [c for c in LETTERS if c not in equation]
        dots = [
            len(shape(v)) - len(n.replace("...", "")) for v, n in zip(values, operands, strict=True)
        ]
        filled = "".join(spare[: max(dots)])
        operands = [
            n.replace("...", filled[len(filled) - d :]) for n, d in zip(operands, dots, strict=True)
        ]
        result = result.replace("...", filled) if arrow else filled + result
    if any(len(set(letters)) < len(letters) for letters in operands):
        return track.unknown(node, reason(node, "takes a diagonal"))
    return _product(node, track, values, operands, result)


def _product(node: Node, track: Tracker, values: list[Node], names: list[str], result: str) -> Axes:
    operands = [
        (track.aligned(value, len(letters)), letters)
        for value, letters in zip(values, names, strict=True)
    ]
    why = reason(node, "a factor cannot move along this dimension")
    return products.einsum(track.channels, operands, result, why)


@rule(aten.scaled_dot_product_attention)
def attention(node: Node, track: Tracker) -> Axes:
    """Scores are products of queries and keys, plus a mask; the result mixes values by them."""
    q, k, v = (argument(node, position) for position in range(3))
    mask, shared = argument(node, 3, "attn_mask"), argument(node, 7, "enable_gqa", False)
    rank = len(shape(q))
    if shared or not rank == len(shape(k)) == len(shape(v)):
        return track.unknown(node, reason(node, "heads share keys"))
    batch = LETTERS[: rank - 2].upper()
    scores = _product(node, track, [q, k], [f"{batch}le", f"{batch}se"], f"{batch}ls")
    if isinstance(mask, Node):
        masked = [scores, track.aligned(mask, rank)]
        scores = products.combine(track.channels, masked, reason(node, "its mask cannot move"))
    products.keep_sets(track.channels, scores, [rank - 1])
    operands = [(scores, f"{batch}ls"), (track.aligned(v, rank), f"{batch}sf")]
    why = reason(node, "a factor cannot move along this dimension")
    return products.einsum(track.channels, operands, f"{batch}lf", why)


@rule(aten.glu)
def glu(node: Node, track: Tracker) -> Axes:
    """`x sigmoid(y)` of two halves: their channels move in pairs."""
    x = argument(node, 0)
    dim = argument(node, 1, "dim", -1) % len(shape(x))
    half = shape(node)[dim]
    halves = [take(node, track, x, dim, np.arange(start, start + half)) for start in (0, half)]
    return products.combine(track.channels, halves, reason(node, "a half cannot move"))
