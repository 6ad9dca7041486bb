"""Processes that are killed at random moments lose no image, double none, and change no bit."""

import multiprocessing
import random
from dataclasses import replace

import pytest
import torch

from bench import soak
from repair_kernels.statistics.collecting import compute_stats


@pytest.mark.parametrize("kind", ["source", "iterator"])
def test_a_pass_killed_again_and_again_ends_in_the_same_bits(kind, monkeypatch) -> None:
    monkeypatch.setattr(soak, "MAX_KILLS", 3)
    monkeypatch.setattr(
        soak.Round, "drawn", lambda draw: soak.Round(kind, 1, images=4000, batch_size=16, every=1)
    )
    multiprocessing.get_context("forkserver").set_forkserver_preload(["bench.soak"])
    (row,) = soak.soak(0, seed=1, start="forkserver")
    assert row["kills"] >= 1
    assert row["same_bits"]
    assert (row["counted"], row["lost"], row["doubled"], row["leftovers"]) == (4000, 0, 0, 0)
    assert soak.is_sound(row)


@pytest.mark.parametrize(
    ("numbers", "lost", "doubled"),
    [(range(40), 0, 0), (range(39), 1, 0), (range(1, 40), 1, 0), ([*range(40), 7, 7], 0, 2)],
)
def test_images_that_are_lost_or_doubled_are_counted(numbers, lost, doubled) -> None:
    images = soak.Numbered(40).images(range(40))[torch.tensor(list(numbers))]
    found = soak.counted(compute_stats(*soak.networks(), [images], backend="torch"), 40)
    assert (found["lost"], found["doubled"]) == (lost, doubled)
    assert found["counted"] == len(numbers)
    assert found["sum_of_numbers_off_by"] == sum(numbers) - 780


def test_a_round_is_sound_only_if_all_of_it_is() -> None:
    sound = {"images": 3, "counted": 3, "same_bits": True}
    sound |= dict.fromkeys(("lost", "doubled", "sum_of_numbers_off_by", "leftovers"), 0)
    assert soak.is_sound(sound)
    for change in ({"counted": 4}, {"same_bits": False}, {"lost": 1}, {"leftovers": 1}):
        assert not soak.is_sound({**sound, **change})


def test_rounds_are_the_same_for_the_same_seed() -> None:
    drawn = [[soak.Round.drawn(random.Random(seed)) for _ in range(3)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert replace(drawn[0][0]) == drawn[0][0]
