"""State dicts in files: read without running any code of theirs, written whole or not at all.

Read:    `.pt` `.pth` `.th` `.bin` (PyTorch, weights only), `.safetensors`, `.npz`
Written: `.pt` `.pth` `.th` `.bin`, `.safetensors`
"""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from repair_kernels.atomic import atomic_path
from repair_kernels.errors import ArchitectureMismatchError, CheckpointError, NonFiniteWeightError

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin")
SAFETENSORS_SUFFIX = ".safetensors"
NUMPY_SUFFIX = ".npz"
# Where training scripts nest a state dict, in the order in which they are tried.
NESTINGS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "ema")
# What `DataParallel`, `DistributedDataParallel` and `torch.compile` put before every name.
WRAPPERS = ("module.", "_orig_mod.")
# The key of a safetensors header under which the modules' state-dict versions lie.
VERSIONS_KEY = "state_dict_versions"
# The key beside the modules' versions under which a PyTorch file keeps `metadata`.
METADATA_KEY = "repair_kernels.metadata"
NAMES_SHOWN = 5


def load_state_dict(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu"
) -> dict[str, Tensor]:
    """Read the state dict that a checkpoint holds, without running any code of the file.

    A state dict nested under one of `NESTINGS` is unwrapped, and the prefixes of wrapper modules
    (`module.`) are removed.

    Args:
        path: a file with a suffix of `TORCH_SUFFIXES`, `.safetensors` or `.npz`
        device: where the tensors shall lie

    Returns:
        The tensors by name. The modules' state-dict versions come with them as `_metadata`, where
        the file has them, as with `Module.state_dict`.

    Raises:
        CheckpointError: when the file is absent, a folder, empty, broken, of an unknown kind, holds
            Python objects other than tensors and plain containers, or holds no state dict
    """
    path = Path(path)
    read = _reader(path)
    try:
        contents = read(path)
    except Exception as error:  # a broken or hostile file may fail anywhere in its reader
        raise _unreadable(path, error) from error
    state = _unwrap(contents, path)
    versions = _versions(state)
    while prefix := next((p for p in WRAPPERS if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
        versions = _strip(versions, prefix)
    return _state_dict({key: value.detach().to(device) for key, value in state.items()}, versions)


def save_state_dict(
    state: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a state dict to a file, whole or not at all.

    Tensors are written contiguous and on their own: two names of one tensor become two equal
    tensors, a view does not take its base along. `_metadata` is kept.

    Args:
        state: tensors by name
        path: the file; its suffix (one of `TORCH_SUFFIXES`, or `.safetensors`) says the format
        metadata: notes to put into the file, text by text; `.safetensors` has them in its header,
            a PyTorch file in the state dict's `_metadata`, under `METADATA_KEY`

    Raises:
        CheckpointError: when `state` is no state dict, the suffix is unknown, or the file cannot be
            written; what lay at `path` is then as before
    """
    path = Path(path)
    if path.suffix not in (*TORCH_SUFFIXES, SAFETENSORS_SUFFIX):
        raise _unknown_suffix(path, (*TORCH_SUFFIXES, SAFETENSORS_SUFFIX), "write")
    _check_state(state, "`state`")
    versions = _versions(state)
    notes = {str(key): str(value) for key, value in (metadata or {}).items()}
    try:
        tensors = dict(_standalone(state))
        with atomic_path(path) as temporary:
            if path.suffix == SAFETENSORS_SUFFIX:
                header = {VERSIONS_KEY: json.dumps(versions)} if versions else {}
                safetensors.torch.save_file(tensors, temporary, metadata={**header, **notes})
            else:
                versions |= {METADATA_KEY: notes} if notes else {}
                torch.save(_state_dict(tensors, versions), temporary)
    except (OSError, RuntimeError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"expected to write a checkpoint to {path}, but that failed: {_first_line(error)}; "
            "check that its folder exists and has room, and that every tensor is dense; nothing "
            "was changed there"
        ) from error


def load_into(model: nn.Module, state: Mapping[str, Tensor], *, name: str) -> None:
    """Copy a state dict into a model, which must have the same entries of the same shapes.

    Missing `num_batches_tracked` counters stay as they are in the model; so does a second name of a
    tensor whose first name is there. Where `state` has no `_metadata`, the model's own versions
    hold, so that no module takes the state dict for one of an older version.

    Args:
        model: changed in place, unless an error is raised
        state: tensors by name
        name: what messages call the network ("network a")

    Raises:
        ArchitectureMismatchError: when entries are missing or superfluous, or shapes or kinds of
            number differ; the message names them
        NonFiniteWeightError: when an entry holds NaN or infinity
    """
    current = model.state_dict()
    tensors = {key: value for key, value in current.items() if isinstance(value, Tensor)}
    problems = _differences(tensors, state)
    if problems:
        raise ArchitectureMismatchError(
            f"expected a state dict of {name}'s architecture ({type(model).__name__}), but "
            f"{'; '.join(problems)}; build the model as the checkpoint's network was built, or "
            "take the checkpoint that belongs to it"
        )
    check_finite(state, name=name)
    model.load_state_dict(_state_dict(state, _versions(state) or _versions(current)), strict=False)


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


def _reader(path: Path) -> Callable[[Path], Any]:
    """Return the function that reads this kind of file; refuse what is no file with contents."""
    readers = dict.fromkeys(TORCH_SUFFIXES, _read_torch)
    readers |= {SAFETENSORS_SUFFIX: _read_safetensors, NUMPY_SUFFIX: _read_numpy}
    if not path.exists():
        raise CheckpointError(
            f"expected a checkpoint at {path}, but nothing is there; check the path"
        )
    if not path.is_file():
        raise CheckpointError(
            f"expected a checkpoint file at {path}, but that is a folder; name a file in it"
        )
    if path.suffix not in readers:
        raise _unknown_suffix(path, tuple(readers), "read")
    if path.stat().st_size == 0:
        raise CheckpointError(
            f"expected a checkpoint at {path}, but the file is empty; copy or save it again"
        )
    return readers[path.suffix]


def _read_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        versions = (file.metadata() or {}).get(VERSIONS_KEY)
    return _state_dict(tensors, json.loads(versions)) if versions else tensors


def _read_numpy(path: Path) -> Mapping[str, Tensor]:
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}


def _unwrap(contents: Any, path: Path) -> Mapping[str, Tensor]:
    """Go down the usual nestings to the mapping whose values are tensors."""
    for _ in NESTINGS:  # a hostile file may nest a mapping in itself
        inner = contents if isinstance(contents, Mapping) else {}
        found = (inner[key] for key in NESTINGS if isinstance(inner.get(key), Mapping))
        contents = next(found, contents)
    _check_state(contents, str(path))
    return contents


def _check_state(state: Any, place: str) -> None:
    advice = "save what `model.state_dict()` returns"
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"expected {place} to hold a state dict (tensors by name), but it holds a value of "
            f"type {type(state).__name__}; {advice}"
        )
    if not state:
        raise CheckpointError(
            f"expected {place} to hold a state dict (tensors by name), but it is empty; {advice}"
        )
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"expected {place} to hold a state dict (tensors by name), but its entry {key!r} "
                f"is of type {type(value).__name__}; {advice}"
            )


def _versions(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the modules' state-dict versions that come with a state dict, by module."""
    versions = getattr(state, "_metadata", None)
    if not isinstance(versions, Mapping):
        return {}
    return {
        key: dict(value)
        for key, value in versions.items()
        if isinstance(key, str) and isinstance(value, Mapping) and key != METADATA_KEY
    }


def _state_dict(tensors: Mapping[str, Tensor], versions: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return tensors as `Module.state_dict` would: ordered, and with the modules' versions."""
    state = OrderedDict(tensors)
    if versions:
        state._metadata = OrderedDict(versions)  # pyright: ignore[reportAttributeAccessIssue]
    return state


def _strip(versions: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Remove a wrapper's prefix from the names of the modules whose versions are given."""
    wrapper = prefix.removesuffix(".")
    stripped = {key.removeprefix(prefix): value for key, value in versions.items() if key}
    return {("" if key == wrapper else key): value for key, value in stripped.items()}


def _standalone(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor contiguous, on the CPU, and alone in its storage."""
    seen = set()
    for key, tensor in state.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        whole = storage.nbytes() == plain.numel() * plain.element_size()
        if storage.data_ptr() in seen or not whole:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        yield key, plain


def _differences(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Say in words what `state` lacks, has too much, or has in another shape."""
    present = {_identity(tensor) for key, tensor in expected.items() if key in state}
    missing = [
        key
        for key, tensor in expected.items()
        if key not in state
        and not key.endswith("num_batches_tracked")
        and _identity(tensor) not in present
    ]
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
            ("it lacks", missing),
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


def _unknown_suffix(path: Path, suffixes: tuple[str, ...], verb: str) -> CheckpointError:
    return CheckpointError(
        f"expected a checkpoint to {verb} with one of the suffixes {', '.join(suffixes)}, but got "
        f"{path}; rename the file by its format"
    )


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    refused = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
    if refused:
        return CheckpointError(
            f"expected {path} to hold tensors only, but it holds Python objects "
            f"({refused.group(1)}), which could run code and are never loaded; save the state dict "
            "alone: torch.save(model.state_dict(), path)"
        )
    return CheckpointError(
        f"expected {path} to be a whole {path.suffix} file, but reading it failed "
        f"({type(error).__name__}: {_first_line(error)}); copy or save it again"
    )


def _first_line(error: Exception) -> str:
    """Return the reason an error gives, without PyTorch's advice to run the file's code."""
    reason = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return re.split(r"\. In PyTorch|\n", reason)[0] or type(error).__name__
