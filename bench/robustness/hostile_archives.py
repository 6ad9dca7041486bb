"""PyTorch files that hold other objects beside tensors that lie about their storage."""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from bench.robustness.hostile import BURST, DEEP, Payload, torch_files

FOREIGN = {"options": argparse.Namespace(lr=0.1)}
"""What `torch.load(weights_only=True)` refuses a file for, when it comes to it: so put it first."""
FLOATS = (torch.FloatStorage, "0", 6)
SOUND = (FLOATS, 0, (2, 3), (3, 1))
LIES: dict[str, tuple] = {
    "begins behind the end": (FLOATS, 6, (1,), (1,)),
    "ends behind the end": (FLOATS, 1, (2, 3), (3, 1)),
    "strides of a terabyte": (FLOATS, 0, (2, 3), (2**38, 1)),
    "a terabyte of one number": (FLOATS, 0, (2**40,), (0,)),
    "a shape that overflows": (FLOATS, 0, (2**33, 2**33), (0, 0)),
    "a negative size": (FLOATS, 0, (-1,), (1,)),
    "a negative stride": (FLOATS, 5, (6,), (-1,)),
    "a negative offset": (FLOATS, -1, (6,), (1,)),
    "a thousand dimensions": (FLOATS, 0, (1,) * 1000, (1,) * 1000),
    "more strides than sizes": (FLOATS, 0, (2,), (3, 1)),
    "text for a size": (FLOATS, 0, ("6",), (1,)),
    "a number for a shape": (FLOATS, 0, 6, 1),
    "a storage that is too long": ((torch.FloatStorage, "0", 2**40), 0, (2**40,), (1,)),
    "a storage of larger numbers": ((torch.DoubleStorage, "0", 6), 0, (6,), (1,)),
    "a storage that is not there": ((torch.FloatStorage, "7", 6), 0, (6,), (1,)),
    "a storage outside": ((torch.FloatStorage, "../../../etc/passwd", 6), 0, (6,), (1,)),
    "a storage without a length": ((torch.FloatStorage, "0", None), 0, (6,), (1,)),
}
"""By what is wrong: storage (kind, key, length), offset, shape, strides; six floats are there."""


class Told:
    """Its pickle is what PyTorch writes for a tensor of these numbers.

    Args:
        storage: its class, its key in the archive, its number of elements
        place: offset, shape, strides
    """

    def __init__(self, storage: tuple, *place: Any):
        self._storage, self._place = _Storage(storage), place

    def __reduce__(self) -> tuple:
        return torch._utils._rebuild_tensor_v2, (self._storage, *self._place, False, {})  # pyright: ignore[reportAttributeAccessIssue]


class _Storage:
    def __init__(self, said: tuple):
        kind, key, length = said
        self.said = ("storage", kind, key, "cpu", length)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> tuple | None:
        return obj.said if isinstance(obj, _Storage) else None


def archive(
    contents: Any,
    storage: bytes = bytes(range(24)),
    *,
    compression: int = zipfile.ZIP_STORED,
    pickled: bytes | None = None,
    byteorder: bytes = b"little",
) -> bytes:
    """Return a PyTorch file.

    Args:
        contents: what it holds; tensors are `Told`
        storage: the bytes of storage "0"
        compression: of the storage
        pickled: in place of the contents' pickle
    """
    written = io.BytesIO()
    _Pickler(written, protocol=2).dump(contents)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("archive/data.pkl", pickled or written.getvalue())
        file.writestr("archive/byteorder", byteorder)
        file.writestr("archive/data/0", storage, compression)
        file.writestr("archive/version", b"3\n")
    return made.getvalue()


def archives(trap: Path) -> dict[str, bytes]:
    """Return such files, and those of `torch_files`."""
    files = {name: archive({**FOREIGN, "weight": Told(*lie)}) for name, lie in LIES.items()}
    state = {"weight": Told(*SOUND)}
    payload = Payload(exec, f"open({str(trap)!r}, 'w').close()")
    files["code beside a state dict"] = archive({"options": payload, "state_dict": state})
    deep: dict = state
    for _ in range(400):
        deep = {**FOREIGN, "model": deep}
    files["deep mappings"] = archive(deep)
    loop: dict = {**FOREIGN, "weight": Told(*SOUND)}
    loop["model"] = loop
    files["a mapping in itself"] = archive(loop)
    nested = b"\x80\x02" + b"}U\x01a" * DEEP + b"N" + b"s" * DEEP + b"."
    files["mappings deeper than Python can"] = archive({}, pickled=nested)
    said_once = b"\x80\x02]q\x00(" + b"K\x01" * DEEP + b"e"
    taken_often = b"ccollections\nOrderedDict\nh\x00R"
    files["arguments taken often"] = archive({}, pickled=said_once + taken_often * DEEP + b".")
    files["bomb beside objects"] = archive(
        {**FOREIGN, "state_dict": state}, bytes(BURST), compression=zipfile.ZIP_DEFLATED
    )
    return {**torch_files(trap), **files}
