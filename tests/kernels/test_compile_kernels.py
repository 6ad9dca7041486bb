"""Every kernel compiles for real chips, on a machine without any."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = {
    f"_{op}_kernel"
    for op in (
        "channel_moments_partial",
        "channel_moments_combine",
        "paired_moments_partial",
        "paired_moments_combine",
        "paired_diagonal_partial",
        "paired_diagonal_combine",
        "lerp_rescale",
    )
}
PRODUCTS = {
    "sm_80": {"mma.sync"},
    "sm_90": {"wgmma"},
    "sm_100": {"tcgen05", "mma.sync"},
    "gfx942": {"mfma"},
}
TARGETS = [
    "sm_90",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("sm_80", "sm_100", "gfx942")),
]


@pytest.fixture(scope="module", params=TARGETS)
def rows(request: pytest.FixtureRequest) -> list[dict]:
    # In its own process: in this one the kernels are interpreted.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "bench/compile_kernels.py", "--quick", "--json", "-"]
    done = subprocess.run(
        [*command, "--target", request.param],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    # It complains about spills, too much shared memory, and what does not compile.
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_kernel_is_compiled(rows):
    assert {row["kernel"] for row in rows} == KERNELS


def test_products_are_on_the_tensor_cores(rows):
    products = [row for row in rows if row["kernel"] == "_paired_moments_partial_kernel"]
    assert products
    assert all(row["product"] in PRODUCTS[row["target"]] for row in products)


def test_activations_are_loaded_sixteen_bytes_at_a_time(rows):
    loading = [row for row in rows if row["possible_load"]]
    assert loading
    assert all(row["widest_load"] >= row["possible_load"] for row in loading)


def test_every_kernel_fits_on_a_processor(rows):
    assert all(row["programs_at_once"] >= 1 for row in rows)
