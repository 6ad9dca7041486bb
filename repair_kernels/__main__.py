"""`python -m repair_kernels` is the command line, as `repair-kernels` is."""

import sys

from repair_kernels.cli import main

if __name__ == "__main__":
    sys.exit(main())
