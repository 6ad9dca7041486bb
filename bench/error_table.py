"""Measure how far the moments are from float64, for every precision, offset and number of samples.

    python bench/error_table.py [--json FILE] [--most N]

On a machine with a GPU the kernels are measured on it at every precision. Without one: the CPU
path; the kernels in Triton's interpreter, which multiplies float32 as it is and is slow, so that
few samples do; and an emulation of the tensor cores' tf32 in NumPy. Errors are the largest of all
channels: of cross sums relative to sqrt(m2_a · m2_b), of m2 relative to itself, of the mean
relative to the standard deviation.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

from bench.measuring.provenance import provenance, write_rows  # noqa: E402
from repair_kernels import ops  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
OFFSETS = (0.0, 1.0, 1e2, 1e4)  # |mean| / std
SAMPLES = (10**3, 10**5, 10**7)
INTERPRETED_SAMPLES = (10**3,)
CHANNELS = 16 if ON_GPU else 4
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TF32_BITS = 10
EMULATED_SPLIT = 4096  # positions that share a pivot and a float32 sum

Sums = tuple[Any, Any, Any, Any, Any]


def activations(n: int, offset: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return rows of both networks: std 1, correlated, all means at `offset`."""
    generator = torch.Generator(DEVICE).manual_seed(n)
    a, other = (torch.randn(n, CHANNELS, generator=generator, device=DEVICE) for _ in "ab")
    b = 0.6 * a + 0.8 * other
    return (a.double() + offset).to(dtype), (b.double() + offset).to(dtype)


def truth_of(a: Tensor, b: Tensor) -> Sums:
    """Return the sums by their definition: two passes in float64."""
    x, y = a.double(), b.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    return mean_x, x.square().sum(0), mean_y, y.square().sum(0), x.t() @ y


def rounded_to_tf32(x: np.ndarray) -> np.ndarray:
    """Round float32 to ten bits of significand, ties away from zero, as the hardware does."""
    drop = 23 - TF32_BITS
    bits = x.view(np.uint32)
    return ((bits + (1 << (drop - 1))) & ~np.uint32((1 << drop) - 1)).view(np.float32)


def emulated(a: Tensor, b: Tensor, precision: str) -> Sums:
    """Compute as the kernels do, with operands rounded to tf32 before they are multiplied."""
    x, y = (z.float().numpy() for z in (a, b))
    n, c = x.shape
    parts = []
    for start in range(0, n, EMULATED_SPLIT):
        u, v = x[start : start + EMULATED_SPLIT], y[start : start + EMULATED_SPLIT]
        pivot_u, pivot_v = (z[:64].mean(0, dtype=np.float32) for z in (u, v))
        u, v = u - pivot_u, v - pivot_v
        high_u, high_v = rounded_to_tf32(u), rounded_to_tf32(v)
        product = high_u.T @ high_v
        if precision == "tf32x3":
            low_u, low_v = rounded_to_tf32(u - high_u), rounded_to_tf32(v - high_v)
            product = product + (low_u.T @ high_v + high_u.T @ low_v)
        sums = [z.sum(0, dtype=np.float64) for z in (u, v, u * u, v * v)]
        parts.append((len(u), pivot_u, pivot_v, *sums, product.astype(np.float64)))
    first_u, first_v = (parts[0][k].astype(np.float64) for k in (1, 2))
    total_u, total_v, squares_u, squares_v = np.zeros((4, c))
    cross = np.zeros((c, c))
    for held, pivot_u, pivot_v, sum_u, sum_v, square_u, square_v, product in parts:
        shift_u, shift_v = pivot_u - first_u, pivot_v - first_v
        total_u += sum_u + held * shift_u
        total_v += sum_v + held * shift_v
        squares_u += square_u + shift_u * (2 * sum_u + held * shift_u)
        squares_v += square_v + shift_v * (2 * sum_v + held * shift_v)
        cross += product + np.outer(shift_u, sum_v) + np.outer(sum_u + held * shift_u, shift_v)
    cross -= np.outer(total_u, total_v) / n
    m2_u, m2_v = squares_u - total_u**2 / n, squares_v - total_v**2 / n
    return first_u + total_u / n, m2_u, first_v + total_v / n, m2_v, cross


def raw_float32(a: Tensor, b: Tensor) -> Sums:
    """Do what these kernels do not: E[xy] − E[x]E[y] in float32."""
    x, y = a.float(), b.float()
    n = len(x)
    total_x, total_y = x.sum(0), y.sum(0)
    m2_x, m2_y = (z.square().sum(0) - t.square() / n for z, t in ((x, total_x), (y, total_y)))
    cross = x.t() @ y - torch.outer(total_x, total_y) / n
    return total_x / n, m2_x, total_y / n, m2_y, cross


def ways(dtype: str) -> Iterator[tuple[str, str, Callable[[Tensor, Tensor], Any], tuple[int, ...]]]:
    """Yield (where, precision, function, numbers of samples) for activations of a dtype."""
    precisions = ("ieee", "tf32x3", "tf32") if dtype == "float32" else ("exact",)
    if ON_GPU:
        for name in precisions:
            asked = "tf32x3" if name == "exact" else name
            yield "kernels, GPU", name, partial(ops.paired_moments, precision=asked), SAMPLES
        if dtype == "float32":
            yield "E[xy] − E[x]E[y], GPU", "ieee", raw_float32, SAMPLES
        return
    reference = partial(ops.paired_moments, backend="torch")
    interpreted = partial(ops.paired_moments, precision="ieee", backend="triton")
    yield "reference, CPU", precisions[0], reference, SAMPLES
    yield "kernels, interpreted", precisions[0], interpreted, INTERPRETED_SAMPLES
    if dtype == "float32":
        for name in precisions[1:]:
            yield "emulation", name, partial(emulated, precision=name), SAMPLES
        yield "E[xy] − E[x]E[y], CPU", "ieee", raw_float32, SAMPLES


def errors_of(sums: Any, truth: Sums, n: int) -> dict[str, float] | None:
    """Return the largest errors, None where rounding to the dtype left a constant channel."""
    if min(truth[1].min(), truth[3].min()) <= 0:
        return None
    mean, m2, _, _, cross = (torch.as_tensor(x).double() for x in sums[:5])
    worst = {
        "cross": (cross - truth[4]).abs() / torch.outer(truth[1], truth[3]).sqrt(),
        "m2": (m2 - truth[1]).abs() / truth[1],
        "mean": (mean - truth[0]).abs() / (truth[1] / n).sqrt(),
    }
    return {name: error.max().item() for name, error in worst.items()}


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = RESULTS / ("errors_gpu.json" if ON_GPU else "errors_cpu.json")
    parser.add_argument("--json", type=Path, default=default)
    parser.add_argument("--most", type=float, default=1e7, help="no more samples than this")
    options = parser.parse_args()
    rows = []
    for dtype, n in ((dtype, n) for dtype in DTYPES for n in SAMPLES if n <= options.most):
        for offset in OFFSETS:
            a, b = activations(n, offset, DTYPES[dtype])
            truth = truth_of(a, b)
            for where, precision, call, samples in ways(dtype):
                if n in samples:
                    place = {"where": where, "dtype": dtype, "precision": precision}
                    errors = errors_of(call(a, b), truth, n)
                    rows.append({**place, "offset": offset, "n": n, "errors": errors})
                    print(*rows[-1].values(), flush=True)
    where = provenance("error_table.py", DEVICE, sys.argv[1:]) | {"channels": CHANNELS}
    write_rows(options.json, where, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
