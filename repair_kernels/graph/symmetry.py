"""Permutation groups of a captured graph: which parameter axes move together, seen by which taps.

The rules of `rules/` walk the graph once and say what every operator demands of channel axes;
`axes.py` turns that into sets of interchangeable channels. Nothing here is written by hand for an
architecture, and nothing is guessed: an operator without a rule pins what it touches.
"""

import operator
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.axes import Orbits
from repair_kernels.rules import Axes, Tracker, argument, rule_for


@dataclass(frozen=True)
class AxisSlice:
    """Where a group sits on one axis of a parameter: rows of `positions` change places."""

    parameter: str
    axis: int
    positions: Tensor
    """int64, shape (size, r): r positions for each member of the group."""


@dataclass(frozen=True)
class PermutationGroup:
    """Channels that may stand in any order, provided that all of `slices` follow."""

    name: str
    size: int
    slices: tuple[AxisSlice, ...]
    taps: Mapping[str, Tensor]
    """Per tap that sees the whole group: positions on its channel axis, int64, shape (size, r)."""
    match_tap: str
    """The tap that matching reads: the last activation function in the group's own stage; "" for a
    group that no tap sees (the hidden channels of an MLP along tokens, whose values move along the
    channels too): it can be permuted, but not matched."""
    match_taps: tuple[str, ...] = ()
    """All taps whose correlations tell which channels belong together: the outputs of activation
    functions and of residual blocks, later stages included; else `match_tap` alone."""
    inner: tuple[tuple[str, ...], ...] = ()
    """For each member the groups that lie inside of it (the channels of an attention head), in an
    order that is the same for every member; () where members are single channels."""


@dataclass(frozen=True)
class Symmetry:
    """What the walk over a graph found."""

    groups: dict[str, PermutationGroup]
    channel_dims: dict[Node, int]
    """The one dimension of a value that holds channels, where there is exactly one."""
    pins: dict[str, str]
    """Per parameter axis that cannot move ("conv1.weight[1]"): what pinned it."""


@dataclass(frozen=True)
class TapSite:
    """A value of the graph under the name by which taps call it."""

    name: str
    node: Node
    is_activation: bool


def track(nodes: Iterable[Node], parameters: dict[Node, str]) -> Tracker:
    """Walk the graph in order and let each operator's rule speak."""
    nodes = list(nodes)
    tracker = Tracker(parameters, nodes)
    for node in nodes:
        if node.op == "placeholder":
            value = node.meta.get("val")
            if node not in parameters and isinstance(value, Tensor):
                tracker.values[node] = [None] * value.dim()
        elif node.op == "output":
            for value in node.all_input_nodes:
                tracker.pin(value, "output of the network")
        elif node.op == "call_function":
            tracker.values[node] = _apply_rule(node, tracker)
    return tracker


def _apply_rule(node: Node, tracker: Tracker) -> Axes | list | None:
    value = node.meta.get("val")
    if node.target is operator.getitem:
        parts = tracker.values.get(argument(node, 0))
        return None if parts is None else tracker.settled(node, parts[argument(node, 1)])
    if not isinstance(value, Tensor | list | tuple):
        return None
    rule = rule_for(node.target)
    if rule is None:
        return tracker.unknown(node, f"{node.target} ({node.name}): no rule for this operator")
    return tracker.settled(node, rule(node, tracker))


def find_symmetry(
    tracker: Tracker, sites: list[TapSite], aliases: Mapping[str, list[str]]
) -> Symmetry:
    """Return the permutation groups.

    Args:
        tracker: the walked graph
        sites: tappable values in graph order
        aliases: for each parameter all the names that it has (tied parameters have several)
    """
    orbits = tracker.channels.orbits()
    channel_dims = _channel_dims(tracker)
    slices: dict[int, list[AxisSlice]] = {}
    for (name, dim), axis in tracker.parameter_axes.items():
        for number, positions in orbits.on(axis).items():
            for alias in aliases.get(name, [name]):
                slices.setdefault(number, []).append(
                    AxisSlice(alias, dim, torch.from_numpy(positions))
                )
    taps: dict[int, dict[str, np.ndarray]] = {}
    widths: dict[str, int] = {}
    for site in sites:
        axis = tracker.values[site.node][channel_dims[site.node]]
        widths[site.name] = len(axis)
        for number, positions in orbits.on(axis).items():
            taps.setdefault(number, {})[site.name] = positions
    activations = {site.name for site in sites if site.is_activation}
    kept = set(slices)
    inner: dict[int, list[list[int]]] = {}
    for number in sorted(kept & orbits.inside.keys(), key=lambda n: orbits.inside[n][2]):
        outer, block, _ = orbits.inside[number]
        inner.setdefault(outer, [[] for _ in range(orbits.sizes[outer])])[block].append(number)
    for members in inner.values():
        # Places agree between members; the order in which groups are named is the first member's.
        order = sorted(
            range(len(members[0])),
            key=lambda n, first=members[0]: _first_site(sites, taps.get(first[n], {})),
        )
        members[:] = [[held[n] for n in order] for held in members]
    groups: dict[str, PermutationGroup] = {}

    def add(number: int, place: str = "") -> str:
        """Add a group after those inside of it; return its name."""
        inside = tuple(
            tuple(add(one, f"{place}[{member}]") for one in held)
            for member, held in enumerate(inner.get(number, []))
        )
        seen = taps.get(number, {})
        first = slices[number][0]
        name = _group_name(next(iter(seen), f"{first.parameter}[{first.axis}]") + place, groups)
        groups[name] = PermutationGroup(
            name=name,
            size=orbits.sizes[number],
            slices=tuple(slices[number]),
            taps={tap: torch.from_numpy(positions) for tap, positions in seen.items()},
            match_tap=groups[inside[0][0]].match_tap
            if inside and inside[0]
            else _match_tap(seen, widths, activations),
            inner=inside,
        )
        return name

    outermost = (n for n in kept if orbits.inside.get(n, (-1,))[0] not in kept)
    for number in sorted(outermost, key=lambda n: _first_site(sites, taps.get(n, {}))):
        add(number)
    return Symmetry(groups, channel_dims, _pins(tracker, orbits))


def _first_site(sites: list[TapSite], seen: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Return the place of the first tap that sees a group, and the group's first place there."""
    for number, site in enumerate(sites):
        if site.name in seen:
            return number, int(seen[site.name].min())
    return len(sites), 0


def _group_name(tap: str, taken: Mapping[str, PermutationGroup]) -> str:
    """Return the first tap that sees the group, numbered where that tap sees several."""
    if tap not in taken:
        return tap
    return next(
        name for number in range(2, len(taken) + 3) if (name := f"{tap}#{number}") not in taken
    )


def _match_tap(
    seen: Mapping[str, np.ndarray], widths: Mapping[str, int], activations: set[str]
) -> str:
    """Choose the last activation of the group's own stage: on the narrowest axes that hold it."""
    if not seen:
        return ""
    narrowest = min(widths[tap] for tap in seen)
    own = [tap for tap in seen if widths[tap] == narrowest]
    return next((tap for tap in reversed(own) if tap in activations), own[-1])


def _channel_dims(tracker: Tracker) -> dict[Node, int]:
    """Return for each value with exactly one dimension of known channels that dimension."""
    found = {}
    for node, axes in tracker.values.items():
        if axes and all(axis is None or isinstance(axis, np.ndarray) for axis in axes):
            known = [dim for dim, axis in enumerate(axes) if axis is not None]
            if len(known) == 1:
                found[node] = known[0]
    return found


def _pins(tracker: Tracker, orbits: Orbits) -> dict[str, str]:
    """Return for each parameter axis on which some channel cannot move the most frequent reason."""
    pins = {}
    for (name, dim), axis in tracker.parameter_axes.items():
        if (name, dim) in tracker.ordered:
            continue
        reasons = Counter(orbits.reasons[v] for v in axis.tolist() if v in orbits.reasons)
        if reasons:
            pins[f"{name}[{dim}]"] = reasons.most_common(1)[0][0]
    return pins
