"""Command lines from a file, one after the other in one process: what torchrun starts in a test.

    python tests/cli/in_turn.py COMMANDS.json THREADS

The file holds pairs of a free port and a command line. (Starting Python takes longer than the
commands.) What threads are left at the end is written to `THREADS.RANK`.
"""

import json
import os
import sys
from pathlib import Path

from repair_kernels.cli import main


def run(commands: Path, threads: Path) -> int:
    """Run the command lines, and return the worst of their codes."""
    # torchrun's own store still has the first group's addresses when the second one meets.
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    codes = []
    for port, words in json.loads(commands.read_text()):
        os.environ["MASTER_PORT"] = str(port)
        codes.append(main(words))
    left = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    threads.with_suffix(f".{os.environ['RANK']}").write_text(json.dumps(left))
    return max(codes)


if __name__ == "__main__":
    sys.exit(run(*map(Path, sys.argv[1:])))
