"""Write down a run of `bench/gpu.sh`: device, versions, commit, and the stages read from stdin.

python bench/run_facts.py FILE STAGE ... <stages.json
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
import triton  # noqa: E402

from bench.measuring.provenance import commit, device_name  # noqa: E402
from repair_kernels.version import __version__  # noqa: E402


def main() -> int:
    """Write the file."""
    file, *stages = sys.argv[1:]
    facts = {
        "device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "triton": triton.__version__,
            "cuda": torch.version.cuda or torch.version.hip,
            "repair_kernels": __version__,
        },
        "commit": commit(),
        "command": " ".join(["bench/gpu.sh", "OUTDIR", *stages]),
        "date": datetime.date.today().isoformat(),
        "stages": json.load(sys.stdin),
    }
    Path(file).write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
