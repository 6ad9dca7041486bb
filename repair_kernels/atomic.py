"""Files that are either whole or absent: written beside their place, then moved there.

Each is written in a hidden folder of its own. What its writer puts beside it (safetensors writes a
temporary file of its own) lies there as well, and goes with the folder, also after a kill.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOKEN = 4


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path on the same disk, which replaces `path` when the block succeeds.

    A reader sees the old file or the new one, never a part. If the block raises, the temporary
    file is removed and what lay at `path` is as before. A symbolic link is followed.

    Args:
        path: the file to write; its folder must exist

    Raises:
        OSError: when the folder is absent or cannot be written, or when `path` is a folder

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder) / "note.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     print([file.name for file in Path(folder).iterdir()])
        ['note.txt']
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"expected the path of a file to write, but {target} is a folder")
    folder = target.with_name(f".{target.stem}-{secrets.token_hex(TOKEN)}{target.suffix}")
    temporary = folder / target.name
    folder.mkdir()
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers make files that only their owner can read
        _flush(temporary)
        os.replace(temporary, target)
        if os.name == "posix":
            _flush(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what writes to `path` that were killed have left; none may be under way."""
    target = Path(os.path.realpath(path))
    pattern = f".{glob.escape(target.stem)}-{'[0-9a-f]' * 2 * TOKEN}{glob.escape(target.suffix)}"
    for leftover in target.parent.glob(pattern):
        shutil.rmtree(leftover, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have the system write a file's, or a folder's, contents to the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
