"""PyTorch files that hold more than tensors, read as data: what else is in them stays closed.

`torch.load(weights_only=True)` refuses a whole file for one object of another kind, such as the
`argparse.Namespace` or the paths that training scripts save beside a state dict. Here the file's
pickle is read by a machine that imports nothing and calls nothing (`inert_pickle.py`). Its mappings
become mappings, and what `torch._utils._rebuild_tensor_v2` would have made becomes a tensor over
the bytes that the archive has for the storage:

    archive/data.pkl    ..., ("storage", torch.FloatStorage, "0", "cpu", 24), offset, shape, stride
    archive/data/0      96 bytes

Tensors are read when they are asked for: an optimizer's are not.
"""

import math
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repair_kernels.checkpoints.inert_pickle import PERSISTENT, Record, read_pickle
from repair_kernels.checkpoints.nesting import StoredTensor

STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}
MAPPINGS = ("collections.OrderedDict", "collections.defaultdict")
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
MOST_DIMENSIONS = 64
LARGEST_REPEATED = 2**28
"""How many bytes a tensor may count that repeats its storage (by strides of zero)."""


def is_archive(path: Path) -> bool:
    """Tell whether a file is of the kind that is read here: not one of before PyTorch 1.6."""
    return zipfile.is_zipfile(path)


def read(path: Path) -> tuple[Any, int]:
    """Return what a file holds, and how many tensors there are in its mappings.

    Mappings hold `StoredTensor`s; any other object is a `Record` of what would have been called.

    Raises:
        ValueError: when a tensor is not within its storage, or the archive is none of PyTorch's
        zipfile.BadZipFile: when it is damaged
    """
    return _Opened(_Archive(path)).contents()


class _Archive:
    """The records of an archive, none of which is larger than the file."""

    def __init__(self, path: Path):
        self._largest = path.stat().st_size
        self._storages: dict[str, Tensor] = {}
        self._file = zipfile.ZipFile(path)  # Open as long as there are tensors to be read.
        self._entries = {entry.filename: entry for entry in self._file.infolist()}
        pickles = [n for n in self._entries if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"an archive with {len(pickles)} records `data.pkl` in place of one")
        self._top = pickles[0].removesuffix("data.pkl")
        order = f"{self._top}byteorder"
        if order in self._entries and self._read(order) != sys.byteorder.encode():
            raise ValueError(
                f"an archive of another byte order than this machine's {sys.byteorder}"
            )

    def pickle(self) -> bytes:
        return self._read(f"{self._top}data.pkl")

    def size(self, key: str) -> int:
        """Return how many bytes a storage has."""
        return self._entry(f"{self._top}data/{key}").file_size

    def storage(self, key: str) -> Tensor:
        """Return the bytes of a storage; tensors that share one share its memory."""
        if key not in self._storages:
            data = bytearray(self._read(f"{self._top}data/{key}"))
            empty = torch.empty(0, dtype=torch.uint8)
            self._storages[key] = torch.frombuffer(data, dtype=torch.uint8) if data else empty
        return self._storages[key]

    def _read(self, name: str) -> bytes:
        entry = self._entry(name)
        data = self._file.read(entry)
        if len(data) != entry.file_size:
            raise ValueError(f"the record {name} is shorter than it says")
        return data

    def _entry(self, name: str) -> zipfile.ZipInfo:
        if name not in self._entries:
            raise ValueError(f"an archive without the record {name}")
        entry = self._entries[name]
        is_plain = entry.compress_type == zipfile.ZIP_STORED
        if not is_plain or entry.file_size != entry.compress_size:
            raise ValueError(f"the record {name} is compressed")
        if entry.header_offset + entry.file_size > self._largest:
            raise ValueError(f"the record {name} is larger than the file")
        return entry


class _Opened:
    """A pickle's values with its mappings and tensors opened, each once, whatever refers to it."""

    def __init__(self, archive: _Archive):
        self._archive = archive
        self._made: dict[int, Any] = {}
        self._waiting: list[tuple[OrderedDict, Any]] = []
        self._tensors = 0

    def contents(self) -> tuple[Any, int]:
        held = read_pickle(self._archive.pickle())
        found = self._opened(held)
        while self._waiting:  # Not by recursion: files may nest mappings deeper than Python can.
            mapping, value = self._waiting.pop()
            for key, inner in _items(value):
                mapping[key] = self._opened(inner)
            state = value.state if isinstance(value, Record) else None
            if isinstance(state, Mapping) and "_metadata" in state:
                mapping._metadata = self._opened(state["_metadata"])  # pyright: ignore[reportAttributeAccessIssue]
        return found, self._tensors

    def _opened(self, value: Any) -> Any:
        if not isinstance(value, dict | Record):
            return value
        if id(value) not in self._made:
            if isinstance(value, dict) or _is_mapping(value):
                self._made[id(value)] = OrderedDict()
                self._waiting.append((self._made[id(value)], value))
            else:
                self._made[id(value)] = self._tensor(value)
        return self._made[id(value)]

    def _tensor(self, record: Record) -> StoredTensor | Record:
        """Return the tensor that a record is of, or the record if it is of something else."""
        inner: Any = record
        if record.name in PARAMETERS and record.arguments:
            inner = record.arguments[0]
        if not isinstance(inner, Record) or inner.name != TENSOR or not inner.arguments:
            return record
        if len(inner.arguments) not in (6, 7):
            raise ValueError(f"a tensor of {len(inner.arguments)} arguments")
        storage, offset, shape, stride, *others = inner.arguments
        kind, key, length = _storage(storage)
        if kind not in STORAGES or (len(others) == 3 and others[2]):  # Or conjugated lazily.
            return record
        self._tensors += 1
        return _stored(self._archive, STORAGES[kind], key, (offset, length), shape, stride)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Record) and value.name in MAPPINGS and value.arguments is not None


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    for part in value.items() if isinstance(value, dict) else value.items:
        if not isinstance(part, tuple) or len(part) != 2:
            raise ValueError("a mapping of values without keys")
        yield part


def _storage(record: Any) -> tuple[str, str, Any]:
    """Return what kind of storage is meant, under which key, and its number of elements."""
    if isinstance(record, Record) and record.name == PERSISTENT and record.arguments:
        what, kind, key, _, length = record.arguments[0]
        if what == "storage" and isinstance(kind, Record) and isinstance(key, str):
            return kind.name, key, length
    raise ValueError("a tensor without a storage")


def _stored(
    archive: _Archive,
    dtype: torch.dtype,
    key: str,
    counts: tuple[Any, Any],
    shape: Any,
    stride: Any,
) -> StoredTensor:
    """Return a tensor whose place within its storage has been checked.

    Args:
        counts: at which element of the storage it begins, and how many the storage has
    """
    _check_counts(counts, shape, stride)
    offset, length = counts
    held = archive.size(key)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    count = math.prod(shape)
    if length * dtype.itemsize > held or (count and last >= length):
        raise ValueError(f"a tensor of shape {shape} that ends outside of its {held:,} bytes")
    if count * dtype.itemsize > max(LARGEST_REPEATED, held):
        raise ValueError(f"a tensor of shape {shape} that repeats its {held:,} bytes")

    def read_tensor() -> Tensor:
        flat = archive.storage(key)[: length * dtype.itemsize].view(dtype)
        return flat.as_strided(shape, stride, offset)

    return StoredTensor(read_tensor)


def _check_counts(counts: tuple, shape: Any, stride: Any) -> None:
    """Refuse what are no numbers of elements, and no shape and strides of a tensor."""
    both = isinstance(shape, tuple) and isinstance(stride, tuple)
    if not both or len(shape) != len(stride) or len(shape) > MOST_DIMENSIONS:
        raise ValueError("a tensor without a shape and as many strides")
    for count in (*counts, *shape, *stride):
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**62:
            raise ValueError("a tensor of sizes that are none")
