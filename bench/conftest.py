"""What the benches share: the device, and a contest under the clock of pytest-benchmark."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.measuring.contest import Contest
from bench.measuring.roofline import floor_seconds

# Interpreted kernels are never timed.
os.environ.pop("TRITON_INTERPRET", None)

ON_GPU = torch.cuda.is_available()
ROUNDS = 20 if ON_GPU else 5


@pytest.fixture
def device() -> torch.device:
    """Return the device that the benches run on."""
    return torch.device("cuda" if ON_GPU else "cpu")


@pytest.fixture
def compete(benchmark: Any) -> Callable[..., None]:
    """Return a function that times a contest, and notes each provider's ratio to its floor.

    The clock of pytest-benchmark runs over whole rounds of all providers; the times of each are in
    `extra_info["providers"]`.
    """

    def run(
        contest: Contest,
        *,
        case: dict[str, str],
        n_bytes: int,
        flops: Callable[[str], int] = lambda provider: 0,
        unit: Callable[[str], str] = lambda provider: "ieee",
    ) -> None:
        contest.warm_up()
        benchmark.pedantic(contest.play, rounds=ROUNDS)
        name = torch.cuda.get_device_name() if ON_GPU else "CPU"
        rows = contest.results()
        for provider, row in rows.items():
            row["floor_seconds"] = floor_seconds(name, n_bytes, flops(provider), unit(provider))
            took = row.get("device_seconds", row.get("seconds"))
            if took is not None:
                row["ratio_to_floor"] = took / row["floor_seconds"]
                row["bytes_per_second"] = n_bytes / took
        benchmark.extra_info.update(device=name, case=case, bytes=n_bytes, providers=rows)
        wrong = [name for name, row in rows.items() if "seconds" not in row]
        assert "ours" not in wrong, f"ours is wrong: {rows['ours']}"

    return run
