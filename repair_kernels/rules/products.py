"""Pointwise functions of several values, sums over dimensions, and products made of both.

    z[b, m, n] = sum_k x[b, m, k] y[b, k, n]

is a pointwise product over (b, m, n, k), in which x does not depend on n nor y on m, and a sum over
k. What each of the two demands of joint axes is therefore all that attention needs.
"""

from collections.abc import Collection, Sequence
from math import prod

from repair_kernels.axes import ChannelAxes
from repair_kernels.rules.joints import (
    ALIKE,
    Alike,
    Axes,
    Dims,
    Factor,
    Joint,
    copied,
    decouple,
    entries,
    factors_of,
    joints_in,
    pin_factors,
    plain,
    regroup,
)

LARGEST_PRODUCT = 2**17
"""Vertices that the product of two joints may have: 12 heads of 96 x 96 channels and some more."""

Slot = tuple[int, int]
"""A factor of the result: which dimension, and which factor of it."""


def einsum(
    channels: ChannelAxes, operands: Sequence[tuple[Axes, str]], result: str, reason: str
) -> Axes:
    """Return the axes of a sum of products; each operand's dimensions have a letter each."""
    letters = "".join(dict.fromkeys(result + "".join(names for _, names in operands)))
    aligned = [
        [axes[names.index(letter)] if letter in names else ALIKE for letter in letters]
        for axes, names in operands
    ]
    product = combine(channels, aligned, reason)
    summed = reduce(channels, product, range(len(result), len(letters)))
    return summed[: len(result)]


def reduce(channels: ChannelAxes, axes: Axes, dims: Collection[int]) -> Axes:
    """Return the axes after a sum (or a mean, a maximum, a norm) over dimensions, which are kept.

    A sum over all of an axis does not depend on its order. A sum over a part of a joint demands
    that what is summed stays together: the sum's channel stands for that set.
    """
    value = [factors_of(entry, None) for entry in axes]
    gone = {factor for dim in dims for factor in value[dim]}
    new: dict[Factor, Factor] = {}
    for joint in joints_in(gone):
        kept = [factor for factor in joint.factors if factor not in gone]
        if kept:
            new.update(zip(kept, Joint(joint.handles(channels, kept)).factors, strict=True))
    value = [[new.get(f, f) for f in dim if f not in gone] for dim in value]
    return entries(channels, value)


def keep_sets(channels: ChannelAxes, axes: Axes, dims: Collection[int]) -> None:
    """State that the operator sees the positions along these dimensions as a set (softmax)."""
    reduce(channels, axes, dims)


def combine(channels: ChannelAxes, operands: Sequence[Axes], reason: str) -> Axes:
    """Return the axes of a pointwise function of several values.

    Dimensions along which a value is broadcast are `ALIKE`. Where one value has a joint over some
    dimensions and another one over fewer of them, a vertex of the latter stands for a slice of the
    former; where none covers the others, the result has vertices of its own, or, when they would be
    too many, joints are decoupled.
    """
    values = _cut_alike(channels, operands, reason)
    slots = [(d, k) for d, dim in enumerate(values[0]) for k in range(len(dim))]
    at = [{(d, k): value[d][k] for d, k in slots} for value in values]
    result: dict[Slot, Factor] = {}
    for group in _connected(slots, at):
        widest = max((_width(value[slot]) for value in at for slot in group), default=0)
        values_here, parts = at, [group]
        if 0 < widest < len(group):
            spanning = _spanning(channels, group, at)
            if spanning:
                values_here = [spanning, *at]
            else:
                values_here = [{slot: plain(channels, v[slot]) for slot in group} for v in at]
                parts = [[slot] for slot in group]
        for part in parts:
            result.update(_link(channels, part, values_here, reason))
    joined = [[result[d, k] for k in range(len(dim))] for d, dim in enumerate(values[0])]
    return entries(channels, joined)


def _cut_alike(channels: ChannelAxes, operands: Sequence[Axes], reason: str) -> list[Dims]:
    """Return the operands' factors, with each dimension cut into the same ones in all of them."""
    values = [copied([factors_of(entry, None) for entry in axes]) for axes in operands]
    for d in range(len(operands[0])):
        cut = [entry for axes in operands if isinstance(entry := axes[d], tuple)]
        if not cut:
            continue
        sizes = [factor.size for factor in max(cut, key=len)]
        for axes, value in zip(operands, values, strict=True):
            entry = axes[d]
            if entry is None or isinstance(entry, Alike):
                value[d] = [Factor(size, entry) for size in sizes]
                continue
            dims = regroup(value[d], sizes)
            if dims is None or any(len(dim) != 1 for dim in dims):
                made_plain = [_make_plain(channels, axes, d, reason) for axes in operands]
                return _cut_alike(channels, made_plain, reason)
            value[d] = [dim[0] for dim in dims]
    return values


def _make_plain(channels: ChannelAxes, axes: Axes, dim: int, reason: str) -> Axes:
    axes = decouple(channels, axes, dim)
    entry = axes[dim]
    if isinstance(entry, tuple):
        pin_factors(channels, entry, reason)
        return [*axes[:dim], None, *axes[dim + 1 :]]
    return axes


def _spanning(
    channels: ChannelAxes, group: list[Slot], at: list[dict[Slot, Factor]]
) -> dict[Slot, Factor] | None:
    """Return a joint of new vertices over all of these slots, if it is not too large."""
    sizes = [next(v[slot].size for v in at if _width(v[slot])) for slot in group]
    if prod(sizes) > LARGEST_PRODUCT:
        return None
    joint = Joint(channels.fresh(prod(sizes)).reshape(sizes))
    return dict(zip(group, joint.factors, strict=True))


def _link(
    channels: ChannelAxes, group: list[Slot], at: list[dict[Slot, Factor]], reason: str
) -> dict[Slot, Factor]:
    """Tie what values say of slots that the widest joint covers; return the result's factors."""
    carrier = max(at, key=lambda value: _width(value[group[0]]))
    widest = carrier[group[0]].of
    if not isinstance(widest, Joint):
        held = [value[group[0]] for value in at if value[group[0]].of is not ALIKE]
        return {group[0]: (held or [at[0][group[0]]])[0]}
    for value in at:
        here = {value[slot]: carrier[slot] for slot in group}
        for joint in joints_in(here):
            if joint is not widest:
                rows = widest.slices(here[factor] for factor in joint.factors)
                if rows.shape[1] == 1 and len(group) == 1:
                    channels.tie(widest.vertices, joint.vertices)
                else:
                    channels.gather(rows, joint.vertices.reshape(-1))
        fixed = [carrier[slot] for slot in group if value[slot].of is None]
        if len(fixed) == len(group):
            channels.pin(widest.vertices, reason)
            return {slot: Factor(carrier[slot].size, None) for slot in group}
        pin_factors(channels, fixed, reason)
    return {slot: carrier[slot] for slot in group}


def _width(factor: Factor) -> int:
    return len(factor.of.factors) if isinstance(factor.of, Joint) else 0


def _connected(slots: list[Slot], at: list[dict[Slot, Factor]]) -> list[list[Slot]]:
    """Group slots that some value's joint connects."""
    group = {slot: [slot] for slot in slots}
    for value in at:
        first: dict[Joint, Slot] = {}
        for slot in slots:
            joint = value[slot].of
            if isinstance(joint, Joint):
                one, other = group[first.setdefault(joint, slot)], group[slot]
                if one is not other:
                    one += other
                    group.update(dict.fromkeys(other, one))
    return list({id(members): sorted(members) for members in group.values()}.values())
