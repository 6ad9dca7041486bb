"""Every kernel compiles for real chips, on a machine without any."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "kernel",
    "target",
    "config",
    "shared_bytes",
    "spill_bytes",
    "registers",
    "tensor_core",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    # In its own process: in this one the kernels are interpreted.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "bench/compile_kernels.py", "--quick", "--json", "-"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_kernel_is_compiled_for_every_target(rows):
    names = {
        f"_{op}_kernel"
        for op in (
            "channel_moments_partial",
            "channel_moments_combine",
            "paired_moments_partial",
            "paired_moments_combine",
            "lerp_rescale",
        )
    }
    compiled = {(row["kernel"], row["target"]) for row in rows}
    assert compiled == {
        (name, target) for name in names for target in ("sm_80", "sm_90", "sm_100", "gfx942")
    }


def test_rows_have_the_promised_keys(rows):
    assert all(set(row) == KEYS for row in rows)


def test_nothing_spills(rows):
    assert [row for row in rows if row["spill_bytes"]] == []


def test_products_are_on_the_tensor_cores(rows):
    products = [
        row
        for row in rows
        if row["kernel"] == "_paired_moments_partial_kernel" and "PRECISION=tf32" in row["config"]
    ]
    assert {row["target"] for row in products} == {"sm_80", "sm_90", "sm_100", "gfx942"}
    assert all(row["tensor_core"] for row in products)
