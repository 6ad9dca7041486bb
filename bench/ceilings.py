"""Measure what a GPU reaches with the simplest code there is: a copy, products, an empty launch.

python bench/ceilings.py --json FILE
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from bench.measuring.provenance import provenance, write_rows  # noqa: E402
from bench.measuring.roofline import rates_of  # noqa: E402

SIZE = 8192  # of the square products
COPY_BYTES = 2**31


def seconds(call: Callable[[], Any], calls: int = 1) -> float:
    """Return the median time of a call by device events."""
    times = []
    for _ in range(15):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / calls)
    return statistics.median(times[5:])


def measure() -> list[dict[str, Any]]:
    """Return one row for each ceiling, beside the data sheet's figure."""
    rates = rates_of(torch.cuda.get_device_name())
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    took = seconds(lambda: target.copy_(source))
    sheet = rates.bandwidth if rates else None
    rows = [{"what": "copy", "per_second": 2 * COPY_BYTES / took, "data_sheet": sheet}]
    for unit, dtype, allow in (
        ("16bit", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("ieee", torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = allow
        a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=dtype) for _ in "ab")
        took = seconds(lambda a=a, b=b: a @ b)
        sheet = rates.products[unit] if rates else None
        rows.append({"what": unit, "per_second": 2 * SIZE**3 / took, "data_sheet": sheet})
    one = torch.zeros(1, device="cuda")
    rows.append({"what": "launch", "seconds": seconds(lambda: one.add_(1), calls=200)})
    return rows


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench/ceilings.py measures a GPU, and this machine has none", file=sys.stderr)
        return 2
    rows = measure()
    write_rows(options.json, provenance("ceilings.py", torch.device("cuda"), sys.argv[1:]), rows)
    for row in rows:
        print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
