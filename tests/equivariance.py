"""Networks with their channels in another order, and how far their functions differ."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from repair_kernels.graph.network import State
from repair_kernels.graph.permutation import Permutation, permute
from repair_kernels.graph.symmetry import PermutationGroup

ROUNDING = 1e-10
"""A few thousand roundings of float64 (1e-16), and room; relative to the largest output."""


class Calls(nn.Module):
    """A network whose forward is the function `run(self, x)`."""

    def __init__(self, run: Callable[..., Tensor], **members: nn.Module | Tensor) -> None:
        super().__init__()
        self.run = run
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def deranged(groups: Mapping[str, PermutationGroup], seed: int = 0) -> dict[str, Permutation]:
    """Draw for every group a permutation that leaves no channel in its place."""
    generator = torch.Generator().manual_seed(seed)
    permutations = {}
    for name, group in groups.items():
        cycle = torch.randperm(group.size, generator=generator)
        indices = torch.empty_like(cycle)
        indices[cycle] = cycle.roll(1)
        permutations[name] = Permutation(indices)
    return permutations


def shuffled(model: nn.Module, groups: Mapping[str, PermutationGroup], seed: int = 0) -> nn.Module:
    """Return a copy of the model with the channels of every group in another order."""
    return permute(model, groups, deranged(groups, seed))


def deviation(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    """Return the largest difference of two networks' outputs, relative to the largest output."""
    with torch.no_grad():
        expected, ours = model.eval()(x), other.eval()(x)
    return float((ours - expected).abs().max() / expected.abs().max())


def moved(groups: Mapping[str, PermutationGroup], state: State) -> dict[tuple[str, int], int]:
    """Return for each axis of a parameter on which channels move how many positions do."""
    masks: dict[tuple[str, int], Tensor] = {}
    for group in groups.values():
        for part in group.slices:
            size = state[part.parameter].shape[part.axis]
            none = torch.zeros(size, dtype=torch.bool)
            masks.setdefault((part.parameter, part.axis), none)[part.positions.reshape(-1)] = True
    return {axis: int(mask.sum()) for axis, mask in masks.items()}
