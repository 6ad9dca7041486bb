"""Time launch configurations on the GPU of this machine and print the tables for `launch_config`.

    python bench/tune.py [--op paired_moments ...] [--dtype fp32 bf16] [--limit SECONDS] [--json F]

Starting from what `launch_config` chooses, sizes are varied: those of each field below, in all
combinations, drawn in an order that is the same each time, until the seconds for the shape are
over. Every candidate is checked against float64 before it is timed; one that does not compile, does
not fit or is wrong gets no time, and is written down with its reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from bench.forms import FORMS, worst_error  # noqa: E402
from bench.measuring.contest import SLEEP_CYCLES, input_sets  # noqa: E402
from bench.measuring.provenance import provenance, write_rows  # noqa: E402
from bench.measuring.roofline import floor_seconds, unit_of  # noqa: E402
from bench.shapes import RESNET50, TAPS, Tap  # noqa: E402

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Values to try for fields of a LaunchConfig, whichever of them it has. "splits" is no field: it
# stands for the `split_size` that cuts the positions into that many parts.
VALUES: dict[str, dict[str, tuple[int, ...]]] = {
    "paired_moments": {
        "block_n": (16, 32, 64, 128),
        "block_c": (32, 64, 128),
        "block_a": (32, 64, 128),
        "block_b": (32, 64, 128, 256),
        "splits": (1, 4, 16, 33, 66, 132, 264),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4),
    },
    "channel_moments": {
        "block_n": (32, 64, 128, 256, 512),
        "block_c": (8, 16, 32, 64, 128),
        "splits": (1, 16, 66, 132, 264, 528, 1056),
        "num_warps": (4, 8, 16),
        "num_stages": (1, 2, 3),
    },
    "lerp_rescale": {
        "block": (512, 1024, 2048, 4096),
        "vectors": (128, 256, 512, 1024),
        "num_warps": (2, 4, 8),
        "num_stages": (1, 2, 3),
    },
}


@dataclasses.dataclass
class Shape:
    """What is tuned: a call on rotating inputs, its truth, and its floor."""

    op: str
    label: str
    dtype: str
    layout: str
    form: str
    call: Callable[..., Any]
    inputs: list[tuple[Any, ...]]
    error_of: Callable[[Any], float]
    allowed: float
    floor: float
    n: int  # positions; 0 where nothing is split


def candidates(op: str, config: Any, n: int) -> list[dict[str, int]]:
    """Return changes of `config`, the empty one first."""
    fields = {field.name for field in dataclasses.fields(config)}
    tried = {
        name: values
        for name, values in VALUES[op].items()
        if name in fields or (name == "splits" and "split_size" in fields and n)
    }
    found = [dict(zip(tried, sizes, strict=True)) for sizes in itertools.product(*tried.values())]
    random.Random(0).shuffle(found)
    return [{}, *found]


def changed(config: Any, change: dict[str, int], n: int) -> Any:
    """Return `config` with some sizes replaced; a split is whole blocks."""
    sizes = {name: value for name, value in change.items() if name != "splits"}
    if "splits" in change:
        block_n = sizes.get("block_n", getattr(config, "block_n", 1))
        sizes["split_size"] = -(-n // (change["splits"] * block_n)) * block_n
    return dataclasses.replace(config, **sizes)


def device_milliseconds(call: Callable[..., Any], inputs: list[tuple[Any, ...]]) -> float:
    """Return the median time of calls on rotating inputs, on the GPU alone."""
    times = []
    for turn in range(13):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(SLEEP_CYCLES // 2)
        start.record()
        call(*inputs[turn % len(inputs)])
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[3:])[5]


def tune(op: str, shape: Shape, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield a row for each candidate, the present choice first, until the time is over."""
    from repair_kernels import kernels  # noqa: F401 (loads the modules of the ops)

    if shape.form == "diagonal":  # it has its own module, and the sizes of `channel_moments`
        module, op = sys.modules["repair_kernels.kernels.paired_diagonal"], "channel_moments"
    else:
        module = sys.modules[f"repair_kernels.kernels.{op}"]
    choose = module.launch_config
    seen: list[Any] = []

    def note(*args: Any, **kwargs: Any) -> Any:
        seen.append(choose(*args, **kwargs))
        return changed(seen[-1], change, shape.n)

    stop = time.monotonic() + seconds
    change: dict[str, int] = {}
    with mock.patch.object(module, "launch_config", note):
        shape.call(*shape.inputs[0])
        for change in candidates(op, seen[0], shape.n):  # noqa: B020 (read by `note`)
            if time.monotonic() > stop:
                return
            config = dataclasses.asdict(changed(seen[0], change, shape.n))
            row = {
                "op": shape.op,
                "name": shape.label,
                "dtype": shape.dtype,
                "layout": shape.layout,
            }
            row |= {"form": shape.form, "floor": shape.floor, "config": config}
            try:
                error = shape.error_of(shape.call(*shape.inputs[0]))
                if not error <= shape.allowed:
                    yield {**row, "failure": f"wrong by {error:.1e}"}
                    continue
                row["seconds"] = device_milliseconds(shape.call, shape.inputs) / 1e3
            except Exception as error:  # whatever the compiler or the driver says
                row["failure"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            yield row


def shapes(op: str, dtypes: list[str], taps: tuple[Tap, ...], forms: list[str]) -> Iterator[Shape]:
    """Yield what is tuned for an op."""
    device, chip = torch.device("cuda"), torch.cuda.get_device_name()
    if op == "lerp_rescale":
        for dtype in dtypes:
            yield _state_shape(dtype, device, chip)
        return
    for dtype, tap in itertools.product(dtypes, taps):
        for layout in ("nchw", "channels_last") if len(tap.shape) == 4 else ("rows",):
            for form in forms if op == "paired_moments" else ("",):
                yield _tap_shape(op, tap, dtype, layout, form, device, chip)


def _tap_shape(op: str, tap: Tap, dtype: str, layout: str, form: str, device: Any, chip: str):
    from repair_kernels import ops

    def activation() -> Tensor:
        x = (torch.randn(tap.shape, device=device) + 0.5).to(DTYPES[dtype])
        return x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x

    size = DTYPES[dtype].itemsize
    if op == "channel_moments":
        inputs = input_sets(lambda: (activation(),), device)
        truth = ops.channel_moments(inputs[0][0].double(), backend="torch")
        floor = floor_seconds(chip, tap.channel_bytes(size))
        return Shape(
            *(op, tap.label, dtype, layout, form, ops.channel_moments, inputs),
            lambda sums: (sums[1] / truth.m2 - 1).abs().max().item(),
            *(2e-5, floor, tap.n),
        )
    inputs = input_sets(lambda: (activation(), activation()), device)
    truth = ops.paired_moments(*(x.double() for x in inputs[0]), backend="torch", **FORMS[form])
    flops, unit = tap.paired_flops(form), unit_of(dtype, "tf32x3")
    floor = floor_seconds(chip, tap.paired_bytes(size), flops, unit)
    return Shape(
        *(op, tap.label, dtype, layout, form),
        lambda a, b: ops.paired_moments(a, b, **FORMS[form]),
        *(inputs, lambda sums: worst_error(sums, truth, form), 2e-5, floor, tap.n),
    )


def _state_shape(dtype: str, device: Any, chip: str) -> Shape:
    from repair_kernels import kernels, reference
    from repair_kernels.reference.lerp import Lerp

    def items() -> tuple[list[Lerp], list[float]]:
        new = {"device": device}
        found = []
        for weight in RESNET50:
            a, b = (torch.randn(weight.shape, **new).to(DTYPES[dtype]) for _ in "ab")
            item = Lerp(a, b, index_out=torch.randperm(weight.shape[0], **new))
            if a.dim() > 1:
                item = item._replace(index_in=torch.randperm(weight.shape[1], **new))
            found.append(item)
        return found, [0.3]

    inputs = [items(), items()]
    truth = reference.lerp_rescale(*inputs[0])
    floor = floor_seconds(chip, sum(w.lerp_bytes(DTYPES[dtype].itemsize) for w in RESNET50))

    def error_of(outs: Any) -> float:
        pairs = zip(outs[0], truth[0], strict=True)
        return max((x.float() - y.float()).abs().max().item() for x, y in pairs)

    allowed = 1e-5 if dtype == "fp32" else 5e-2
    call = kernels.lerp_rescale
    place = "lerp_rescale", "resnet50 state", dtype, "", ""
    return Shape(*place, call, inputs, error_of, allowed, floor, 0)


def main() -> int:
    """Tune and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--op", nargs="+", choices=VALUES, default=list(VALUES))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--form", nargs="+", choices=FORMS, default=["cross"])
    parser.add_argument("--tap", default="resnet50", help="only taps with this in their name")
    parser.add_argument("--limit", type=float, default=10, help="seconds for each shape")
    parser.add_argument("--total", type=float, default=420, help="seconds for all of them")
    parser.add_argument("--json", type=Path, help="write every candidate")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench/tune.py times kernels on a GPU, and this machine has none", file=sys.stderr)
        return 2
    os.environ.pop("TRITON_INTERPRET", None)  # interpreted kernels are never timed
    where = provenance("tune.py", torch.device("cuda"), sys.argv[1:])
    print(f"# {where['device']}, torch {torch.__version__}, {where['commit'][:12]}")
    print(f"# {where['command']}")
    taps = tuple(tap for tap in TAPS if options.tap in tap.label)
    rows, stop = [], time.monotonic() + options.total
    for op in options.op:
        for shape in shapes(op, options.dtype, taps, options.form):
            limit = min(options.limit, stop - time.monotonic())
            if limit <= 0:
                print("# the time for all shapes is over", flush=True)
                break
            tried = list(tune(op, shape, limit))
            rows += tried
            print_best(shape, tried)
            if options.json:
                write_rows(options.json, where, rows)
    return 0


def print_best(shape: Shape, tried: list[dict[str, Any]]) -> None:
    """Print the best sizes as an entry for a table, and how the present choice compares."""
    timed = sorted((row for row in tried if "seconds" in row), key=lambda row: row["seconds"])
    if not timed:
        print(f"# {shape.label}: none of {len(tried)} candidates ran", flush=True)
        return
    sizes = ", ".join(f"{name}={value}" for name, value in timed[0]["config"].items())
    key = ", ".join(f'"{part}"' for part in (shape.label, shape.dtype, shape.layout, shape.form))
    ratio = [
        f"{row['seconds'] / shape.floor:.2f}" for row in (timed[0], tried[0]) if "seconds" in row
    ]
    print(f"({key}): LaunchConfig({sizes}),", end="  ")
    print(f"# {1e6 * timed[0]['seconds']:.1f} us, {' against '.join(ratio)} floors,", end=" ")
    print(f"{len(timed)} of {len(tried)} ran", flush=True)


if __name__ == "__main__":
    sys.exit(main())
