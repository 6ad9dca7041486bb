"""Joint axes: one array of vertices over several dimensions of a value.

A view `(.., H*d) -> (.., H, d)` leaves every channel what it is; only its place has two coordinates
now. So the vertices get two dimensions too, and follow any further permute and reshape as an array
of indices would, through channel shuffles, pixel shuffles and windows, until a view merges them.

An entry of a value's axes, one per dimension, is one of

- `None`: the positions along this dimension stay;
- an array of vertices: a plain axis;
- `ALIKE`: one position many times (size 1, `expand`), which any exchange leaves alone;
- a tuple of `Factor`s, outermost first: the dimension is a product, of which some factors belong to
  a `Joint`.

A joint's `handles` stand for its slices along some of its factors; asking for them demands that
these slices move as wholes. Asking that of every factor makes all axes plain: `decouple`. A rule
that knows plain axes only gets them so, and is right, though less may move.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from repair_kernels.axes import Axis, ChannelAxes


class Alike:
    """The type of `ALIKE`."""

    def __repr__(self) -> str:
        return "ALIKE"


ALIKE = Alike()


class Factor:
    """One factor of a dimension: its size, and what its positions are.

    `of` is the `Joint` that it is a dimension of, `ALIKE`, or None for positions that stay.
    """

    def __init__(self, size: Any, of: "Joint | Alike | None") -> None:
        self.size = size
        self.of = of


class Joint:
    """Vertices of shape (n_1, .., n_k), and the factor that each of their dimensions is."""

    def __init__(self, vertices: np.ndarray, factors: Sequence[Factor] = ()) -> None:
        self.vertices = vertices
        self.factors = list(factors) or [Factor(size, self) for size in vertices.shape]
        for factor in self.factors:
            factor.of = self
        self.known_handles: dict[tuple[int, ...], Axis] = {}

    def slices(self, factors: Iterable[Factor]) -> np.ndarray:
        """Return the vertices as (positions along `factors`, all others)."""
        along = [self.factors.index(factor) for factor in factors]
        moved = np.moveaxis(self.vertices, along, range(len(along)))
        return moved.reshape(int(np.prod([self.vertices.shape[k] for k in along])), -1)

    def handles(self, channels: ChannelAxes, factors: Iterable[Factor]) -> Axis:
        """Return vertices that stand for the slices along `factors`, of the shape of those."""
        along = tuple(self.factors.index(factor) for factor in factors)
        if sorted(along) == list(range(len(self.factors))):
            return self.vertices.transpose(along) if along != (0,) else self.vertices
        if along not in self.known_handles:
            rows = self.slices(self.factors[k] for k in along)
            shape = [self.vertices.shape[k] for k in along]
            self.known_handles[along] = channels.gather(rows).reshape(shape)
        return self.known_handles[along]


Entry = Axis | tuple[Factor, ...] | Alike | None
Axes = list[Entry]
Dims = list[list[Factor]]


def factors_of(entry: Entry, size: Any) -> list[Factor]:
    """Return an entry as factors; a plain axis is a joint of one dimension."""
    if isinstance(entry, tuple):
        return list(entry)
    if isinstance(entry, np.ndarray):
        return Joint(entry).factors
    return [Factor(size, entry)]


def copied(dims: Dims) -> Dims:
    """Return the same factors anew, so that they may be split."""
    twin: dict[Factor, Factor] = {}
    joints: dict[Joint, Joint] = {}
    for factor in (factor for dim in dims for factor in dim):
        joint = factor.of
        if isinstance(joint, Joint) and joint not in joints:
            joints[joint] = Joint(joint.vertices)
            joints[joint].known_handles = dict(joint.known_handles)
            twin.update(zip(joint.factors, joints[joint].factors, strict=True))
        elif not isinstance(joint, Joint):
            twin[factor] = Factor(factor.size, joint)
    return [[twin[factor] for factor in dim] for dim in dims]


def joints_in(factors: Iterable[Factor]) -> list[Joint]:
    """Return the joints that some of these factors belong to, each once."""
    return list(dict.fromkeys(f.of for f in factors if isinstance(f.of, Joint)))


def entries(channels: ChannelAxes, dims: Dims) -> Axes:
    """Return factors as entries: plain where a dimension holds whole joints, and at most one.

    A joint whose other factors are not in the value any more is reduced to those that are, by the
    vertices that stand for its slices.
    """
    dims = whole(channels, dims)
    return [_entry(channels, [f for f in dim if not _is_one(f.size)]) for dim in dims]


def whole(channels: ChannelAxes, dims: Dims) -> Dims:
    """Replace joints of which a factor is missing by the plain axes of the others."""
    present = {factor for dim in dims for factor in dim}
    broken = {j for j in joints_in(present) if any(f not in present for f in j.factors)}
    return _plain(channels, dims, broken)


def _plain(channels: ChannelAxes, dims: Dims, joints: Iterable[Joint]) -> Dims:
    """Replace each factor of these joints by a plain axis."""
    taken = {factor for joint in joints for factor in joint.factors}
    return [[plain(channels, f) if f in taken else f for f in dim] for dim in dims]


def plain(channels: ChannelAxes, factor: Factor) -> Factor:
    """Return the factor as an axis of its own, whose positions move as slices of its joint."""
    if not isinstance(factor.of, Joint):
        return factor
    return Joint(factor.of.handles(channels, [factor])).factors[0]


def _entry(channels: ChannelAxes, factors: list[Factor]) -> Entry:
    joints = joints_in(factors)
    if not joints:
        alike = bool(factors) and all(f.of is ALIKE for f in factors)
        return ALIKE if alike else None
    if len(joints) == 1 and all(f in factors for f in joints[0].factors):
        if len(factors) == len(joints[0].factors):
            vertices = joints[0].handles(channels, factors)
            return vertices if len(factors) == 1 else vertices.reshape(-1)
        if all(isinstance(f.size, int) for f in factors):
            return flatten(channels, factors)
    return tuple(factors)


def flatten(channels: ChannelAxes, factors: Sequence[Factor]) -> Axis:
    """Return one axis over all of these factors, of which the axis remembers that it is made.

    A position moves with the slice of each joint that it belongs to. All joints must be whole.
    """
    sizes = [f.size for f in factors]
    flat = channels.fresh(int(np.prod(sizes)))
    joints = joints_in(factors)
    for joint in joints:
        along = [factors.index(f) for f in joint.factors if f in factors]
        rows = np.moveaxis(flat.reshape(sizes), along, range(len(along)))
        rows = rows.reshape(joint.vertices.size, -1)
        handles = joint.vertices.reshape(-1)
        if len(joints) == 1:
            channels.bind(np.concatenate([handles[:, None], rows], axis=1))
        else:
            channels.gather(rows, handles)
    channels.origins[id(flat)] = (flat, tuple(factors))
    return flat


def decouple(channels: ChannelAxes, axes: Axes, dim: int) -> Axes:
    """Return axes in which this dimension is plain, or a tuple if one of its factors is symbolic.

    Every dimension of its joints becomes an axis of its own: positions along it move as slices.
    """
    entry = axes[dim]
    if not isinstance(entry, tuple):
        return axes
    dims = [factors_of(e, None) for e in axes]
    dims = _plain(channels, dims, joints_in(entry))
    found: Axes = [
        _entry(channels, factors) if isinstance(e, tuple) else e
        for e, factors in zip(axes, dims, strict=True)
    ]
    rest = found[dim]
    if isinstance(rest, tuple) and all(isinstance(f.size, int) for f in rest):
        found[dim] = flatten(channels, rest)
    return found


def pin_factors(channels: ChannelAxes, factors: Iterable[Factor], reason: str) -> None:
    """State that positions along these factors stay where they are: slices are kept as sets."""
    for factor in factors:
        if isinstance(factor.of, Joint):
            if len(factor.of.factors) == 1:
                channels.pin(factor.of.vertices, reason)
            else:
                for row in factor.of.slices([factor]):
                    channels.occur(row, reason)


def regroup(factors: Sequence[Factor], sizes: Sequence[Any]) -> Dims | None:
    """Cut a row of factors into dimensions of these sizes, in row-major order.

    Factors are split where needed, in place, so they must be `copied`. Returns None where sizes do
    not divide each other.
    """
    left = list(factors)[::-1]
    result: Dims = []
    for size in sizes:
        dim: list[Factor] = []
        while not _is_one(size):
            if not left:
                return None
            factor = left.pop()
            rest = quotient(size, factor.size)
            if rest is None:
                inner = quotient(factor.size, size)
                if inner is None:
                    return None
                factor, second = _split(factor, size, inner)
                left.append(second)
                rest = 1
            dim.append(factor)
            size = rest
        result.append(dim)
    if any(not _is_one(f.size) for f in left):
        return None
    return result


def _split(factor: Factor, outer: Any, inner: Any) -> tuple[Factor, Factor]:
    pair = Factor(outer, factor.of), Factor(inner, factor.of)
    joint = factor.of
    if isinstance(joint, Joint):
        at = joint.factors.index(factor)
        before, after = joint.vertices.shape[:at], joint.vertices.shape[at + 1 :]
        joint.vertices = joint.vertices.reshape(*before, outer, inner, *after)
        joint.factors[at : at + 1] = pair
        joint.known_handles.clear()
    return pair


def quotient(size: Any, by: Any) -> Any:
    """Return size / by where that is whole for every batch size, else None."""
    if isinstance(size, int) and isinstance(by, int):
        return size // by if by and size % by == 0 and size else None
    ratio = size / by  # of sympy's expressions
    return int(ratio) if ratio.is_Integer else ratio if ratio.is_integer else None


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1
