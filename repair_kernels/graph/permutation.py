"""Permutations of channels: a network in another order computes the same function.

A set of permutations, by group name, acts group by group in the order of `groups`, where a group
comes after those inside of it: the channels of each attention head are reordered where they stand,
then heads change places as they are. So an inner group's name says where its channels stand
*before* heads move. Groups of which none is inside the other act independently.

Composition and inverse follow from that (a wreath product). With o for an outer group's indices and
i[k] for those of the inner groups of its member k, acting first p, then q is

    o = p.o[q.o],    i[p.o[k]] = p.i[p.o[k]][q.i[k]]

since the member that stands at k once p has acted stood at p.o[k] before. See `compose`, `inverse`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from repair_kernels.errors import ArchitectureMismatchError, ArgumentError
from repair_kernels.graph.state import State, state_of
from repair_kernels.graph.symmetry import PermutationGroup


@dataclass(frozen=True, eq=False)
class Permutation:
    """A bijection of channels: channel i of the result is channel `indices[i]` of the input.

    Args:
        indices: every number from 0 to n-1 exactly once
    Raises:
        ArgumentError: when `indices` is no bijection.
    Example:
        >>> p = Permutation([2, 0, 1])
        >>> p.inverse().indices.tolist(), p.compose(p.inverse()) == Permutation.identity(3)
        ([1, 2, 0], True)
    """

    indices: Tensor

    def __init__(self, indices: Tensor | np.ndarray | Sequence[int]):
        values = torch.as_tensor(np.asarray(indices)).detach().cpu()
        whole = values.dim() == 1 and (
            values.numel() == 0 or not (values.is_floating_point() or values.dtype == torch.bool)
        )
        if not whole or not torch.equal(values.long().sort().values, torch.arange(len(values))):
            raise ArgumentError(
                "`indices` must hold every number from 0 to n-1 exactly once; "
                f"got {values.tolist() if values.numel() < 12 else values}; pass a "
                "one-dimensional list of integers"
            )
        object.__setattr__(self, "indices", values.long().clone())

    @classmethod
    def identity(cls, n: int) -> "Permutation":
        """Return the permutation of n channels that leaves all in place."""
        return cls(torch.arange(n))

    @classmethod
    def random(cls, n: int, generator: torch.Generator | None = None) -> "Permutation":
        """Return a uniformly random permutation of n channels."""
        return cls(torch.randperm(n, generator=generator))

    def inverse(self) -> "Permutation":
        """Return the permutation that undoes this one."""
        return Permutation(torch.argsort(self.indices))

    def compose(self, other: "Permutation") -> "Permutation":
        """Return the permutation that first applies `other`, then this one.

        x[compose.indices] = (x[other.indices])[self.indices]
        """
        if len(self) != len(other):
            raise ArgumentError(
                f"permutations of one size compose; got {len(self)} and {len(other)} channels"
            )
        return Permutation(other.indices[self.indices])

    def __len__(self) -> int:
        return len(self.indices)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Permutation) and torch.equal(self.indices, other.indices)

    def __hash__(self) -> int:
        return hash(tuple(self.indices.tolist()))


@runtime_checkable
class Verifiable(Protocol):
    """A captured graph: its groups, and the means to check a permutation (`NetworkGraph`)."""

    @property
    def groups(self) -> dict[str, PermutationGroup]:
        """Permutation groups by name."""
        ...

    def verify(
        self, model: nn.Module, *, permutations: Mapping[str, Permutation] | None = None
    ) -> float:
        """Return how far the permuted network deviates, or raise."""
        ...


def permute(
    model: nn.Module,
    groups: Mapping[str, PermutationGroup] | Verifiable,
    permutations: Mapping[str, Permutation],
    *,
    verify: bool = False,
) -> nn.Module:
    """Return a copy of a model with its channels in another order; it computes the same function.

    Args:
        groups: permutation groups of the model's architecture, `trace(...).groups`, or the graph
        permutations: by group name; a group without an entry stays as it is
        verify: run the permuted network beside the original first; needs the graph, which knows
            how (`NetworkGraph.verify`)
    Raises:
        ArgumentError: an unknown group, or a permutation of another size
        FunctionChangedError: when `verify` finds more than rounding between the two
    """
    if isinstance(groups, Verifiable):
        graph, groups = groups, groups.groups
        if verify:
            graph.verify(model, permutations=permutations)
    elif verify:
        raise ArgumentError(
            "`verify` runs the network, for which `groups` alone do not suffice; pass the graph "
            "that `trace` returned in their place"
        )
    return with_state(model, permute_state(state_of(model), groups, permutations))


def permute_state(
    state: State, groups: Mapping[str, PermutationGroup], permutations: Mapping[str, Permutation]
) -> State:
    """Return a weight set with its channels in another order; untouched tensors are shared."""
    permuted = dict(state)
    for (name, axis), index in axis_indices(groups, permutations, state).items():
        permuted[name] = permuted[name].index_select(axis, index.to(permuted[name].device))
    return permuted


def axis_indices(
    groups: Mapping[str, PermutationGroup],
    permutations: Mapping[str, Permutation],
    state: Mapping[str, Tensor],
) -> dict[tuple[str, int], Tensor]:
    """Return per moving axis of a parameter where each position takes its values from."""
    check_permutations(groups, permutations)
    found: dict[tuple[str, int], Tensor] = {}
    for name in (name for name in groups if name in permutations):
        for part in groups[name].slices:
            shape = state[part.parameter].shape if part.parameter in state else ()
            size = shape[part.axis] if part.axis < len(shape) else 0
            if part.positions.max() >= size:
                raise ArchitectureMismatchError(
                    f"the groups must be those of this architecture; group {name!r} moves "
                    f"{part.positions.max() + 1} channels on axis {part.axis} of "
                    f"{part.parameter!r}, where the network has {size}; trace the network that "
                    "is permuted"
                )
            index = found.setdefault((part.parameter, part.axis), torch.arange(size))
            gather(index, part.positions, permutations[name])
    return found


def tap_indices(
    groups: Mapping[str, PermutationGroup],
    permutations: Mapping[str, Permutation],
    widths: Mapping[str, int],
) -> dict[str, Tensor]:
    """Return per tap of `widths` (channels by name) where each channel takes its values from."""
    check_permutations(groups, permutations)
    found = {tap: torch.arange(width) for tap, width in widths.items()}
    for name in (name for name in groups if name in permutations):
        for tap, positions in groups[name].taps.items():
            if tap in found:
                gather(found[tap], positions, permutations[name])
    return found


def gather(index: Tensor, positions: Tensor, permutation: Permutation) -> None:
    """Let a group's positions in `index` take the permuted members' values, in place."""
    index[positions.reshape(-1)] = index[positions[permutation.indices].reshape(-1)]


def compose(
    groups: Mapping[str, PermutationGroup],
    later: Mapping[str, Permutation],
    earlier: Mapping[str, Permutation],
) -> dict[str, Permutation]:
    """Return the permutations that act as first `earlier`, then `later` (see the module's head)."""
    check_permutations(groups, later)
    check_permutations(groups, earlier)
    moved = carried(groups, earlier)
    composed: dict[str, Permutation] = {}
    for name in groups:
        before, after = earlier.get(moved[name]), later.get(name)
        if before is not None or after is not None:
            identity = Permutation.identity(groups[name].size)
            composed[moved[name]] = (after or identity).compose(before or identity)
    return {name: composed[name] for name in groups if name in composed}


def inverse(
    groups: Mapping[str, PermutationGroup], permutations: Mapping[str, Permutation]
) -> dict[str, Permutation]:
    """Return the permutations that undo these (see the module's head)."""
    check_permutations(groups, permutations)
    moved = carried(groups, permutations)
    return {
        name: permutations[moved[name]].inverse() for name in groups if moved[name] in permutations
    }


def carried(
    groups: Mapping[str, PermutationGroup], permutations: Mapping[str, Permutation]
) -> dict[str, str]:
    """Return for every group the one that stands in its place once the permutations have acted."""
    source = {name: name for name in groups}

    def descend(name: str, came_from: str) -> None:
        source[name] = came_from
        order = permutations.get(came_from)
        for member, held in enumerate(groups[name].inner):
            taken = member if order is None else int(order.indices[member])
            for one, other in zip(held, groups[came_from].inner[taken], strict=True):
                descend(one, other)

    inside = {one for group in groups.values() for held in group.inner for one in held}
    for name in groups:
        if name not in inside:
            descend(name, name)
    return source


def check_permutations(
    groups: Mapping[str, PermutationGroup], permutations: Mapping[str, Permutation]
) -> None:
    """Check that each permutation has a group, and its size.

    Raises:
        ArgumentError: naming the group.
    """
    for name, permutation in permutations.items():
        if name not in groups:
            raise ArgumentError(
                f"`permutations` must name groups of the network; {name!r} is none; the groups "
                f"are {', '.join(groups) or 'none'}"
            )
        if not isinstance(permutation, Permutation) or len(permutation) != groups[name].size:
            came = (
                f"{len(permutation)} channels"
                if isinstance(permutation, Permutation)
                else type(permutation).__name__
            )
            raise ArgumentError(
                f"the permutation of group {name!r} must be a `Permutation` of "
                f"{groups[name].size} channels; got {came}"
            )


def with_state(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a model with these weights; class, modes, devices and dtypes are its own.

    Some networks keep what they computed from their weights while they evaluate (timm's LeViT its
    attention biases), and forget it when their mode is switched; so the copy's is, to and fro.
    """
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in state_of(copied).items():
            tensor.copy_(state[name])
    modes = [module.training for module in copied.modules()]
    copied.train(not copied.training).train(not copied.training)
    for module, mode in zip(copied.modules(), modes, strict=True):
        module.training = mode
    return copied
