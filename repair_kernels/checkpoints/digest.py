"""What a checkpoint is known by: the SHA-256 of its bytes."""

import hashlib
import os
from pathlib import Path

CHUNK = 2**20


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, or of a folder: of its files' names and digests, in order.

    Raises:
        OSError: when it cannot be read

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "x").write_bytes(b"abc")
        ...     sha256_of(Path(folder, "x"))[:8]
        'ba7816bf'
    """
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_dir():
        for inner in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{inner.relative_to(path).as_posix()} {sha256_of(inner)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
