"""Interpolation of weights.

theta_alpha = (1 - alpha) theta_A + alpha theta_B
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from repair_kernels import ops
from repair_kernels.endpoints import check_alpha, check_same_parameters
from repair_kernels.graph.network import State, state_of
from repair_kernels.graph.permutation import Permutation, axis_indices, with_state
from repair_kernels.graph.symmetry import PermutationGroup


def interpolate(
    model_a: nn.Module, model_b: nn.Module, alpha: float = 0.5, *, backend: str | None = None
) -> nn.Module:
    """Return a copy of `model_a` with the weights (1 - alpha) a + alpha b.

    Args:
        model_a, model_b: networks of one architecture, b already permuted
        alpha: weight of network b, in [0, 1]; 0 and 1 give the networks themselves to the bit
        backend: None (by device), "triton" or "torch"
    Raises:
        ArgumentError: alpha outside [0, 1]; ArchitectureMismatchError: names or shapes differ
    Source:
        REPAIR (Jordan et al., 2023), §2
    """
    return with_state(
        model_a, interpolate_state(state_of(model_a), state_of(model_b), alpha, backend=backend)
    )


def interpolate_state(
    state_a: State,
    state_b: State,
    alpha: float,
    *,
    groups: Mapping[str, PermutationGroup] | None = None,
    permutations: Mapping[str, Permutation] | None = None,
    backend: str | None = None,
) -> State:
    """Return the interpolated weight set at one alpha; see `interpolate_states`."""
    [state] = interpolate_states(
        state_a, state_b, [alpha], groups=groups, permutations=permutations, backend=backend
    )
    return state


def interpolate_states(
    state_a: State,
    state_b: State,
    alphas: Sequence[float],
    *,
    groups: Mapping[str, PermutationGroup] | None = None,
    permutations: Mapping[str, Permutation] | None = None,
    backend: str | None = None,
) -> list[State]:
    """Return a weight set for each alpha, on a's devices, in a's dtypes; integers are rounded.

    On a GPU this is one launch, which reads both weight sets once; permuting b on the way gives the
    same bits as permuting it before.

    Args:
        groups, permutations: how b's channels are carried into a's order, as for `permute`;
            default: they stay
    """
    alphas = [check_alpha(alpha) for alpha in alphas]
    check_same_parameters(state_a, state_b)
    moves: dict[str, dict[int, Tensor]] = {}
    shared: dict[bytes, Tensor] = {}  # a layer's tensors move alike: one index, uploaded once
    for (name, axis), index in axis_indices(groups or {}, permutations or {}, state_b).items():
        moves.setdefault(name, {})[axis] = shared.setdefault(index.numpy().tobytes(), index)
    items: dict[torch.device, dict[str, ops.Lerp]] = {}
    found: list[State] = [{} for _ in alphas]
    for name, a in state_a.items():
        if a.is_floating_point() or a.is_complex():
            item = _item(a, state_b[name], moves.get(name, {}))
            items.setdefault(a.device, {})[name] = item
        else:
            b = _moved(state_b[name], moves.get(name, {})).to(a.device)
            for alpha, state in zip(alphas, found, strict=True):
                mixed = a.double() * (1 - alpha) + b.double() * alpha
                state[name] = mixed.round().to(a.dtype)
    for on_device in items.values():
        mixed = ops.lerp_rescale(list(on_device.values()), alphas, backend=backend)
        for state, tensors in zip(found, mixed, strict=True):
            state.update(zip(on_device, tensors, strict=True))
    return [{name: state[name] for name in state_a} for state in found]


def _item(a: Tensor, b: Tensor, moves: dict[int, Tensor]) -> ops.Lerp:
    """Return what the op does to one tensor; it gathers the first two axes on the way."""
    segment, index_in = 1, moves.get(1)
    if index_in is not None:
        segment, index_in = _in_segments(index_in)
    b = _moved(b, {axis: index for axis, index in moves.items() if axis > 1}).to(a)
    return ops.Lerp(a, b, index_out=moves.get(0), index_in=index_in, segment=segment)


def _moved(x: Tensor, moves: dict[int, Tensor]) -> Tensor:
    for axis, index in moves.items():
        x = x.index_select(axis, index.to(x.device))
    return x


def _in_segments(index: Tensor) -> tuple[int, Tensor]:
    """Return the length of the longest blocks that move as a whole, and which block goes where."""
    positions = index.numpy()
    starts = np.flatnonzero(np.diff(positions, prepend=-2) != 1)
    segment = int(np.gcd.reduce(np.array([len(positions), *starts, *positions[starts]]))) or 1
    return segment, index[::segment] // segment
