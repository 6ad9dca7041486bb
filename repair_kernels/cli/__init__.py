"""The command line: `repair-kernels stats | match | merge | sweep | demo`.

Models are named as `package.module:callable`, data as a callable too or as a file of tensors.
"""

import sys
from collections.abc import Sequence
from pathlib import Path as FilePath

from repair_kernels.cli.options import parser
from repair_kernels.errors import RepairKernelsError

__all__ = ["main"]

EXIT_OK, EXIT_FAILED = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after an error that was explained; usage exits 2."""
    options = parser().parse_args(arguments)
    sys.path.insert(0, str(FilePath.cwd()))
    try:
        options.run(options)
    except (RepairKernelsError, OSError) as error:
        print(f"repair-kernels: {error}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        sys.path.pop(0)
    return EXIT_OK
