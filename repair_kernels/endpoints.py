"""Two networks and their data, checked against each other before anything is computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real

import torch
from torch import Tensor, nn

from repair_kernels.batches import Batches
from repair_kernels.digests import digest_of_tensors
from repair_kernels.errors import (
    ArchitectureMismatchError,
    ArgumentError,
    CalibrationDataError,
    NonFiniteWeightError,
    StatisticsMismatchError,
)
from repair_kernels.graph.network import (
    NetworkGraph,
    State,
    check_same_architecture,
    evaluating,
    state_of,
    trace,
)
from repair_kernels.ranks import ALONE, Ranks


def capture_pair(
    model_a: nn.Module, model_b: nn.Module, data: Batches, ranks: Ranks = ALONE
) -> NetworkGraph:
    """Check two networks and their data against each other, and capture the graph that they share.

    Args:
        ranks: who must all have the same two networks
    Raises:
        ArchitectureMismatchError, NonFiniteWeightError, CalibrationDataError, GraphCaptureError,
        StatisticsMismatchError
    """
    check_same_parameters(state_of(model_a), state_of(model_b))
    for name, model in (("a", model_a), ("b", model_b)):
        check_finite_weights(state_of(model), name)
    check_same_networks(model_a, model_b, ranks)
    check_input(model_a, data.first)
    graph = trace(model_a, data.first.to(device_of(model_a)))
    check_same_architecture(graph, trace(model_b, data.first.to(device_of(model_b))))
    return graph


@contextmanager
def preserved_rng(device: torch.device) -> Iterator[None]:
    """Leave torch's generators as they were; a DataLoader draws from them when it starts."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer."""
    return next((tensor.device for tensor in state_of(model).values()), torch.device("cpu"))


def choose_device(device: torch.device | str | None, model: nn.Module) -> torch.device:
    """Return the device that the user named, or the model's.

    Raises:
        ArgumentError: when this machine has no such device.
    """
    if device is None:
        return device_of(model)
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        cause = str(error).strip().splitlines()
        raise ArgumentError(
            f"`device` must name a device of this machine, such as 'cpu'; got {device!r}: "
            f"{cause[0] if cause else type(error).__name__}"
        ) from error


def check_same_parameters(state_a: State, state_b: State) -> None:
    """Check that two weight sets have the same names, shapes and dtypes.

    Raises:
        ArchitectureMismatchError: naming the first differences.
    """
    only_a, only_b = (
        sorted(state_a.keys() - state_b.keys()),
        sorted(state_b.keys() - state_a.keys()),
    )
    if only_a or only_b:
        named = [
            f"only in {n}: {', '.join(only[:3])}"
            for n, only in (("a", only_a), ("b", only_b))
            if only
        ]
        raise ArchitectureMismatchError(
            f"the two networks must have the same parameters and buffers; {'; '.join(named)}; "
            "build both with the same code"
        )
    for name, tensor in state_a.items():
        if tensor.shape != state_b[name].shape:
            raise ArchitectureMismatchError(
                f"the two networks must have tensors of the same shapes; {name!r} is "
                f"{tuple(tensor.shape)} in network a "
                f"and {tuple(state_b[name].shape)} in network b; merge networks of one width"
            )
        if tensor.dtype != state_b[name].dtype:
            raise ArchitectureMismatchError(
                f"the two networks must have tensors of the same dtypes; {name!r} is "
                f"{tensor.dtype} in network a and {state_b[name].dtype} in network b; convert one "
                "of them"
            )


def check_same_networks(model_a: nn.Module, model_b: nn.Module, ranks: Ranks) -> None:
    """Check that all ranks have the same weights: a seed that was forgotten would not show later.

    Raises:
        StatisticsMismatchError: naming the network and the rank
    """
    if ranks.size == 1:
        return
    digests = tuple(digest_of_tensors(state_of(model)) for model in (model_a, model_b))
    for rank, theirs in enumerate(everyone := ranks.exchange("weights", digests)):
        for name, one, first in zip("ab", theirs, everyone[0], strict=True):
            if one != first:
                raise StatisticsMismatchError(
                    f"all ranks must have the same two networks; the weights of {name} on rank "
                    f"{rank} are not those on rank 0; load them from one checkpoint, or set the "
                    "same seed before they are made"
                )


def check_finite_weights(state: State, network: str) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        NonFiniteWeightError: naming the network and the tensor.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NonFiniteWeightError(
                f"weights must be finite; {name!r} of network {network} has NaN or infinity; use "
                "a sound checkpoint"
            )


def check_input(model: nn.Module, batch: Tensor) -> None:
    """Check that a network can be fed with the data.

    Raises:
        CalibrationDataError: with the shape that came and the network's own message.
    """
    if len(batch) == 0:
        return
    with evaluating(model), torch.no_grad():
        try:
            # A forward that counts its calls would count this one, too: it gets its own buffers.
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            inputs = batch[:1].clone().to(device_of(model))
            torch.func.functional_call(model, buffers, (inputs,))
        except Exception as error:
            cause = str(error).strip().splitlines()
            raise CalibrationDataError(
                "`batches` must hold inputs that the network takes; it refuses an input of shape "
                f"{tuple(batch.shape)} and "
                f"{batch.dtype}: {type(error).__name__}: {cause[0] if cause else ''}; check "
                "shape, channels and dtype"
            ) from error


def check_alpha(alpha: float) -> float:
    """Return alpha as a float.

    Raises:
        ArgumentError: when it is not a number in [0, 1].
    """
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 <= float(alpha) <= 1:
        raise ArgumentError(
            f"`alpha` must be a number in [0, 1], the weight of network b; got {alpha!r}; take "
            "one between network a (0) and network b (1), such as 0.5"
        )
    return float(alpha)
