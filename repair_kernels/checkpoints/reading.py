"""State dicts from files and folders, without running any code of theirs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repair_kernels.checkpoints import distributed, sharded
from repair_kernels.checkpoints.formats import SUFFIXES, metadata_of, reader
from repair_kernels.checkpoints.messages import unreadable
from repair_kernels.checkpoints.nesting import find_state, unwrapped
from repair_kernels.checkpoints.versions import versions_of, with_versions
from repair_kernels.errors import CheckpointError


def load_state_dict(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """Read the state dict that a checkpoint holds, without running any code of the file.

    Of a PyTorch file, objects other than tensors and plain containers (a script's options, paths)
    are left closed; a file of before PyTorch 1.6 that holds some is refused.

    A state dict nested under one of `NESTINGS` is unwrapped, and the prefixes of wrapper modules
    (`module.`) are removed.

    Args:
        path: a file (`.pt` `.pth` `.th` `.bin` `.ckpt` `.tar` `.safetensors` `.npz`), the index of
            a sharded one (`model.safetensors.index.json`), or a folder that holds one of those or
            is a checkpoint of `torch.distributed.checkpoint`
        key: which state dict to take where the file has several, such as "ema" or "ema.module"
        device: where the tensors shall lie

    Returns:
        The tensors by name. The modules' state-dict versions come with them as `_metadata`, where
        the file has them, as with `Module.state_dict`.

    Raises:
        CheckpointError: when the file is absent, empty, broken, of an unknown kind, or holds no
            state dict, or several and no `key` says which
    """
    path = _located(Path(path))
    state = find_state(_contents(path), str(path), key)
    entries, versions = unwrapped(state, versions_of(state))
    try:
        tensors = {
            name: (entry if isinstance(entry, Tensor) else entry.read()).detach().to(device)
            for name, entry in entries.items()
        }
    except CheckpointError:
        raise
    except Exception as error:
        raise unreadable(path, error) from error
    return with_versions(tensors, versions)


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the notes in a checkpoint: what `save_state_dict(..., metadata=...)` wrote.

    Args:
        path: as in `load_state_dict`
    Returns:
        text by text; empty where the file has none
    Raises:
        CheckpointError: as `load_state_dict`
    """
    path = _located(Path(path))
    if path.is_dir() or sharded.is_index(path) or path.suffix not in SUFFIXES:
        return {}
    try:
        return metadata_of(path)
    except CheckpointError:
        raise
    except Exception as error:
        raise unreadable(path, error) from error


def _contents(path: Path) -> Any:
    """Return what a file holds, or a folder; tensors of a folder may be left where they are."""
    if path.is_dir():
        read: Any = distributed.read
    elif sharded.is_index(path):
        read = _read_sharded
    else:
        read = reader(path)
    try:
        return read(path)
    except CheckpointError:
        raise
    except Exception as error:  # a broken or hostile file may fail anywhere in its reader
        raise unreadable(path, error) from error


def _read_sharded(index: Path) -> Mapping[str, Any]:
    return sharded.read(index, lambda shard: reader(shard)(shard))


def _located(path: Path) -> Path:
    """Return the file that a path stands for: itself, or what its folder holds."""
    if not path.exists():
        raise CheckpointError(
            f"expected a checkpoint at {path}, but nothing is there; check the path"
        )
    if not path.is_dir() or distributed.is_checkpoint(path):
        return path
    indexes = sorted(inner for inner in path.iterdir() if sharded.is_index(inner))
    files = sorted(inner for inner in path.iterdir() if inner.suffix in SUFFIXES)
    for found in (indexes, files):
        if len(found) == 1:
            return found[0]
    listed = ", ".join(inner.name for inner in (indexes or files)[:5]) or "none of these"
    raise CheckpointError(
        f"expected a checkpoint in the folder {path}: one file, an index of shards, or what "
        f"`torch.distributed.checkpoint` writes; but it holds {listed}; name a file in it"
    )
