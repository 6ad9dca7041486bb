"""What `graph.report()` says: which weights can move, and what keeps the others in place."""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.graph.symmetry import PermutationGroup, Symmetry
from repair_kernels.rules import rule_for, shape


@dataclass(frozen=True)
class SymmetryReport:
    """The permutation groups of a network, and what pinned the rest; `print` it.

    Example:
        >>> import repair_kernels as rk
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> report = rk.trace(mlp, torch.zeros(1, 3)).report()
        >>> print(str(report).splitlines()[0])
        1 permutation group, of 8 channels
        >>> report.share_of_weights, report.pins["2.bias[0]"]
        (0.96, 'output of the network')
    """

    groups: Mapping[str, PermutationGroup]
    unknown: Mapping[str, tuple[str, ...]]
    """Operators without a rule, each with the names of its nodes: they pin all that they touch."""
    pins: Mapping[str, str]
    """Per axis ("conv1.weight[1]") on which some channel cannot move: what pinned it."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of the parameters and floating-point buffers that the graph reads."""

    @cached_property
    def moving(self) -> dict[tuple[str, int], Tensor]:
        """Return per axis on which channels move which of its positions do (a boolean mask)."""
        masks: dict[tuple[str, int], Tensor] = {}
        for group in self.groups.values():
            for part in group.slices:
                if part.parameter in self.shapes:
                    none = torch.zeros(self.shapes[part.parameter][part.axis], dtype=torch.bool)
                    mask = masks.setdefault((part.parameter, part.axis), none)
                    mask[part.positions.reshape(-1)] = True
        return masks

    @property
    def share_of_weights(self) -> float:
        """Return the share of the elements of all weights that at least one group moves."""
        total = fixed = 0
        for name, sizes in self.shapes.items():
            stay = count = 1
            for dim, size in enumerate(sizes):
                mask = self.moving.get((name, dim))
                stay *= size if mask is None else size - int(mask.sum())
                count *= size
            total, fixed = total + count, fixed + stay
        return 1 - fixed / total if total else 0.0

    @property
    def share_of_channels(self) -> float:
        """Return the share of the positions of all channel axes of weights that a group moves.

        Channel axes are those that operators link to channels: not the positions of a kernel, and
        no axis of size 1.
        """
        sizes = {
            f"{name}[{dim}]": size
            for name, shape_ in self.shapes.items()
            for dim, size in enumerate(shape_)
        }
        channels = {f"{name}[{dim}]" for name, dim in self.moving} | set(self.pins)
        total = sum(sizes.get(axis, 0) for axis in channels)
        return sum(int(mask.sum()) for mask in self.moving.values()) / total if total else 0.0

    def __str__(self) -> str:
        return "\n\n".join("\n".join(part) for part in self._parts() if part)

    def _parts(self) -> Iterable[list[str]]:
        if self.unknown:
            yield [
                "operators without a rule, which pin all that they touch (see `register_rule`):",
                *(f"  {name:40} {_times(nodes)}" for name, nodes in self.unknown.items()),
            ]
        yield [
            _summary([group.size for group in self.groups.values()]),
            f"{self.share_of_weights:.1%} of the weights can move, and "
            f"{self.share_of_channels:.1%} of the channels on their axes".replace("%", " %"),
        ]
        inner = {name for g in self.groups.values() for member in g.inner or () for name in member}
        yield [
            f"{'group':40} {'size':>6}  matched at",
            *(self._row(g) for g in self.groups.values() if g.name not in inner),
        ]
        yield [
            "axes that cannot move, wholly or in part:",
            *([f"  {axis:40} {self._stay(axis):>12}  {why}" for axis, why in self.pins.items()]),
            *([] if self.pins else ["  none"]),
        ]

    def _row(self, group: PermutationGroup) -> str:
        row = f"{group.name:40} {group.size:6d}  {group.match_tap or 'no tap'}"
        if not group.inner or not group.inner[0]:
            return row
        sizes = " and ".join(str(self.groups[name].size) for name in group.inner[0])
        return f"{row}, each member with {sizes} inside of it"

    def _stay(self, axis: str) -> str:
        name, _, dim = axis.removesuffix("]").rpartition("[")
        size = self.shapes[name][int(dim)]
        mask = self.moving.get((name, int(dim)))
        return f"{size if mask is None else size - int(mask.sum())} of {size}"


def report(nodes: Iterable[Node], sources: Mapping[str, str], symmetry: Symmetry) -> SymmetryReport:
    """Return the report of a captured graph.

    Args:
        sources: for each placeholder that is a parameter or buffer, its name in the model
    """
    unknown: dict[str, tuple[str, ...]] = {}
    shapes = {}
    for node in nodes:
        if node.op == "placeholder" and node.name in sources:
            if node.users and node.meta["val"].is_floating_point():
                shapes[sources[node.name]] = shape(node)
        elif _is_unknown(node):
            unknown[str(node.target)] = (*unknown.get(str(node.target), ()), node.name)
    return SymmetryReport(symmetry.groups, unknown, symmetry.pins, shapes)


def _is_unknown(node: Node) -> bool:
    return (
        node.op == "call_function"
        and node.target is not operator.getitem
        and isinstance(node.meta.get("val"), Tensor | list | tuple)
        and rule_for(node.target) is None
    )


def _summary(sizes: list[int]) -> str:
    if not sizes:
        return "no permutation groups"
    if len(sizes) == 1:
        return f"1 permutation group, of {sizes[0]} channels"
    return f"{len(sizes)} permutation groups, of {min(sizes)} to {max(sizes)} channels"


def _times(nodes: tuple[str, ...]) -> str:
    return f"at {nodes[0]}" + (f" and {len(nodes) - 1} more" if len(nodes) > 1 else "")
