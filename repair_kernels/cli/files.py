"""Files to write, checked before anything is computed: inputs stay, and folders exist."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from repair_kernels.errors import ArgumentError

INPUTS = ("a", "b", "data", "eval_data", "stats", "config", "file", "parts")
"""Options that may name a file to read."""


def check_output(options: argparse.Namespace) -> Path:
    """Return the file that `--output` names.

    Raises:
        ArgumentError: when its folder is missing, it is a folder, or it is an input
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
        ArgumentError: when it is a file, or one of the files is an input
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
    """Return the files and folders that a command line names to be read."""
    named = [getattr(options, name, None) or () for name in INPUTS]
    paths = [Path(p) for names in named for p in ([names] if isinstance(names, str) else names)]
    return [path for path in paths if path.exists()]


def _check_no_input(options: argparse.Namespace, outputs: Iterable[Path]) -> None:
    inputs = {path.resolve(): path for path in input_paths(options)}
    for output in outputs:
        written = output.resolve()
        for read in inputs:
            if written == read or (read in written.parents and _is_checkpoint(read)):
                raise ArgumentError(
                    f"`--output` must not be an input; {output} would be written over "
                    f"{inputs[read]}, which is read; name another file"
                )


def _is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder is read as one thing, so that a file more would change it."""
    return any(folder.glob("*.distcp")) or any(folder.glob("*.index.json"))
