"""Files that were made to harm: payloads that would run, archives that burst, sizes that lie."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

BURST = 2**29
"""What the bombs unpack to."""
DEEP = 100_000
"""How deep lists are nested."""


class Payload:
    """An object whose pickle makes a file where it is loaded."""

    def __init__(self, call: Callable, *arguments: object):
        self._reduced = call, arguments

    def __reduce__(self) -> tuple:
        return self._reduced


def payloads(trap: Path) -> dict[str, bytes]:
    """Return pickles each of which would make the file `trap`."""
    code = f"open({str(trap)!r}, 'w').close()"
    found = {
        "exec": Payload(exec, code),
        "eval": Payload(eval, code),
        "system": Payload(os.system, f"touch {trap}"),
        "path": Payload(Path.touch, trap),
        "written": Payload(Path.write_text, trap, "owned"),
    }
    made = {name: pickle.dumps({"weight": one}, protocol=2) for name, one in found.items()}
    made["old protocol"] = pickle.dumps({"weight": found["exec"]}, protocol=0)
    return made


def torch_files(trap: Path) -> dict[str, bytes]:
    """Return files that call themselves PyTorch's."""
    files = dict(payloads(trap))
    sound = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, sound)
    for name, payload in payloads(trap).items():
        files[f"zip {name}"] = _with_entry(sound.getvalue(), "data.pkl", payload)
        old = io.BytesIO()
        torch.save({"weight": torch.zeros(3)}, old, _use_new_zipfile_serialization=False)
        files[f"legacy {name}"] = old.getvalue()[:40] + payload
    files["bomb"] = _with_entry(sound.getvalue(), "data/0", bytes(BURST), zipfile.ZIP_DEFLATED)
    wide = io.BytesIO()
    torch.save({"weight": torch.zeros(1).expand(2**40)}, wide)
    files["a terabyte of one zero"] = wide.getvalue()
    lists = b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b"."
    files["deep lists"] = _with_entry(sound.getvalue(), "data.pkl", lists)
    return files


def numpy_files(trap: Path) -> dict[str, bytes]:
    """Return files that call themselves NumPy's."""
    objects = io.BytesIO()
    np.savez(objects, weight=np.array([Payload(Path.touch, trap)], dtype=object))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        declared = {"descr": "|u1", "fortran_order": False, "shape": (BURST,)}
        np.lib.format.write_array_header_1_0(header, declared)
        archive.writestr("weight.npy", header.getvalue() + bytes(BURST))
    liar = io.BytesIO()
    with zipfile.ZipFile(liar, "w") as archive:
        header = io.BytesIO()
        declared = {"descr": "<f8", "fortran_order": False, "shape": (2**40,)}
        np.lib.format.write_array_header_1_0(header, declared)
        archive.writestr("weight.npy", header.getvalue() + bytes(64))
    return {
        **payloads(trap),
        "objects": objects.getvalue(),
        "bomb": bomb.getvalue(),
        "a shape of 8 TiB": liar.getvalue(),
    }


def safetensors_files(trap: Path) -> dict[str, bytes]:
    """Return files that call themselves safetensors."""

    def made(header: object, data: bytes = b"", length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def entry(shape: list[int], end: int, start: int = 0, dtype: str = "F64") -> dict:
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}

    return {
        **payloads(trap),
        "a header of 2**62": made({}, length=2**62),
        "a header of 99 MB": made({}, length=99_000_000),
        "a shape of 8 TiB": made({"weight": entry([2**40], 8)}, bytes(8)),
        "a shape that overflows": made({"weight": entry([2**33, 2**33], 8)}, bytes(8)),
        "an empty shape of many": made({"weight": entry([2**60, 0], 0)}),
        "an end before its start": made({"weight": entry([1], 0, 8)}, bytes(8)),
        "one place for two": made({"a": entry([1], 8), "b": entry([1], 8)}, bytes(8)),
        "deep": made(b"[" * DEEP),
        "metadata that are none": made({"__metadata__": {"repair_kernels.paired_stats": 3}}),
    }


def texts(trap: Path) -> dict[str, bytes]:
    """Return texts that call themselves JSON or TOML."""
    return {
        **payloads(trap),
        "deep lists": b'{"weight_map": ' + b"[" * DEEP,
        "deep tables": b"a" + b".a" * DEEP + b" = 1",
        "deep tables of a usual size": b"a" + b".a" * 4_000 + b" = 1",
        "outside": json.dumps({"weight_map": {"weight": "../../../etc/passwd"}}).encode(),
        "itself": json.dumps({"weight_map": {"weight": "model.safetensors.index.json"}}).encode(),
        "long number": b'{"weight_map": ' + b"9" * DEEP + b"}",
        "no text": bytes(range(256)),
    }


def images(trap: Path) -> dict[str, bytes]:
    """Return files that call themselves images."""
    size = struct.pack(">II", 60_000, 60_000)
    chunk = b"IHDR" + size + b"\x08\x02\x00\x00\x00"
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    png += struct.pack(">I", __import__("zlib").crc32(chunk))
    return {**payloads(trap), "60,000 x 60,000": png, "a header alone": png[:8]}


def _with_entry(
    archive: bytes, ending: str, content: bytes, compression: int = zipfile.ZIP_STORED
) -> bytes:
    """Return a zip archive with the content of one entry replaced."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w") as new:
        for one in old.infolist():
            is_it = one.filename.endswith(ending)
            data = content if is_it else old.read(one)
            new.writestr(one.filename, data, compression if is_it else zipfile.ZIP_STORED)
    return made.getvalue()
