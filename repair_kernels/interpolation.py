"""Interpolation of weights.

theta_alpha = (1 - alpha) theta_A + alpha theta_B
"""

from torch import Tensor, nn

from repair_kernels import ops
from repair_kernels.endpoints import check_alpha, check_same_parameters
from repair_kernels.graph import State, state_of
from repair_kernels.permutation import with_state


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
    state_a: State, state_b: State, alpha: float, *, backend: str | None = None
) -> State:
    """Return the interpolated weight set, on a's device, in a's dtypes; integers are rounded."""
    alpha = check_alpha(alpha)
    check_same_parameters(state_a, state_b)
    return {name: _lerp(a, state_b[name].to(a), alpha, backend) for name, a in state_a.items()}


def _lerp(a: Tensor, b: Tensor, alpha: float, backend: str | None) -> Tensor:
    if a.is_floating_point():
        return ops.lerp_rescale(a, b, alpha, backend=backend if a.element_size() < 8 else "torch")
    return (a.double() * (1 - alpha) + b.double() * alpha).round().to(a.dtype)
