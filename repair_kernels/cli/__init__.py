"""The command line: `repair-kernels stats | match | merge | sweep | inspect | demo | completion`.

Networks are named as `package.module:callable`, `torchvision:name` or `timm:name`; data as folders
of images, tar shards, files of tensors or callables. docs/cli.md has all options.
"""

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repair_kernels import progress
from repair_kernels.cli.parser import parse
from repair_kernels.cli.processes import process_group
from repair_kernels.cli.results import Result, show
from repair_kernels.errors import CalibrationWarning, RepairKernelsError

__all__ = ["main"]

EXIT_OK, EXIT_FAILED = 0, 1
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE, EXIT_TERMINATED = 130, 141, 143
"""As shells report a program that ended by SIGINT, SIGPIPE and SIGTERM."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; wrong usage exits with 2.

    Returns:
        0; or 1 after an error, which is explained on standard error; 130 if it was interrupted,
        141 if nobody reads what it prints. What was half written is removed.
    """
    options = parse(sys.argv[1:] if arguments is None else arguments)
    sys.path.insert(0, str(Path.cwd()))
    try:
        with ended_by_sigterm():
            return _run(options)
    except (RepairKernelsError, OSError) as error:
        complain(str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    finally:
        sys.path.pop(0)


def _run(options: argparse.Namespace) -> int:
    """Run a command; show its result, and what is doubtful about it, in the first process."""
    if not hasattr(options, "process_group") and os.environ.get("RANK", "0") != "0":
        return EXIT_OK  # One process does all of it.
    with process_group(options) as process, explained_warnings(process.is_first) as said:
        auto = options.progress == "auto" and sys.stderr.isatty()
        wanted = (auto or options.progress == "always") and not options.quiet
        with progress.shown(wanted and process.is_first):
            result = options.run(options, process)
        is_first = process.is_first
    return _shown(options, result, said) if is_first else EXIT_OK


def _shown(options: argparse.Namespace, result: Result, said: Sequence[str]) -> int:
    try:
        show(options, result, said)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still to be flushed when the interpreter ends must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return EXIT_OK


def complain(text: str) -> None:
    """Write to standard error in one piece, so that the lines of several processes do not mix."""
    sys.stderr.write(f"repair-kernels: {text}\n")


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, as batch schedulers send it, end a command as an exception does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        sys.exit(EXIT_TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def explained_warnings(aloud: bool) -> Iterator[list[str]]:
    """Say what is doubtful about a calibration in one line, as errors are said; collect it.

    Args:
        aloud: whether this process says it; the others of a group would only repeat it
    """
    shown, said = warnings.showwarning, []

    def explain(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, CalibrationWarning):
            said.append(str(message))
            if aloud:
                complain(f"warning: {message}")
        else:
            shown(message, category, *place)

    with warnings.catch_warnings():
        warnings.simplefilter("always", CalibrationWarning)
        warnings.showwarning = explain
        yield said
