"""State dicts into models: entry by entry, and nothing if one does not fit."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from repair_kernels.checkpoints.nesting import prefixes_in, under_prefix
from repair_kernels.checkpoints.versions import versions_of, with_versions
from repair_kernels.errors import ArchitectureMismatchError, NonFiniteWeightError

NAMES_SHOWN = 5
COUNTER = "num_batches_tracked"


def load_into(model: nn.Module, state: Mapping[str, Tensor], *, name: str) -> None:
    """Copy a state dict into a model, which must have the same entries of the same shapes.

    Missing `num_batches_tracked` counters stay as they are in the model; so does a second name of a
    tensor whose first name is there. Where `state` has no `_metadata`, the model's own versions
    hold, so that no module takes the state dict for one of an older version.

    Where names are missing, but all are there behind one prefix (a network within a module of
    PyTorch Lightning: `model.conv1.weight`), they are taken from there. Other entries are then left
    aside, if none can be meant for the model: if none has the prefix's or the model's top-level
    names.

    Args:
        model: changed in place, unless an error is raised
        state: tensors by name
        name: what messages call the network ("network a")

    Raises:
        ArchitectureMismatchError: when entries are missing or superfluous, or shapes or kinds of
            number differ, or all names are there behind several prefixes; the message names them
        NonFiniteWeightError: when an entry holds NaN or infinity
    """
    current = model.state_dict()
    tensors = {key: value for key, value in current.items() if isinstance(value, Tensor)}
    expected = f"expected a state dict of {name}'s architecture ({type(model).__name__}), but "
    prefixes = _prefixes(tensors, state)
    if len(prefixes) > 1:
        raise ArchitectureMismatchError(
            f"{expected}its names are there behind several prefixes: {_listed(prefixes)}; choose "
            "one with `key`, behind the key of the state dict if it has one, such as "
            f"key='state_dict.{prefixes[0].removesuffix('.')}'"
        )
    if prefixes and not _may_be_meant(tensors, state, prefixes[0]):
        state = under_prefix(state, prefixes[0])
    problems = _differences(tensors, state)
    if problems:
        raise ArchitectureMismatchError(
            f"{expected}{'; '.join(problems)}; build the model as the checkpoint's network was "
            "built, or take the checkpoint that belongs to it"
        )
    check_finite(state, name=name)
    model.load_state_dict(
        with_versions(state, versions_of(state) or versions_of(current)), strict=False
    )


def check_finite(state: Mapping[str, Tensor], *, name: str) -> None:
    """Raise an error if a tensor of a state dict holds NaN or infinity.

    Args:
        state: tensors by name
        name: what the message calls the network ("network a")

    Raises:
        NonFiniteWeightError: naming the first such tensor and how many of its values are not finite
    """
    for key, tensor in state.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        finite = torch.isfinite(tensor)
        if not finite.all():
            raise NonFiniteWeightError(
                f"expected finite weights, but `{key}` of {name} holds NaN or infinity in "
                f"{int((~finite).sum())} of its {tensor.numel()} values; take a checkpoint from "
                "before the training diverged"
            )


def _prefixes(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Return behind which prefixes all of a model's names are, where they are not there as such."""
    if not _missing(expected, state):
        return []
    tied: dict[tuple[Any, ...], list[str]] = {}
    for key, tensor in expected.items():
        if not key.endswith(COUNTER):
            tied.setdefault(_identity(tensor), []).append(key)
    return [
        prefix
        for prefix in prefixes_in(state)
        if all(any(prefix + key in state for key in keys) for keys in tied.values())
    ]


def _may_be_meant(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str) -> bool:
    """Tell whether an entry that is not behind a prefix may be meant for the model after all."""
    own = {key.partition(".")[0] for key in (prefix, *expected)}
    return any(not key.startswith(prefix) and key.partition(".")[0] in own for key in state)


def _missing(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Return the names that `state` lacks, but for those that may be absent."""
    present = {_identity(tensor) for key, tensor in expected.items() if key in state}
    return [
        key
        for key, tensor in expected.items()
        if key not in state and not key.endswith(COUNTER) and _identity(tensor) not in present
    ]


def _differences(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Say in words what `state` lacks, has too much, or has in another shape."""
    extra = [key for key in state if key not in expected]
    both = [(key, expected[key], state[key]) for key in expected if key in state]
    shapes = [
        f"{key} ({tuple(own.shape)} in the model, {tuple(new.shape)} in the state dict)"
        for key, own, new in both
        if own.shape != new.shape
    ]
    kinds = [
        f"{key} ({own.dtype} in the model, {new.dtype} in the state dict)"
        for key, own, new in both
        if own.is_floating_point() and not new.is_floating_point()
    ]
    return [
        f"{words}: {_listed(keys)}"
        for words, keys in (
            ("it lacks", _missing(expected, state)),
            ("the model has no", extra),
            ("shapes differ for", shapes),
            ("types differ for", kinds),
        )
        if keys
    ]


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two names of one tensor have in common, and two tensors have not."""
    if tensor.numel() == 0 or tensor.is_meta:
        return (id(tensor),)
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)


def _listed(keys: list[str]) -> str:
    shown = ", ".join(keys[:NAMES_SHOWN])
    return shown if len(keys) <= NAMES_SHOWN else f"{shown} and {len(keys) - NAMES_SHOWN} more"
