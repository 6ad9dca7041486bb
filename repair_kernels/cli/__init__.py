"""The command line: `repair-kernels stats | match | merge | sweep | demo`.

Models are named as `package.module:callable`, data as a callable too or as a file of tensors.
"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any

from repair_kernels.cli.options import parser
from repair_kernels.errors import CalibrationWarning, RepairKernelsError

__all__ = ["main"]

EXIT_OK, EXIT_FAILED = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after an error that was explained; usage exits 2."""
    options = parser().parse_args(arguments)
    sys.path.insert(0, str(FilePath.cwd()))
    try:
        with explained_warnings():
            options.run(options)
    except (RepairKernelsError, OSError) as error:
        print(f"repair-kernels: {error}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        sys.path.pop(0)
    return EXIT_OK


@contextmanager
def explained_warnings() -> Iterator[None]:
    """Say what is doubtful about a calibration in one line, as errors are said."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, CalibrationWarning):
            print(f"repair-kernels: warning: {message}", file=sys.stderr)
        else:
            shown(message, category, *place)

    with warnings.catch_warnings():
        warnings.simplefilter("always", CalibrationWarning)
        warnings.showwarning = show
        yield
