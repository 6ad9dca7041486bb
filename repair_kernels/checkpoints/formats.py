"""One reader per format of a single file; what a file says of its own size is not trusted."""

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from repair_kernels.checkpoints import torch_archive
from repair_kernels.checkpoints.messages import unknown_suffix
from repair_kernels.checkpoints.versions import METADATA_KEY, VERSIONS_KEY, with_versions
from repair_kernels.errors import CheckpointError

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")
SAFETENSORS_SUFFIX = ".safetensors"
NUMPY_SUFFIX = ".npz"
SUFFIXES = (*TORCH_SUFFIXES, SAFETENSORS_SUFFIX, NUMPY_SUFFIX)
MOST_UNPACKED = 100
"""How many times its own size an archive may unpack to, from `LEAST_LIMITED` bytes on."""
LEAST_LIMITED = 2**28


def reader(path: Path) -> Callable[[Path], Any]:
    """Return the function that reads this kind of file; refuse what is no file with contents.

    Raises:
        CheckpointError: when there is no such file, it is empty, or of an unknown kind
    """
    readers = dict.fromkeys(TORCH_SUFFIXES, _read_torch)
    readers |= {SAFETENSORS_SUFFIX: _read_safetensors, NUMPY_SUFFIX: _read_numpy}
    if path.suffix not in readers:
        raise unknown_suffix(path, SUFFIXES, "read")
    if path.stat().st_size == 0:
        raise CheckpointError(
            f"expected a checkpoint at {path}, but the file is empty; copy or save it again"
        )
    return readers[path.suffix]


def metadata_of(path: Path) -> dict[str, str]:
    """Return the notes in a file, text by text, without the modules' versions."""
    if path.suffix == SAFETENSORS_SUFFIX:
        with safetensors.safe_open(path, framework="pt") as file:
            notes = dict(file.metadata() or {})
    else:
        versions = getattr(reader(path)(path), "_metadata", None)
        notes = versions.get(METADATA_KEY) if isinstance(versions, Mapping) else None
    if not isinstance(notes, Mapping):
        return {}
    return {str(key): str(value) for key, value in notes.items() if key != VERSIONS_KEY}


def _read_torch(path: Path) -> Any:
    check_unpacked_size(path, path.stat().st_size, str(path))
    try:
        with warnings.catch_warnings():  # What PyTorch does not know of a pickle is read below.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        found = _read_beside_objects(path)
        if found is None:
            raise
        return found


def _read_beside_objects(path: Path) -> Any:
    """Return what a file holds beside objects that are never loaded; None where no tensor is."""
    if not torch_archive.is_archive(path):
        return None
    contents, tensors = torch_archive.read(path)
    return contents if tensors else None


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        versions = (file.metadata() or {}).get(VERSIONS_KEY)
    return with_versions(tensors, json.loads(versions)) if versions else tensors


def _read_numpy(path: Path) -> Mapping[str, Tensor]:
    check_unpacked_size(path, path.stat().st_size, str(path))
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}


def check_unpacked_size(file: Path | io.BytesIO, packed: int, place: str) -> None:
    """Refuse an archive that unpacks to far more than it is.

    Args:
        file: a zip archive, or anything else, which is left alone
        packed: its size in bytes
        place: what messages call it
    Raises:
        CheckpointError: it does
    """
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > max(LEAST_LIMITED, MOST_UNPACKED * packed):
        raise CheckpointError(
            f"expected {place} to unpack to at most {MOST_UNPACKED} times its size, but its "
            f"{packed:,} bytes unpack to {unpacked:,}; if it is yours, save it uncompressed"
        )
