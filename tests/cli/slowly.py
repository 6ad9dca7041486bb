"""The command line with images that take their time: a pass that can be killed in its middle.

    python tests/cli/slowly.py stats ...

Each of the first images takes `SECONDS`, and the one behind them never comes.
"""

import sys
import time

from repair_kernels.cli import main
from repair_kernels.images.stored import StoredImages

SECONDS = 0.1
FIRST = 12


def slow_down() -> None:
    """Let the process wait for each image that it reads."""
    read, numbers = StoredImages.image, []

    def image(source: StoredImages, number: int) -> object:
        numbers.append(number)
        time.sleep(SECONDS if len(numbers) <= FIRST else 600)
        return read(source, number)

    StoredImages.image = image  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    slow_down()
    sys.exit(main(sys.argv[1:]))
