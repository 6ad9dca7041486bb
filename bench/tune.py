"""Time launch configurations on the GPU of this machine and print the table for `launch_config`.

    python bench/tune.py [--op paired_moments] [--dtype fp32 bf16] [--limit SECONDS]

Every candidate is checked against float64 before it is timed; one that does not compile, does not
fit or is wrong is left out, and counted.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.roofline import floor_seconds  # noqa: E402
from bench.shapes import TAPS, Tap  # noqa: E402
from repair_kernels import ops  # noqa: E402

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def candidates(op: str, n: int) -> Iterator[dict[str, int]]:
    """Yield sizes to try."""
    warps = (4, 8)
    if op == "channel_moments":
        sizes = itertools.product((1024, 256, 64), (16, 32, 64), (64, 128, 256), warps, (2, 3))
    else:
        sizes = itertools.product((256, 64, 16, 1), (32, 64, 128), (16, 32, 64), warps, (2, 3))
    for splits, block_c, block_n, num_warps, num_stages in sizes:
        if n >= splits * block_n:
            yield {
                "block_n": block_n,
                "block_c": block_c,
                "split_size": -(-n // (splits * block_n)) * block_n,
                "num_warps": num_warps,
                "num_stages": num_stages,
            }


def milliseconds(call: Callable[[], Any]) -> float:
    """Return the median time of a call on the GPU."""
    from triton.testing import do_bench

    return do_bench(call, warmup=5, rep=30, return_mode="median")


def tune(op: str, tap: Tap, dtype: torch.dtype, seconds: float) -> tuple[float, dict[str, int]]:
    """Return the best time in milliseconds, and its sizes, that `seconds` of trying find."""
    from repair_kernels import kernels  # noqa: F401 (loads the modules of the ops)

    module = sys.modules[f"repair_kernels.kernels.{op}"]
    a = (torch.randn(tap.shape, device="cuda") + 0.5).to(dtype)
    inputs = (a,) if op == "channel_moments" else (a, torch.randn_like(a))
    call = getattr(ops, op)
    truth = call(*(x.double() for x in inputs), backend="torch")
    best: tuple[float, dict[str, int]] = (float("inf"), {})
    stop, left_out = time.monotonic() + seconds, 0
    for sizes in candidates(op, tap.n):
        if time.monotonic() > stop:
            break
        config = module.LaunchConfig(**sizes)
        with mock.patch.object(module, "launch_config", return_value=config):
            try:
                sums = call(*inputs)
                wrong = not torch.allclose(sums[1], truth[1], rtol=1e-4)
                took = float("inf") if wrong else milliseconds(lambda: call(*inputs))
            except Exception as error:  # whatever the compiler or the driver says
                print(f"# {sizes}: {type(error).__name__}", file=sys.stderr)
                took = float("inf")
        left_out += took == float("inf")
        best = min(best, (took, sizes), key=lambda result: result[0])
    print(f"# {tap.label}: {left_out} candidates left out", file=sys.stderr)
    return best


def main() -> int:
    """Tune and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["paired_moments", "channel_moments"]
    parser.add_argument("--op", nargs="+", choices=names, default=names)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--limit", type=float, default=20, help="seconds for each tap")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench/tune.py times kernels on a GPU, and this machine has none", file=sys.stderr)
        return 2
    device = torch.cuda.get_device_name()
    print(f"# {device}, torch {torch.__version__}, {' '.join(sys.argv)}")
    print("op dtype tap milliseconds ratio_to_floor sizes")
    for op, dtype, tap in itertools.product(options.op, options.dtype, TAPS):
        took, sizes = tune(op, tap, DTYPES[dtype], options.limit)
        itemsize = DTYPES[dtype].itemsize
        if op == "paired_moments":
            unit = "tf32x3" if dtype == "fp32" else "16bit"
            floor = floor_seconds(device, tap.paired_bytes(itemsize), tap.paired_flops(), unit)
        else:
            floor = floor_seconds(device, tap.channel_bytes(itemsize))
        print(op, dtype, tap.label, f"{took:.4f} {took / 1e3 / floor:.2f}", sizes, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
