"""Folders of `torch.distributed.checkpoint` (DCP), read without its unpickler.

`.metadata` is a pickle that says which tensors there are, of which chunks, and where in which file
each chunk lies; PyTorch reads it with `pickle.load`, which would run what a hostile one holds. Here
it is read as data (`inert_pickle.py`). The chunks are read as any PyTorch file is, weights only.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repair_kernels.checkpoints.formats import check_unpacked_size
from repair_kernels.checkpoints.inert_pickle import Record, read_pickle
from repair_kernels.checkpoints.nesting import StoredTensor
from repair_kernels.errors import CheckpointError

METADATA = ".metadata"
LARGEST_METADATA = 2**30
_Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stretch:
    """Some bytes of a file, which are a file as `torch.save` writes it."""

    file: Path
    start: int
    length: int

    def read(self, shape: _Shape) -> Tensor:
        """Read the tensor in it, which must be of this shape; nothing of the file is run."""
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            data = io.BytesIO(stream.read(self.length))
        check_unpacked_size(data, self.length, str(self.file))
        data.seek(0)
        tensor = torch.load(data, map_location="cpu", weights_only=True)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"a chunk in {self.file.name} is {found}, not of shape {shape}")
        if tensor.layout != torch.strided or tensor.nbytes > self.length:
            raise ValueError(f"a chunk in {self.file.name} holds less than its shape says")
        return tensor.detach()


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder is one that `torch.distributed.checkpoint` wrote."""
    return (folder / METADATA).is_file()


def read(folder: Path) -> dict[str, Any]:
    """Return what was saved, nested as it was; tensors are left in their files, to be read later.

    Raises:
        CheckpointError: when a file is missing, lies outside of the folder, or is compressed
        ValueError, LookupError, TypeError, AttributeError: when the metadata are no such metadata
    """
    path = folder / METADATA
    if path.stat().st_size > LARGEST_METADATA:
        raise ValueError(f"{METADATA} has more than {LARGEST_METADATA:,} bytes")
    metadata = read_pickle(path.read_bytes()).state
    stretches = _stretches(folder, metadata["storage_data"])
    paths = metadata.get("planner_data")
    found: dict[str, Any] = {}
    for name, entry in metadata["state_dict_metadata"].items():
        value = entry
        if isinstance(entry.state, Mapping) and "chunks" in entry.state:
            value = _stored(name, entry.state, stretches)
        keys = paths.get(name) if isinstance(paths, Mapping) else None
        _put(found, keys or (name,), value)
    return found


def _stretches(folder: Path, storage: Mapping[Record, Record]) -> dict[tuple, Stretch]:
    """Return by name and offset where each chunk lies, each in a stretch of a file of its own."""
    found: dict[tuple, Stretch] = {}
    used: dict[Path, int] = {}
    for index, info in storage.items():
        if index.state.get("offset") is None:  # A value that is no tensor.
            continue
        if info.state.get("transform_descriptors"):
            raise CheckpointError(
                f"expected the files in {folder} to be as `torch.distributed.checkpoint` writes "
                f"them by default, but {info.state['relative_path']} is compressed or encoded; "
                "save the checkpoint again without extensions"
            )
        file = _file(folder, info.state["relative_path"])
        stretch = Stretch(file, _count(info.state["offset"]), _count(info.state["length"]))
        used[file] = used.get(file, 0) + stretch.length
        if max(stretch.start + stretch.length, used[file]) > file.stat().st_size:
            raise ValueError(f"{file.name} is shorter than {METADATA} says")
        found[index.state["fqn"], _sizes(index.state["offset"])] = stretch
    return found


def _stored(name: str, fields: Mapping[str, Any], stretches: Mapping[tuple, Stretch]) -> Any:
    shape = _sizes(fields["size"])
    chunks = []
    for chunk in fields["chunks"]:
        offset, own = _sizes(chunk.state["offsets"]), _sizes(chunk.state["sizes"])
        region = tuple(slice(o, o + n) for o, n in zip(offset, own, strict=True))
        if any(r.stop > n for r, n in zip(region, shape, strict=True)):
            raise ValueError(f"a chunk of {name!r} ends outside of it")
        chunks.append((region, own, stretches[name, offset]))
    if sum(math.prod(own) for _, own, _ in chunks) != math.prod(shape):
        raise ValueError(f"the chunks of {name!r} do not make up a tensor of shape {shape}")
    return StoredTensor(lambda: _joined(name, shape, chunks))


def _joined(name: str, shape: _Shape, chunks: Sequence[tuple[tuple, _Shape, Stretch]]) -> Tensor:
    """Read the chunks of a tensor; memory is asked for when all of them are there."""
    parts = [(region, stretch.read(own)) for region, own, stretch in chunks]
    if len(parts) == 1:
        return parts[0][1]
    whole = torch.empty(shape, dtype=parts[0][1].dtype)
    filled = torch.zeros(shape, dtype=torch.bool)
    for region, part in parts:
        whole[region] = part
        filled[region] = True
    if not filled.all():
        raise ValueError(f"the chunks of {name!r} overlap")
    return whole


def _file(folder: Path, name: Any) -> Path:
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise CheckpointError(
            f"expected {folder / METADATA} to name files beside it, but it names {name!r}; copy "
            "the whole folder again"
        )
    if not (folder / name).is_file():
        raise CheckpointError(
            f"expected {folder / name}, as {METADATA} says, but it is not there; copy the whole "
            "folder again"
        )
    return folder / name


def _sizes(value: Any) -> _Shape:
    """Return the numbers of what would have been a `torch.Size`."""
    numbers = value if isinstance(value, tuple) else value.arguments[0]
    return tuple(map(_count, numbers))


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        raise ValueError(f"{value!r} is no size and no offset")
    return value


def _put(target: dict[Any, Any], path: Sequence[Any], value: Any) -> None:
    *outer, last = path
    for key in outer:
        target = target.setdefault(key, {})
    target[last] = value
