"""The vertices of a network's axes, and what its operators say of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from repair_kernels.axes.orbits import Orbits, Statements, find_orbits

Axis = np.ndarray
"""Vertices of one axis, int64, shape (size,)."""


@dataclass
class ChannelAxes(Statements):
    """Vertices, and the verbs by which operators speak of them (see the package's docstring)."""

    handles: dict[tuple[int, bytes], Axis] = field(default_factory=dict)
    """The handles of the sets that are gathered, by the sets: many operators repeat them."""
    origins: dict[int, tuple[Axis, Any]] = field(default_factory=dict)
    """What a flattened axis (by its id) was made of, so that it can be unflattened."""

    def fresh(self, size: int) -> Axis:
        """Return a new axis of `size` channels that nothing is known of yet."""
        axis = np.arange(self.count, self.count + size)
        self.count += size
        return self.occur(axis)

    def occur(self, axis: Axis, reason: str = "") -> Axis:
        """Record that these channels stand together on an axis: an exchange must keep the set.

        `reason` is what the report says of a channel that therefore finds none to change with.
        """
        self.axes.append(axis)
        if reason:
            for vertex in axis.tolist():
                self.hints.setdefault(vertex, reason)
        return axis

    def tie(self, x: Axis, y: Axis) -> None:
        """State that `x[i]` and `y[i]` are one channel, or two that move together."""
        if x is not y:
            self.ties.append((x, y))

    def bind(self, rows: np.ndarray) -> None:
        """State that the vertices of each row of `rows` (blocks, members) move as one, in order."""
        if rows.shape[1] > 1:
            self.bindings.append(rows)

    def gather(self, rows: np.ndarray, handles: Axis | None = None) -> Axis:
        """State that each row of `rows` (sets, members) is a set that moves as one, in any order.

        Args:
            handles: for each set the vertex that stands for it and moves with it; default: new ones
        Returns:
            the handles
        """
        rows = np.sort(rows, axis=1)
        key = len(rows), rows.tobytes()
        known = self.handles.get(key)
        if known is not None:
            if handles is not None:
                self.tie(known, handles)
            return known
        if handles is None:
            handles = self.fresh(len(rows))
        if rows.shape[1] == 1:
            self.tie(handles, rows[:, 0])
        elif len(rows) == 1:
            self.occur(rows[0])
            self.occur(handles)
        else:
            self.handles[key] = handles
            self.gatherings.append(np.concatenate([rows, handles[:, None]], axis=1))
        return handles

    def copy(self, axis: Axis) -> Axis:
        """Return a new axis whose channels move with those of `axis` but are not the same."""
        copied = self.fresh(len(axis))
        self.bind(np.stack([axis, copied], axis=1))
        return copied

    def pin(self, axis: Axis, reason: str) -> None:
        """State that these channels stay where they are."""
        for vertex in axis.ravel().tolist():
            self.pinned.setdefault(vertex, reason)

    def orbits(self) -> Orbits:
        """Return the sets of interchangeable channels and blocks (see `axes/orbits.py`)."""
        return find_orbits(self)
