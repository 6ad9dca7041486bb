"""What a checkpoint is known by: the SHA-256 of its bytes."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from repair_kernels.checkpoints.sharded import is_index, shards_of

CHUNK = 2**20


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file; of several files, that of their names and digests, in order.

    Several files are those of a folder, and an index of shards with the shards that it names.

    Raises:
        OSError: when it cannot be read
        CheckpointError: when an index is no index, or a shard lies elsewhere

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "x").write_bytes(b"abc")
        ...     sha256_of(Path(folder, "x"))[:8]
        'ba7816bf'
    """
    path = Path(path)
    if path.is_dir():
        return _of_several(sorted(p for p in path.rglob("*") if p.is_file()), path)
    if is_index(path):
        return _of_several([path, *shards_of(path)], path.parent)
    return _of_file(path)


def _of_several(files: Iterable[Path], folder: Path) -> str:
    lines = (f"{file.relative_to(folder).as_posix()} {_of_file(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
