"""`repair-kernels completion`: a script that lets a shell complete commands, options and files."""

import argparse
from collections.abc import Callable
from typing import Any

from repair_kernels.cli import arguments
from repair_kernels.cli.config import commands_of
from repair_kernels.cli.processes import Process
from repair_kernels.cli.results import Result
from repair_kernels.errors import MissingExtraError

SHELLS = ("bash", "zsh", "fish")


def add(commands: Any, whole: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the command to the parser.

    Args:
        whole: returns the parser of the whole command line
    """
    parser = commands.add_parser(
        "completion",
        help="print a script that completes commands and options in a shell",
        description="Print a script that completes commands, options and files in a shell. For "
        "bash: repair-kernels completion bash > ~/.local/share/bash-completion/completions/"
        "repair-kernels",
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=SHELLS, help="which shell")
    parser.set_defaults(
        run=lambda options, process: run_completion(options, process, whole()),
        command="completion",
        json=False,
        quiet=False,
        progress="never",
    )


def run_completion(
    options: argparse.Namespace, process: Process, whole: argparse.ArgumentParser
) -> Result:
    """Return the completion script of a shell."""
    try:
        import shtab
    except ImportError as error:
        raise MissingExtraError(
            "completion scripts are made by shtab, which is not installed; install it: "
            "pip install 'repair-kernels[completion]'"
        ) from error
    kinds = {
        arguments.FILE: shtab.FILE,
        arguments.PATH: shtab.FILE,
        "DATA": shtab.FILE,
        arguments.FOLDER: shtab.DIRECTORY,
    }
    for parser in commands_of(whole).values():
        for action in parser._actions:
            if isinstance(action.metavar, str) and action.metavar in kinds:
                action.complete = kinds[action.metavar]  # type: ignore[attr-defined]
    return Result(shtab.complete(whole, shell=options.shell).rstrip(), {})
