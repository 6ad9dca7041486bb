"""A correction on its way into the weights, and the weights that it changes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.affine import ChannelAffine
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.rules import argument, packet

aten = torch.ops.aten

Changes = dict[str, Tensor]
"""New values of weights, in float64, by name."""


@dataclass(frozen=True)
class Correction:
    """`y = scale x + shift` for every channel, in float64; channels lie along `dim`."""

    scale: Tensor
    shift: Tensor
    dim: int

    @classmethod
    def of(cls, affine: ChannelAffine) -> "Correction":
        """Return what a layer does."""
        return cls(affine.scale.double(), affine.shift.double(), affine.channel_dim)

    @property
    def shifts(self) -> bool:
        """Whether it does more than scale."""
        return bool(self.shift.any())

    def after(self, inner: "Correction | None") -> "Correction":
        """Return both in one: `self(inner(x)) = scale s x + (scale t + shift)`."""
        if inner is None:
            return self
        shift = self.scale * inner.shift + self.shift
        return Correction(self.scale * inner.scale, shift, self.dim)


def put(graph: NetworkGraph, state: State, changed: Changes) -> None:
    """Write weights under all the names that they have, in place of the mapping's entries."""
    for name, value in changed.items():
        for alias in graph.aliases[name]:
            state[alias] = value.to(state[alias])


def convolution_form(node: Node) -> tuple[bool, int]:
    """Return whether a convolution is transposed, and its number of groups."""
    if packet(node) is aten.convolution:
        return argument(node, 6, "transposed"), argument(node, 8, "groups", 1)
    return "transpose" in packet(node).__name__, argument(node, 6, "groups", 1)


def scaled(
    weight: Tensor, scale: Tensor, axis: int, groups: int = 1, *, grouped: bool = False
) -> Tensor:
    """Return a layer's weight with the channels along an axis scaled.

    Args:
        grouped: whether the axis counts the channels within a group, while the groups lie one after
            the other along axis 0 (the inputs of a convolution, the outputs of a transposed one)
    """
    if not grouped or groups == 1:
        return weight * scale.view([-1 if dim == axis else 1 for dim in range(weight.dim())])
    parts = weight.unflatten(0, (groups, -1))
    shape = [1] * parts.dim()
    shape[0], shape[axis + 1] = groups, -1
    return (parts * scale.view(shape)).flatten(0, 1)
