"""When the values of a graph are read last, and whose memory its operators write to."""

import operator
from collections.abc import Sequence

import torch
from torch.fx import Node

from repair_kernels.rules import IDENTITIES, packet

aten = torch.ops.aten

MAY_RETURN_INPUT = IDENTITIES | {
    aten.type_as,
    aten.atleast_1d,
    aten.atleast_2d,
    aten.atleast_3d,
}
"""Operators that may hand on their input's memory although their schema does not say so."""


def last_uses(nodes: Sequence[Node]) -> list[tuple[Node, list[Node]]]:
    """Return the nodes that compute something, each with the values that are not read after it."""
    seen: set[Node] = set()
    schedule = []
    for node in reversed(nodes):
        if node.op == "placeholder":
            continue
        unused = [value for value in node.all_input_nodes if value not in seen]
        seen.update(unused)
        if not node.users and node.op != "output":
            unused.append(node)
        schedule.append((node, unused))
    return schedule[::-1]


def overwritten_placeholders(nodes: Sequence[Node]) -> set[str]:
    """Return the names of inputs and weights whose memory some operator of the graph writes to."""
    root = {node: node for node in nodes if node.op == "placeholder"}
    overwritten = set()
    for node in nodes:
        if node.target is operator.getitem and node.all_input_nodes[0] in root:
            root[node] = root[node.all_input_nodes[0]]
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            continue
        for position, declared in enumerate(schema.arguments):
            value = (
                node.args[position] if position < len(node.args) else node.kwargs.get(declared.name)
            )
            if not isinstance(value, Node) or value not in root:
                continue
            handed_on = position == 0 and packet(node) in MAY_RETURN_INPUT
            if declared.alias_info is not None or handed_on:
                root[node] = root[value]
            if declared.alias_info is not None and declared.alias_info.is_write:
                overwritten.add(root[value].name)
    return overwritten
