"""Files to write, checked before anything is computed: inputs stay, and folders exist."""

import argparse
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from repair_kernels.checkpoints.sharded import is_index, shards_of
from repair_kernels.errors import ArgumentError, CheckpointError
from repair_kernels.images.web_dataset import expand_shards

INPUTS = ("a", "b", "data", "eval_data", "stats", "config", "file", "parts")
"""Options that may name a file to read."""
DATA = ("data", "eval_data")
"""Those of them that may be a pattern of shards."""


def check_output(options: argparse.Namespace) -> Path:
    """Return the file that `--output` names.

    Raises:
        ArgumentError: when its folder is missing, it is a folder, or it is or lies in an input
    """
    path = Path(options.output)
    if path.is_dir():
        raise ArgumentError(f"`--output` must name a file; {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise ArgumentError(
            f"`--output` must lie in a folder that exists; {path.parent} does not; make it first "
            f"(mkdir -p {path.parent})"
        )
    _check_no_input(options, [path])
    return path


def check_output_folder(options: argparse.Namespace, names: Iterable[str]) -> Path:
    """Return the folder that `--output` names; it is made when there is something to write.

    Args:
        names: the files that will be written there
    Raises:
        ArgumentError: when it is a file, or one of the files is or lies in an input
    """
    folder = Path(options.output)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ArgumentError(
            f"`--output` must name a folder; {existing} is a file; name another place"
        )
    _check_no_input(options, [folder / name for name in names])
    return folder


def input_paths(options: argparse.Namespace) -> list[Path]:
    """Return the files and folders that a command line names to be read, shards one by one."""
    found = []
    for name in INPUTS:
        named = getattr(options, name, None) or ()
        for reference in [named] if isinstance(named, str) else named:
            found += _files_of(reference, is_data=name in DATA)
    return [path for path in found if path.exists()]


def _files_of(reference: str, *, is_data: bool) -> list[Path]:
    """Return what a reference names: itself, an index with its shards, or a pattern's shards."""
    path = Path(reference)
    if is_data and "{" in reference and ":" not in reference and not path.is_dir():
        return expand_shards(reference)
    if is_index(path) and path.is_file():
        with suppress(CheckpointError, ValueError, RecursionError):  # Explained once it is read.
            return [path, *shards_of(path)]
    return [path]


def _check_no_input(options: argparse.Namespace, outputs: Iterable[Path]) -> None:
    inputs = {place: path for path in input_paths(options) for place in _places(path)}
    for output in outputs:
        around = {folder for place in _places(output) for folder in (place, *place.parents)}
        for read in inputs.keys() & around:
            inside = "lies in" if inputs[read].is_dir() else "would be written over"
            raise ArgumentError(
                f"`--output` must not be an input, nor lie in one; {output} {inside} "
                f"{inputs[read]}, which is read; name another file"
            )


def _places(path: Path) -> set[Path]:
    """Return where a path is by its name, and where it is in the end: links have both."""
    return {Path(os.path.abspath(path)), path.resolve()}
