"""Colours by which classes of channels are told apart, and relations that refine them.

A *relation* is a set of rows of classes with a part for each place in a row: places of one part
are alike (the members of a gathered set), places of different parts are not (a bound block's).
Colour refinement gives two classes different colours where they differ in what they stand on or in
the parts that they play, to any depth. Colours are sums of 64-bit hashes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Relation:
    """Rows of classes (n, m), and the part of each of the m places."""

    rows: np.ndarray
    parts: np.ndarray

    @classmethod
    def ordered(cls, rows: np.ndarray) -> "Relation":
        """Return the relation of blocks whose members each have a place of their own."""
        return cls(rows, np.arange(rows.shape[1]))

    @classmethod
    def of_sets(cls, rows: np.ndarray) -> "Relation":
        """Return the relation of sets: all places are alike but the last, the handle's."""
        return cls(rows, (np.arange(rows.shape[1]) == rows.shape[1] - 1).astype(np.int64))

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs of classes that connect each row."""
        return self.rows[:, :1].repeat(self.rows.shape[1] - 1, axis=1).ravel(), self.rows[
            :, 1:
        ].ravel()


def components(count: int, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the connected component of each of `count` vertices, numbered by first occurrence."""
    if not pairs:
        return np.arange(count)
    rows = np.concatenate([x for x, _ in pairs])
    columns = np.concatenate([y for _, y in pairs])
    adjacency = coo_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(count, count))
    labels = connected_components(adjacency.tocsr(), directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def mix(x: np.ndarray) -> np.ndarray:
    """Return splitmix64's finaliser of `x` (uint64), whose sums do not collide."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def salts(count: int, stream: int) -> np.ndarray:
    """Return `count` fixed, unrelated 64-bit numbers."""
    start = np.uint64(stream * 0xD1342543DE82EF95 % 2**64)
    return mix(start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def membership_colours(count: int, axes: Sequence[np.ndarray]) -> np.ndarray:
    """Return per class a hash of the set of axes that it occurs on.

    Each axis lists its classes in order.
    """
    colours = np.zeros(count, dtype=np.uint64)
    for salt, members in zip(salts(len(axes), stream=1), axes, strict=True):
        colours[members[np.diff(members, prepend=-1) > 0]] += salt
    return mix(colours)


def row_hashes(values: np.ndarray, relations: Sequence[Relation]) -> list[np.ndarray]:
    """Return for each relation a hash of every row's values by part, alike for alike rows."""
    found = []
    for number, relation in enumerate(relations):
        parts = salts(int(relation.parts.max()) + 1, stream=number + 2)[relation.parts]
        found.append(mix(mix(values[relation.rows] + parts).sum(axis=1, dtype=np.uint64)))
    return found


def refine(colours: np.ndarray, relations: Sequence[Relation]) -> np.ndarray:
    """Refine colours by the parts that classes play in relations until none splits any more."""
    distinct = len(np.unique(colours))
    while True:
        refined = colours.copy()
        for number, (relation, hub) in enumerate(
            zip(relations, row_hashes(colours, relations), strict=True)
        ):
            parts = salts(int(relation.parts.max()) + 1, stream=number + 2)[relation.parts]
            np.add.at(refined, relation.rows, mix(hub[:, None] ^ parts))
        refined = mix(refined)
        now_distinct = len(np.unique(refined))
        if now_distinct == distinct:
            return refined
        colours, distinct = refined, now_distinct
