"""Taps: the activations of a graph that have a name and channels."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.fx import Node

from repair_kernels.graph.symmetry import PermutationGroup, Symmetry, TapSite
from repair_kernels.rules import ACTIVATIONS, IDENTITIES, Tracker, packet, shape

aten = torch.ops.aten

CONVOLUTIONS = {
    aten.conv1d,
    aten.conv2d,
    aten.conv3d,
    aten.conv_transpose1d,
    aten.conv_transpose2d,
    aten.conv_transpose3d,
    aten.convolution,
}
LAYERS = CONVOLUTIONS | {aten.linear}
NORMS = {aten.batch_norm, aten.instance_norm, aten.group_norm, aten.layer_norm, aten.rms_norm}
SUMS = {aten.add, aten.add_}
NOT_TAPPED = IDENTITIES | {
    aten.view,
    aten.reshape,
    aten.flatten,
    aten.unflatten,
    aten.squeeze,
    aten.unsqueeze,
    aten.slice,
    aten.select,
    aten.expand,
}


@dataclass(frozen=True)
class Tap:
    """A named activation."""

    name: str
    node: str
    """Name of the graph's node."""
    channel_dim: int
    channels: int
    kind: str
    """Whose output it is: "layer" (convolution, linear map), "block" (residual block), "norm",
    "activation" or "other"."""
    module: str | None
    """Path of the module whose output this is, if it runs once; else None."""


def tap_sites(nodes: list[Node], tracker: Tracker) -> list[TapSite]:
    """Name every value with one channel axis by its layer, else by its module and operator.

    What is computed from weights alone is no activation: it is the same for all images.
    """
    sites = []
    taken: set[str] = set()
    computed = values_of_inputs(nodes, tracker)
    for node in nodes:
        axes = tracker.values.get(node)
        if node not in computed or packet(node) in NOT_TAPPED or not isinstance(axes, list):
            continue
        moving = [axis for axis in axes if axis is not None and not isinstance(axis, list)]
        if len(moving) != 1 or not isinstance(moving[0], np.ndarray):
            continue
        if not hasattr(node.target, "overloadpacket"):
            continue
        path, leaf = _innermost_module(node)
        operator_name = packet(node).__name__.rstrip("_")
        name = path if leaf else f"{path}.{operator_name}" if path else operator_name
        number = 1
        base = name
        while name in taken:
            name = f"{base}_{number}"
            number += 1
        taken.add(name)
        sites.append(TapSite(name, node, packet(node) in ACTIVATIONS))
    return sites


def values_of_inputs(nodes: list[Node], tracker: Tracker) -> set[Node]:
    """Return what operators compute from the network's input, not from weights and constants.

    A value that is written to holds what was written, also where it is read by an older name.
    """
    others = [n for n in nodes if n.op == "placeholder" and n not in tracker.parameters]
    batches = [n for n in others if any(isinstance(size, torch.SymInt) for size in _sizes(n))]
    reached = set(batches or others)
    computed = set()
    for node in nodes:
        if not isinstance(node.meta.get("val"), torch.Tensor | list | tuple):
            continue
        if node.op == "call_function" and not reached.isdisjoint(node.all_input_nodes):
            computed.add(node)
            reached.add(node)
            schema = getattr(node.target, "_schema", None)
            if schema is not None and schema.is_mutable:
                reached |= tracker.written
    return computed


def _sizes(node: Node) -> tuple:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _innermost_module(node: Node) -> tuple[str, bool]:
    """Return the path of the module whose forward holds the node, and whether it is torch's own."""
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = next(reversed(stack.values()), ("", ""))
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return path.split("@")[0], bool(path) and kind.startswith(
        "torch.nn.modules."
    ) and "container" not in kind


def describe_taps(
    sites: list[TapSite], symmetry: Symmetry, nodes: list[Node], module_outputs: dict[str, str]
) -> Iterator[Tap]:
    """Yield the tap at each site, with what the graph knows of it."""
    blocks = _block_outputs(nodes, symmetry)
    module_of = {node: path for path, node in module_outputs.items()}
    for site in sites:
        target = packet(site.node)
        if site.node in blocks:
            kind = "block"
        elif target in LAYERS:
            kind = "layer"
        else:
            kind = "norm" if target in NORMS else "activation" if site.is_activation else "other"
        dim = symmetry.channel_dims[site.node]
        yield Tap(
            site.name,
            site.node.name,
            dim,
            shape(site.node)[dim],
            kind,
            module_of.get(site.node.name),
        )


def with_match_taps(symmetry: Symmetry, taps: Mapping[str, Tap]) -> Symmetry:
    """Return the same with the `match_taps` of each group."""

    def of(group: PermutationGroup) -> tuple[str, ...]:
        kinds = ("activation", "block") if group.match_tap else ()
        return tuple(t for t in group.taps if taps[t].kind in kinds or t == group.match_tap)

    groups = {n: replace(group, match_taps=of(group)) for n, group in symmetry.groups.items()}
    return replace(symmetry, groups=groups)


def _block_outputs(nodes: list[Node], symmetry: Symmetry) -> set[Node]:
    """Return each sum of two activations, or the activation function that alone reads it."""
    found = set()
    for node in nodes:
        if (
            packet(node) not in SUMS
            or sum(value in symmetry.channel_dims for value in node.all_input_nodes) != 2
        ):
            continue
        users = list(node.users)
        while len(users) == 1 and packet(users[0]) in IDENTITIES:
            users = list(users[0].users)
        found.add(users[0] if len(users) == 1 and packet(users[0]) in ACTIVATIONS else node)
    return found


def module_outputs(nodes: list[Node]) -> dict[str, str]:
    """Return by path the node of the value that a module returns, for modules that run once.

    Innermost modules come last.

    A module's output is the one value of its own that is read outside of it.
    """
    own: dict[str, list[Node]] = {}
    calls: dict[str, set[str]] = {}
    for node in nodes:
        for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            own.setdefault(path.split("@")[0], []).append(node)
            calls.setdefault(path.split("@")[0], set()).add(key)
    outputs: dict[str, str] = {}
    for path in sorted(own, key=lambda path: path.count(".")):
        inside = set(own[path])
        read = [node for node in own[path] if any(user not in inside for user in node.users)]
        if path and len(read) == 1 and len(calls[path]) == 1:
            outputs[path] = read[0].name
    return outputs


def same_modules(model: nn.Module) -> dict[str, set[str]]:
    """Return by path of a module that has several all of its paths."""
    paths: dict[int, set[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), set()).add(path)
    return {path: found for found in paths.values() if len(found) > 1 for path in found}


def run_by_one_name(
    outputs: Mapping[str, str], nodes: list[Node], same: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """Return what `module_outputs` found, without modules that run under another path as well."""
    run = {
        path.split("@")[0]
        for node in nodes
        for path, _ in (node.meta.get("nn_module_stack") or {}).values()
    }
    return {
        path: node for path, node in outputs.items() if len(run & {path, *same.get(path, ())}) <= 1
    }
