"""Times of batches, and what is said of those of several processes."""

import pytest
import torch
from torch import nn

from bench.measuring.stopwatch import Stopwatch, Times, summary

ONE = Times([4, 4, 2], [9.0, 1.0, 2.0], [9.0, 2.0, 1.0], [10.0, 3.0, 1.0], 0.5)
OTHER = Times([4, 8], [9.0, 2.0], [9.0, 4.0], [12.0, 4.0], 0.25)
NONE = Times(merging=7.0)


def test_the_first_batch_counts_as_capture() -> None:
    found = summary([ONE])
    assert list(found["seconds"].values()) == [8.0, 3.0, 4.0, 3.0, 0.5]
    assert found["ratio"] == 1.25
    assert found["images_per_second"]["statistics"] == 1.5
    assert found["images_per_second"]["data and statistics"] == 6 / 7


def test_rates_of_processes_add_up_and_the_slowest_ones_seconds_count() -> None:
    found = summary([ONE, NONE, OTHER])
    assert list(found["seconds"].values()) == [8.0, 3.0, 4.0, 4.0, 0.25]
    assert found["images_per_second"]["statistics"] == 1.5 + 2.0
    assert (found["timed_images"], found["timed_batches"]) == (14, 3)
    assert found["ratio"] == 1.0


def test_batches_are_timed_as_they_are_handed_over() -> None:
    model = nn.Linear(3, 2)
    watch = Stopwatch([torch.rand(4, 3), torch.rand(2, 3)], (model, model), torch.device("cpu"))
    assert [len(batch) for batch in watch] == [4, 2]
    times = watch.finish()
    assert times.images == [4, 2]
    assert min(times.data + times.forward + times.statistics) >= 0
    assert times.merging >= 0


def test_what_the_receiver_takes_is_its_time() -> None:
    watch = Stopwatch([torch.rand(1, 3)], (), torch.device("cpu"))
    for _ in watch:
        torch.rand(400, 400) @ torch.rand(400, 400)
    assert watch.times.statistics[0] > watch.times.forward[0]
    assert watch.times.data == pytest.approx([0], abs=0.1)
