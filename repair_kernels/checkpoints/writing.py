"""State dicts to files, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from repair_kernels.atomic import atomic_path
from repair_kernels.checkpoints.messages import first_line, unknown_suffix
from repair_kernels.checkpoints.nesting import check_state
from repair_kernels.checkpoints.versions import (
    METADATA_KEY,
    VERSIONS_KEY,
    versions_of,
    with_versions,
)
from repair_kernels.errors import CheckpointError

SAFETENSORS_SUFFIX = ".safetensors"
WRITTEN_SUFFIXES = (".pt", ".pth", ".th", ".bin", SAFETENSORS_SUFFIX)


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
        path: the file; its suffix (one of `WRITTEN_SUFFIXES`) says the format
        metadata: notes to put into the file, text by text; `.safetensors` has them in its header,
            a PyTorch file in the state dict's `_metadata`, under `METADATA_KEY`; `load_metadata`
            reads them

    Raises:
        CheckpointError: when `state` is no state dict, the suffix is unknown, or the file cannot be
            written; what lay at `path` is then as before
    """
    path = Path(path)
    check_suffix(path)
    check_state(state, "`state`")
    versions = versions_of(state)
    notes = {str(key): str(value) for key, value in (metadata or {}).items()}
    try:
        tensors = dict(_standalone(state))
        with atomic_path(path) as temporary:
            if path.suffix == SAFETENSORS_SUFFIX:
                header = {VERSIONS_KEY: json.dumps(versions)} if versions else {}
                safetensors.torch.save_file(tensors, temporary, metadata={**header, **notes})
            else:
                versions |= {METADATA_KEY: notes} if notes else {}
                torch.save(with_versions(tensors, versions), temporary)
    except (OSError, RuntimeError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"expected to write a checkpoint to {path}, but that failed: {first_line(error)}; "
            "check that its folder exists and has room, and that every tensor is dense; nothing "
            "was changed there"
        ) from error


def check_suffix(path: Path) -> None:
    """Check that a file's name says a format that is written.

    Raises:
        CheckpointError: when it does not
    """
    if path.suffix not in WRITTEN_SUFFIXES:
        raise unknown_suffix(path, WRITTEN_SUFFIXES, "write")


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
