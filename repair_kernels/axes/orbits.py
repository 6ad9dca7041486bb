"""What may be exchanged: orbits of interchangeable channels and, above them, of sets of channels.

Tied vertices are contracted to classes (see `_contract`), and bound classes to blocks. Two blocks
of one *level* are exchangeable when a map of one onto the other keeps every axis, every binding and
every gathered set. Which map is tried, colour refinement says: a class starts with the set of axes
that it occurs on, and its colour is refined by the parts that it plays. Whether it is a symmetry is
then checked: the two blocks must have equal *signatures*, which hold the colours in canonical order
and the relations between canonical places. So what is returned is always a symmetry, though perhaps
not every symmetry.

- On the lowest level every gathered set stays where it is; channels change places within it.
- On a level above, the sets of some gatherings are *released*: a block is what they hold together,
  such as an attention head with its queries, keys and values. Within a block, classes of one colour
  take the order that lower levels give them; which order does not matter, since any other differs
  by a symmetry of the lower level.

The symmetries of all levels compose to a group: a product of wreath products where gatherings nest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from repair_kernels.axes.refinement import (
    Relation,
    components,
    membership_colours,
    mix,
    refine,
    row_hashes,
    salts,
)


@dataclass
class Statements:
    """What the operators of a network say of its vertices; rows hold vertices."""

    count: int = 0
    axes: list[np.ndarray] = field(default_factory=list)
    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    bindings: list[np.ndarray] = field(default_factory=list)
    gatherings: list[np.ndarray] = field(default_factory=list)
    """Sets, one a row, the last of a row being the handle."""
    pinned: dict[int, str] = field(default_factory=dict)
    hints: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Level:
    """Disjoint orbits, by what they are for every vertex."""

    orbit: np.ndarray
    """Its orbit, -1 for none."""
    block: np.ndarray
    """The index of its block within the orbit, 0 .. size-1."""
    role: np.ndarray
    """A number that orders the vertices of one block alike in every block of the orbit."""

    def __getitem__(self, which: np.ndarray) -> "Level":
        return Level(self.orbit[which], self.block[which], self.role[which])


@dataclass(frozen=True)
class Orbits:
    """The result of `find_orbits`."""

    levels: list[Level]
    """From the lowest: an orbit's blocks hold whole orbits of the levels below, or cross them."""
    sizes: list[int]
    """The number of blocks of each orbit."""
    inside: dict[int, tuple[int, int, int]]
    """For an orbit that lies in one block of another: that orbit, the block's index, and a number
    that orders the orbits within a block alike in every block."""
    reasons: dict[int, str]
    """Why a vertex cannot move, for those that do not on any level."""

    def on(self, axis: np.ndarray) -> dict[int, np.ndarray]:
        """Return per orbit the positions of its blocks on `axis`, int64 of (size, occurrences)."""
        found = {}
        for level in self.levels:
            here = level[axis]
            for number in np.unique(here.orbit[here.orbit >= 0]).tolist():
                at = np.flatnonzero(here.orbit == number)
                order = np.lexsort((here.role[at], here.block[at]))
                found[number] = at[order].reshape(self.sizes[number], -1)
        return found


def find_orbits(said: Statements) -> Orbits:
    """Return the orbits of all levels (see the module's docstring)."""
    classes, bindings = _contract(said)
    count = int(classes.max(initial=-1)) + 1
    gatherings = [Relation.of_sets(classes[rows]) for rows in said.gatherings]
    reason_of: dict[int, str] = {}
    for vertex, reason in said.pinned.items():
        reason_of.setdefault(int(classes[vertex]), reason)
    seen: dict[bytes, np.ndarray] = {}
    for axis in said.axes:
        ordered = np.sort(classes[axis])
        for k in ordered[1:][ordered[1:] == ordered[:-1]].tolist():
            reason_of.setdefault(k, "one channel stands twice on one axis")
        seen.setdefault(ordered.tobytes(), ordered)
    pinned = np.zeros(count, dtype=bool)
    pinned[list(reason_of)] = True
    membership = membership_colours(count, list(seen.values()))

    fixed = _with_fixed_sets(membership, gatherings)
    problem = Blocks(fixed, np.zeros(count, dtype=np.int64), pinned, bindings)
    levels, sizes = [Level(*problem.orbits(0))], problem.sizes
    for k in np.flatnonzero(problem.ambiguous).tolist():
        reason_of.setdefault(k, "two channels of one block play the same part")
    for cluster in _clusters(count, bindings, gatherings):
        sizes = sizes + _nest(cluster, levels, membership, pinned, len(sizes))

    free = np.any([level.orbit >= 0 for level in levels], axis=0)
    _spread([*bindings, *gatherings], free, reason_of)
    reasons = {
        vertex: reason_of.get(k) or said.hints.get(vertex, "no other channel is like it")
        for vertex, k in enumerate(classes.tolist())
        if not free[k]
    }
    inside = _nested(levels)
    return Orbits([level[classes] for level in levels], sizes, inside, reasons)


def _contract(said: Statements) -> tuple[np.ndarray, list[Relation]]:
    """Return the class of each vertex, and the bindings between classes.

    Tied vertices are one class, unless that class would stand twice on an axis: then its vertices
    stay apart and are bound, which says the same.
    """
    classes = components(said.count, said.ties)
    twice = np.zeros(said.count, dtype=bool)
    for axis in [*said.axes, *(row[:-1] for rows in said.gatherings for row in rows)]:
        ordered = np.sort(classes[axis])
        twice[ordered[1:][ordered[1:] == ordered[:-1]]] = True
    loosened = [np.empty((0, 2), dtype=np.int64)]
    if twice.any():
        ties = []
        for x, y in said.ties:
            loose = twice[classes[x]]
            ties.append((x[~loose], y[~loose]))
            loosened.append(np.stack([x[loose], y[loose]], axis=1))
        classes = components(said.count, ties)
    rows = [*said.bindings, *(pairs for pairs in loosened if len(pairs))]
    return classes, [Relation.ordered(classes[r]) for r in rows]


class Blocks:
    """One level: blocks are what `relations` connect, exchangeable where signatures agree.

    Args:
        colours: per class, what it stands on
        ranks: per class an order within its block, to tell classes of one colour apart
        pinned: per class whether it must stay
        among: the classes of the blocks to be exchanged; default: all
    """

    def __init__(self, colours, ranks, pinned, relations: Sequence[Relation], among=None):
        count = len(colours)
        self.colours = refine(colours, relations)
        units = components(count, [relation.pairs() for relation in relations])
        order = np.lexsort((ranks, self.colours, units))
        if among is not None:
            order = order[among[order]]
        self.place = np.zeros(count, dtype=np.int64)
        self.ambiguous = np.zeros(count, dtype=bool)
        self.found: list[np.ndarray] = []
        if not len(order):
            return
        first = np.r_[True, np.diff(units[order]) > 0]
        starts = np.flatnonzero(first)
        lengths = np.diff(np.r_[starts, len(order)])
        self.place[order] = np.arange(len(order)) - np.repeat(starts, lengths)
        twin = ~first
        for key in (self.colours, ranks):
            twin[1:] &= np.diff(key[order].view(np.int64)) == 0
        ambiguous = np.logical_or.reduceat(twin, starts)
        self.ambiguous[order] = np.repeat(ambiguous, lengths)
        movable = ~(ambiguous | np.logical_or.reduceat(pinned[order], starts))
        alike: dict[tuple[int, int], list[int]] = {}
        for block, signature in enumerate(self._signatures(order, starts, units, relations)):
            if movable[block]:
                alike.setdefault((lengths[block], signature), []).append(starts[block])
        for (length, _), at in alike.items():
            if len(at) > 1:
                self.found.append(order[np.array(at)[:, None] + np.arange(length)])

    def _signatures(self, order, starts, units, relations: Sequence[Relation]) -> list[int]:
        """Return per block a hash of its colours, and of how relations connect its places."""
        places = mix(self.place.astype(np.uint64))
        structure = np.zeros(len(places), dtype=np.uint64)
        for relation, hashed in zip(relations, row_hashes(places, relations), strict=True):
            np.add.at(structure, units[relation.rows[:, 0]], hashed)
        colours = np.add.reduceat(mix(self.colours[order] + places[order]), starts)
        return mix(colours + mix(structure[units[order[starts]]])).tolist()

    @property
    def sizes(self) -> list[int]:
        """The number of blocks of each orbit."""
        return [len(blocks) for blocks in self.found]

    def orbits(self, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return per class its orbit, numbered from `first`, its block and its role."""
        orbit = np.full(len(self.place), -1)
        index = np.zeros(len(self.place), dtype=np.int64)
        for number, blocks in enumerate(self.found, start=first):
            orbit[blocks] = number
            index[blocks] = np.arange(len(blocks))[:, None]
        return orbit, index, self.place


@dataclass(frozen=True)
class Cluster:
    """Classes that gatherings and bindings connect; relations count within `classes`."""

    classes: np.ndarray
    bindings: list[Relation]
    gatherings: list[Relation]


def _clusters(
    count: int, bindings: list[Relation], gatherings: list[Relation]
) -> Iterator[Cluster]:
    """Yield the parts of the structure that have gatherings, each apart from the others."""
    if not gatherings:
        return
    handles = [(r.rows[:-1, -1], r.rows[1:, -1]) for r in gatherings]
    label = components(count, [*handles, *(r.pairs() for r in [*bindings, *gatherings])])
    held: dict[int, tuple[list[Relation], list[Relation]]] = {}
    for relation in gatherings:
        held.setdefault(int(label[relation.rows[0, 0]]), ([], []))[1].append(relation)
    for relation in bindings:
        labels = label[relation.rows[:, 0]]
        for number in np.unique(labels).tolist():
            if number in held:
                rows = relation.rows[labels == number]
                held[number][0].append(Relation(rows, relation.parts))
    order = np.argsort(label, kind="stable")
    local = np.empty(count, dtype=np.int64)
    for number, both in held.items():
        span = np.searchsorted(label[order], [number, number + 1])
        classes = order[span[0] : span[1]]
        local[classes] = np.arange(len(classes))
        inner = [[Relation(local[r.rows], r.parts) for r in relations] for relations in both]
        yield Cluster(classes, *inner)


def _nest(cluster: Cluster, levels: list[Level], membership, pinned, first: int) -> list[int]:
    """Find the orbits of a cluster's sets, write them into `levels` and return their sizes."""
    sizes: list[int] = []
    here = levels[0][cluster.classes]
    ranks = np.where(here.orbit >= 0, here.block, 0)
    for depth, released in enumerate(_releases(cluster), start=1):
        free = [r for n, r in enumerate(cluster.gatherings) if n in released]
        fixed = [r for n, r in enumerate(cluster.gatherings) if n not in released]
        relations = [*cluster.bindings, *free]
        units = components(len(cluster.classes), [r.pairs() for r in relations])
        among = np.isin(units, np.concatenate([units[r.rows[:, -1]] for r in free]))
        colours = _with_fixed_sets(membership[cluster.classes], fixed)
        problem = Blocks(colours, ranks, pinned[cluster.classes], relations, among)
        orbit, block, role = problem.orbits(first + len(sizes))
        if depth == len(levels):
            none = np.full(len(membership), -1)
            levels.append(Level(none, np.zeros_like(none), np.zeros_like(none)))
        for whole, part in zip(
            (levels[depth].orbit, levels[depth].block, levels[depth].role),
            (orbit, block, role),
            strict=True,
        ):
            whole[cluster.classes] = part
        sizes += problem.sizes
        ranks = np.where(orbit >= 0, block, 0) * (ranks.max(initial=0) + 1) + ranks
    return sizes


def _releases(cluster: Cluster) -> list[frozenset[int]]:
    """Return the gatherings whose sets are released together, from the lowest level to the highest.

    With a gathering go those whose sets each touch one block at most: they are inside a block, or
    hang on it. What crosses several blocks stays fixed, but for the last try, which releases all.
    """
    known = {frozenset(range(len(cluster.gatherings)))}
    bound = components(len(cluster.classes), [r.pairs() for r in cluster.bindings])
    gatherings = [Relation(bound[r.rows], r.parts) for r in cluster.gatherings]
    count = int(bound.max(initial=-1)) + 1
    for seed in range(len(gatherings)):
        released: set[int] = set()
        units, held = np.arange(count), np.zeros(count, dtype=bool)
        joining: int | None = seed
        while joining is not None:
            released.add(joining)
            sets = units[gatherings[joining].rows]
            merged = components(count, [Relation(sets, gatherings[joining].parts).pairs()])
            units, before = merged[units], np.concatenate([np.flatnonzero(held), sets[:, 0]])
            held = np.zeros(count, dtype=bool)
            held[merged[before]] = True
            others = (n for n in range(len(gatherings)) if n not in released)
            joining = next((n for n in others if _hangs_on_one(gatherings[n], units, held)), None)
        known.add(frozenset(released))
    return sorted(known, key=lambda released: (len(released), sorted(released)))


def _hangs_on_one(relation: Relation, units: np.ndarray, held: np.ndarray) -> bool:
    """Return whether each of the sets touches one held unit at most, and some do."""
    touched = np.where(held[units[relation.rows]], units[relation.rows], -1)
    highest = touched.max(axis=1)
    lowest = np.where(touched < 0, highest[:, None], touched).min(axis=1)
    return bool((highest == lowest).all() and (highest >= 0).any())


def _with_fixed_sets(colours: np.ndarray, gatherings: Sequence[Relation]) -> np.ndarray:
    """Refine colours by sets that stay where they are: each is an axis of its own."""
    if not gatherings:
        return colours
    colours = colours.copy()
    for number, relation in enumerate(gatherings):
        salt = salts(len(relation.rows), stream=-1 - number)
        np.add.at(colours, relation.rows, mix(salt[:, None] + relation.parts.astype(np.uint64)))
    return mix(colours)


def _spread(relations: Sequence[Relation], free: np.ndarray, reason_of: dict[int, str]) -> None:
    """Give what cannot move the reason of what it moves with."""
    for relation in relations:
        for row in relation.rows[~free[relation.rows].all(axis=1)]:
            stuck = [k for k in row.tolist() if not free[k]]
            named = next((reason_of[k] for k in stuck if k in reason_of), None)
            if named:
                for k in stuck:
                    reason_of.setdefault(k, named)


def _nested(levels: list[Level]) -> dict[int, tuple[int, int, int]]:
    """Return for each orbit that lies in one block of a higher one which, and its place there.

    Its roles follow those of the higher orbit, so that they are alike in all of its blocks.
    """
    found: dict[int, tuple[int, int, int]] = {}
    for depth in range(len(levels) - 2, -1, -1):
        level = levels[depth]
        moving = np.flatnonzero(level.orbit >= 0)
        order = moving[np.argsort(level.orbit[moving], kind="stable")]
        starts = np.flatnonzero(np.r_[True, np.diff(level.orbit[order]) > 0])
        for members in np.split(order, starts[1:]) if len(order) else []:
            for higher in levels[depth + 1 :]:
                at = higher[members]
                if at.orbit[0] >= 0 and not (np.ptp(at.orbit) or np.ptp(at.block)):
                    where = int(at.orbit[0]), int(at.block[0]), int(at.role.min())
                    found[int(level.orbit[members[0]])] = where
                    block = level.block[members]
                    by_role = members[np.lexsort((at.role, block))]
                    level.role[by_role] = np.tile(np.arange((block == 0).sum()), block.max() + 1)
                    break
    return found
