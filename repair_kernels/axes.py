"""Channel identities: which positions of which axes are the same channel, or move as one block.

Every axis that can be permuted is an array of *vertices* (integers), one per position. Operator
rules (`rules/`) speak about vertices with four verbs:

- sharing: an operator that keeps its channel axis hands the same array on;
- `tie(x, y)`: position i of one axis and position i of the other are the same channel (a residual
  sum, a weight's input axis);
- `bind(rows)`: the vertices of a row move as one block, each keeping its place in the row (flatten,
  groups of a convolution);
- `pin(x, reason)`: these channels stay where they are.

`orbits()` then finds what may be exchanged. Tied vertices are contracted to classes and bound
classes to blocks. Two blocks
are interchangeable when exchanging them maps every axis and every binding onto itself: when their
  classes occur on the same
axes and play the same parts in the same bindings. That is decided by colour refinement: a class
starts with the set of axes that it occurs on; its colour is refined by the colours of the classes
it is bound to until nothing splits any more. Within a block all colours must differ, and then equal
colours give the exact position map between two blocks. A block for which that fails is pinned, so
what is returned is always a symmetry, though perhaps not every symmetry.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Axis = np.ndarray
"""Vertices of one axis, int64, shape (size,)."""


@dataclass(frozen=True)
class Orbits:
    """The result of `ChannelAxes.orbits`, per vertex.

    `orbit[v]` is -1 for a vertex that cannot move, else the number of its orbit; `block[v]` is the
    index of v's block within the orbit, 0 .. size-1; `role[v]` orders the vertices of one block,
    alike in every block of the orbit.
    """

    orbit: np.ndarray
    block: np.ndarray
    role: np.ndarray
    sizes: list[int]
    reasons: dict[int, str]
    """Why a vertex cannot move, for vertices with orbit -1."""

    def on(self, axis: Axis) -> dict[int, np.ndarray]:
        """Return per orbit the positions of its blocks on `axis`, int64 of (size, occurrences)."""
        found = {}
        orbit = self.orbit[axis]
        for number in np.unique(orbit[orbit >= 0]):
            at = np.flatnonzero(orbit == number)
            order = np.lexsort((self.role[axis[at]], self.block[axis[at]]))
            found[int(number)] = at[order].reshape(self.sizes[number], -1)
        return found


@dataclass
class ChannelAxes:
    """Vertices, and what the operators of one network say of them."""

    count: int = 0
    axes: list[Axis] = field(default_factory=list)
    ties: list[tuple[Axis, Axis]] = field(default_factory=list)
    bindings: list[np.ndarray] = field(default_factory=list)
    pinned: dict[int, str] = field(default_factory=dict)

    def fresh(self, size: int) -> Axis:
        """Return a new axis of `size` channels that nothing is known of yet."""
        axis = np.arange(self.count, self.count + size)
        self.count += size
        return self.occur(axis)

    def occur(self, axis: Axis) -> Axis:
        """Record that these channels stand together on an axis: an exchange must keep the set."""
        self.axes.append(axis)
        return axis

    def tie(self, x: Axis, y: Axis) -> None:
        """State that `x[i]` and `y[i]` are the same channel."""
        if x is not y:
            self.ties.append((x, y))

    def bind(self, rows: np.ndarray) -> None:
        """State that the vertices of each row of `rows` (blocks, members) move as one, in order."""
        if rows.shape[1] > 1:
            self.bindings.append(rows)

    def copy(self, axis: Axis) -> Axis:
        """Return a new axis whose channels move with those of `axis` but are not the same."""
        copied = self.fresh(len(axis))
        self.bind(np.stack([axis, copied], axis=1))
        return copied

    def pin(self, axis: Axis, reason: str) -> None:
        """State that these channels stay where they are."""
        for vertex in axis.tolist():
            self.pinned.setdefault(vertex, reason)

    def orbits(self) -> Orbits:
        """Return the sets of interchangeable blocks (see the module's docstring)."""
        classes = _components(self.count, self.ties)
        n_classes = int(classes.max(initial=-1)) + 1
        bindings = [classes[rows] for rows in self.bindings]
        pinned = np.zeros(n_classes, dtype=bool)
        reason_of_class: dict[int, str] = {}

        def pin(which: np.ndarray, reason: str) -> None:
            pinned[which] = True
            for number in which.tolist():
                reason_of_class.setdefault(number, reason)

        for vertex, reason in self.pinned.items():
            pin(classes[[vertex]], reason)
        seen: dict[bytes, np.ndarray] = {}
        for axis in self.axes:
            members = classes[axis]
            ordered = np.sort(members)
            repeated = ordered[1:][ordered[1:] == ordered[:-1]]
            if repeated.size:
                pin(repeated, "one channel stands twice on one axis")
            seen.setdefault(ordered.tobytes(), members)

        colours = _refine(_membership_colours(n_classes, list(seen.values())), bindings)
        pairs = [
            (rows[:, :1].repeat(rows.shape[1] - 1, axis=1).ravel(), rows[:, 1:].ravel())
            for rows in bindings
        ]
        blocks = _components(n_classes, pairs)
        orbit_of_class, block_of_class, sizes = _group_blocks(blocks, colours, pinned, pin)
        for rows in bindings:
            for row in rows[(orbit_of_class[rows] < 0).any(axis=1)]:
                named = next(
                    (reason_of_class[k] for k in row.tolist() if k in reason_of_class), None
                )
                if named:
                    pin(row, named)
        reasons = {
            vertex: reason_of_class.get(k, "no other channel is like it")
            for vertex, k in enumerate(classes.tolist())
            if orbit_of_class[k] < 0
        }
        return Orbits(
            orbit_of_class[classes], block_of_class[classes], colours[classes], sizes, reasons
        )


def _components(count: int, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the connected component of each of `count` vertices, numbered by first occurrence."""
    if not pairs:
        return np.arange(count)
    rows = np.concatenate([x for x, _ in pairs])
    columns = np.concatenate([y for _, y in pairs])
    adjacency = coo_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(count, count))
    labels = connected_components(adjacency.tocsr(), directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _mix(x: np.ndarray) -> np.ndarray:
    """Return splitmix64's finaliser of `x` (uint64), whose sums do not collide."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _salts(count: int, stream: int) -> np.ndarray:
    """Return `count` fixed, unrelated 64-bit numbers."""
    start = np.uint64(stream * 0xD1342543DE82EF95 % 2**64)
    return _mix(start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _membership_colours(count: int, axes: list[np.ndarray]) -> np.ndarray:
    """Return per class a hash of the set of axes that it occurs on."""
    colours = np.zeros(count, dtype=np.uint64)
    for salt, members in zip(_salts(len(axes), stream=1), axes, strict=True):
        colours[np.unique(members)] += salt
    return _mix(colours)


def _refine(colours: np.ndarray, bindings: list[np.ndarray]) -> np.ndarray:
    """Refine colours by the parts that classes play in bindings until no colour splits any more."""
    distinct = len(np.unique(colours))
    while True:
        refined = colours.copy()
        for number, rows in enumerate(bindings):
            parts = _salts(rows.shape[1], stream=number + 2)
            hub = _mix((_mix(colours[rows] + parts)).sum(axis=1, dtype=np.uint64))
            np.add.at(refined, rows, _mix(hub[:, None] ^ parts))
        refined = _mix(refined)
        now_distinct = len(np.unique(refined))
        if now_distinct == distinct:
            return refined
        colours, distinct = refined, now_distinct


def _group_blocks(blocks, colours, pinned, pin):
    """Group blocks with equal colours into orbits; pin blocks in which two classes have one colour.

    Returns the orbit of each class (-1: none), the block's index within its orbit, and the orbits'
    sizes.
    """
    order = np.lexsort((colours, blocks))
    starts = np.flatnonzero(np.r_[True, np.diff(blocks[order]) > 0])
    by_signature: dict[bytes, list[np.ndarray]] = {}
    for members in np.split(order, starts[1:]) if len(order) else []:
        held = colours[members]
        if len(members) > 1 and (held[1:] == held[:-1]).any():
            pin(members, "two channels of one block play the same part")
        elif pinned[members].any():
            continue
        else:
            by_signature.setdefault(held.tobytes(), []).append(members)
    orbit = np.full(len(blocks), -1)
    index = np.zeros(len(blocks), dtype=np.int64)
    sizes = []
    for found in by_signature.values():
        if len(found) > 1:
            stacked = np.stack(found)
            orbit[stacked] = len(sizes)
            index[stacked] = np.arange(len(found))[:, None]
            sizes.append(len(found))
    return orbit, index, sizes
