"""Images in tar shards as the WebDataset library writes them: members `<key>.jpg`, `<key>.cls`.

The headers of all shards are read once; then every image is found by its offset. A sample's members
share what comes before the first dot of their names; its image is the one of a known kind, and its
class number the text of the member `.cls`.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repair_kernels.errors import CalibrationDataError, MissingExtraError
from repair_kernels.images.preprocessing import SUFFIXES

LABEL = ".cls"
BLOCK = tarfile.BLOCKSIZE
LONGEST_NAME = 4096


@dataclass
class _Sample:
    """Where a sample's members are: (name, offset, size)."""

    image: tuple[str, int, int] | None = None
    label: tuple[str, int, int] | None = None


class WebDataset:
    """The images of tar files, in the order of the files and of their members.

    Args:
        shards: the tar files, uncompressed
    Raises:
        CalibrationDataError: a shard is missing, broken or cut short, or none has an image
    """

    def __init__(self, shards: Sequence[Path]):
        self._shards = list(shards)
        above = os.path.commonpath([path.absolute().parent for path in self._shards])
        self._short = [os.path.relpath(path.absolute(), above) for path in self._shards]
        names, rows, unlabelled = [], [], 0
        for number, path in enumerate(self._shards):
            for sample in read_index(path).values():
                if sample.image is None:
                    continue
                name, *place = sample.image
                names.append(os.fsencode(name))
                rows.append((number, *place, *(sample.label or ("", -1, 0))[1:]))
                unlabelled += sample.label is None
        if not names:
            raise CalibrationDataError(
                f"expected images ({', '.join(SUFFIXES)}) in the members of {self._shards[0]}"
                f"{' and the other shards' if len(self._shards) > 1 else ''}; found none; write "
                "shards with members such as `000017.jpg` and `000017.cls`"
            )
        # Arrays, not objects: millions of them would be copied to each worker.
        self._names = np.array(names)
        self._rows = np.array(rows, dtype=np.int64)
        self.has_labels = not unlabelled
        self.description = f"{len(self._shards)} tar shards {self._shards[0]}" + (
            f" ... {self._shards[-1].name}" if len(self._shards) > 1 else ""
        )

    def __len__(self) -> int:
        return len(self._names)

    def name(self, position: int) -> str:
        """Return the shard and the member."""
        return f"{self._shards[self._rows[position, 0]]}, member {self._member(position)}"

    def key(self, position: int) -> bytes:
        """Return the shard, the member and its size."""
        shard, _, size, *_ = self._rows[position].tolist()
        return os.fsencode(self._short[shard]) + b" " + self._names[position] + b" %d" % size

    def read(self, position: int) -> bytes:
        """Return the image's member."""
        shard, offset, size, *_ = self._rows[position].tolist()
        return _read(self._shards[shard], offset, size)

    def label(self, position: int) -> int | None:
        """Return the class number that a sample's `.cls` says.

        Raises:
            CalibrationDataError: it says no whole number
        """
        shard, _, _, offset, size = self._rows[position].tolist()
        if offset < 0:
            return None
        text = _read(self._shards[shard], offset, size)
        try:
            return int(text)
        except ValueError as error:
            raise CalibrationDataError(
                f"expected a class number in the `{LABEL}` of {self.name(position)}; got "
                f"{text[:20]!r}; write the shard anew"
            ) from error

    def _member(self, position: int) -> str:
        return os.fsdecode(self._names[position])


def expand_shards(pattern: str) -> list[Path]:
    """Return the files that a pattern such as `train-{000..146}.tar` stands for.

    Raises:
        CalibrationDataError: one of them is missing
        MissingExtraError: braceexpand is not installed
    """
    found = [pattern]
    if "{" in pattern:
        try:
            from braceexpand import braceexpand
        except ImportError as error:
            raise MissingExtraError(
                "patterns of shards are expanded with braceexpand, which is not installed; install "
                'it with `pip install "repair-kernels[images]"`'
            ) from error
        try:
            found = list(braceexpand(pattern))
        except ValueError as error:
            raise CalibrationDataError(
                f"expected a pattern such as `train-{{000..146}}.tar`; got {pattern}; close every "
                "brace"
            ) from error
    missing = [path for path in found if not os.path.isfile(path)]
    if missing:
        raise CalibrationDataError(
            f"expected {len(found)} tar files at {pattern}; {len(missing)} of them are missing, "
            f"first {missing[0]}; check the pattern, and that all shards are here"
        )
    return [Path(path) for path in found]


def read_index(path: Path) -> dict[str, _Sample]:
    """Read a tar file's headers: where each sample's image and class number are.

    Raises:
        CalibrationDataError: the file is missing, compressed, broken or cut short
    """
    samples: dict[str, _Sample] = {}
    last = None
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                last = member.name
                if member.size < 0 or len(last) > LONGEST_NAME:
                    raise tarfile.ReadError(f"no sound header at byte {member.offset}")
                if member.isreg():
                    _enter(samples, path, member)
            end = tar.offset
    except CalibrationDataError:
        raise
    except Exception as error:  # a broken or hostile file may fail anywhere in its reader
        raise _broken(path, last, str(error) or type(error).__name__) from error
    # tarfile takes whatever it cannot read, behind the first member, for the end.
    with path.open("rb") as file:
        file.seek(end)
        mark = file.read(BLOCK)
    if mark != bytes(BLOCK):
        cause = "its end mark is missing" if not mark else f"no header at byte {end}"
        raise _broken(path, last, cause)
    return samples


def _enter(samples: dict[str, _Sample], path: Path, member: tarfile.TarInfo) -> None:
    folder, _, file = member.name.rpartition("/")
    key, dot, kind = file.partition(".")
    kind = f".{kind.lower()}"
    if not dot or not key or (kind not in SUFFIXES and kind != LABEL):
        return
    sample = samples.setdefault(f"{folder}/{key}", _Sample())
    place = member.name, member.offset_data, member.size
    if kind == LABEL:
        sample.label = place
    elif sample.image is None:
        sample.image = place
    else:
        raise CalibrationDataError(
            f"expected one image in each sample of {path}; {sample.image[0]} and {member.name} are "
            "of one; write the shard anew"
        )


def _broken(path: Path, last: str | None, cause: str) -> CalibrationDataError:
    where = "" if last is None else f", behind member {last}"
    return CalibrationDataError(
        f"expected a whole, uncompressed tar file at {path}; it cannot be read{where}: {cause}; "
        "copy or write it anew"
    )


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
