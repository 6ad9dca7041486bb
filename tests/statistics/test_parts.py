"""Files of parts, merged: the whole, whatever the order, and nothing that does not belong to it."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch

from repair_kernels.errors import (
    ArchitectureMismatchError,
    ArgumentError,
    CheckpointError,
    StatisticsMismatchError,
)
from repair_kernels.statistics import parts
from repair_kernels.statistics.fingerprint import Coverage, Fingerprint
from repair_kernels.statistics.paired_stats import PairedStats
from repair_kernels.statistics.parts import merge_files
from tests.two_pass import two_pass

N = 24
OF = Fingerprint("graph", "weights a", "weights b", "taps", "images")
SHARDS = {"first": (0, 5), "second": (5, 18), "empty": (18, 18), "last": (18, N)}


def stats_of(start: int, stop: int, **change) -> PairedStats:
    """Statistics of some images of one data set, with products of every kind."""
    x = 5 + torch.randn(N, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x[start:stop]
    kinds = {"conv": "joint", "add": "cross", "fc": "none"}
    taps = {tap: two_pass(x[:, :3], x[:, 3:], kind) for tap, kind in kinds.items() if start < stop}
    fingerprint = replace(OF, **{"coverage": Coverage.of([(start, stop)], N), **change})
    return PairedStats(taps if start < stop else {}, n_images=stop - start, fingerprint=fingerprint)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Write the parts of one data set, one of them without images."""
    for number, (name, images) in enumerate(SHARDS.items(), 1):
        coverage = Coverage.of([images], N, [f"{number}/{len(SHARDS)}"])
        stats_of(*images, coverage=coverage).save(tmp_path / name)
    return [tmp_path / name for name in SHARDS]


def test_merged_parts_are_the_whole(files) -> None:
    merged, whole = merge_files(files), stats_of(0, N)
    assert list(merged) == list(whole)
    assert merged.n_images == N
    for tap in whole:
        for name, value in whole[tap].tensors.items():
            torch.testing.assert_close(merged[tap].tensors[name], value, rtol=1e-12, atol=1e-12)
    assert merged.fingerprint is not None
    coverage = merged.fingerprint.coverage
    assert coverage == Coverage.of([(0, N)], N, ["1/4", "2/4", "3/4", "4/4"])


def test_the_order_of_the_files_changes_no_bit(files, tmp_path) -> None:
    merge_files(files).save(tmp_path / "whole")
    expected = (tmp_path / "whole").read_bytes()
    for order in list(permutations(files))[::5]:
        merge_files(order).save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == expected


def test_merged_files_can_be_merged_again(files, tmp_path) -> None:
    merge_files(files[:2], partial=True).save(tmp_path / "left")
    merge_files(files[2:], partial=True).save(tmp_path / "right")
    again = merge_files([tmp_path / "right", tmp_path / "left"])
    assert again.n_images == N


def test_no_more_than_two_parts_are_in_memory(files, monkeypatch) -> None:
    alive: list = []
    load = PairedStats.load

    def counted(path):
        import gc
        import weakref

        gc.collect()
        assert sum(one() is not None for one in alive) <= 1
        loaded = load(path)
        if loaded:
            alive.append(weakref.ref(loaded["conv"].mean_a.untyped_storage()))
        return loaded

    monkeypatch.setattr(parts.PairedStats, "load", counted)
    merge_files(files)
    assert len(alive) == 3


def test_what_is_missing_is_said(files, tmp_path) -> None:
    with pytest.raises(
        StatisticsMismatchError,
        match=r"must cover all images; they cover images 0 to 5 of 24, and shards 2/4, 4/4 are "
        r"missing; compute these, or allow a part with `partial=True`",
    ):
        merge_files([files[0], files[2]])
    stats_of(0, 5).save(tmp_path / "a")
    with pytest.raises(StatisticsMismatchError, match="and images 5 to 24 are missing; compute"):
        merge_files([tmp_path / "a"])
    assert merge_files([tmp_path / "a"], partial=True).n_images == 5


@pytest.mark.parametrize(
    ("images", "change", "error", "words"),
    [
        ((4, 18), {}, StatisticsMismatchError, "images 4 to 5 would be counted twice; leave"),
        ((0, 5), {}, StatisticsMismatchError, "images 0 to 5 would be counted twice"),
        ((5, 18), {"architecture": "x"}, ArchitectureMismatchError, "one architecture"),
        ((5, 18), {"weights_b": "x"}, StatisticsMismatchError, "the weights of b differ"),
        ((5, 18), {"taps": "x"}, ArchitectureMismatchError, "the same taps"),
        ((5, 18), {"data": "x"}, StatisticsMismatchError, "parts of the same data"),
        (
            (5, 18),
            {"coverage": Coverage.of([(5, 18)], 30)},
            StatisticsMismatchError,
            "24 images in all.* of 30;",
        ),
    ],
)
def test_a_part_that_does_not_belong_is_named(tmp_path, images, change, error, words) -> None:
    stats_of(0, 5).save(tmp_path / "one")
    stats_of(18, N).save(tmp_path / "two")
    stats_of(*images, **change).save(tmp_path / "odd")
    with pytest.raises(error, match=f"/odd'.*{words}"):
        merge_files([tmp_path / name for name in ("one", "two", "odd")])


def test_an_overlap_of_parts_that_are_no_neighbours_is_found(tmp_path) -> None:
    ranges = {"wide": [(0, 2), (20, 24)], "mid": [(2, 4)], "late": [(23, 24)]}
    for name, held in ranges.items():
        coverage = Coverage.of(held, N)
        moments = stats_of(0, coverage.n_images)
        fingerprint = replace(OF, coverage=coverage)
        PairedStats(moments, n_images=coverage.n_images, fingerprint=fingerprint).save(
            tmp_path / name
        )
    with pytest.raises(StatisticsMismatchError, match=r"wide' and '.*late': .*images 23 to 24"):
        merge_files([tmp_path / name for name in ranges])


def test_files_that_do_not_say_what_they_are_of_are_refused(files, tmp_path) -> None:
    for number, fingerprint in enumerate((None, OF)):
        silent = PairedStats(stats_of(0, 5), n_images=5, fingerprint=fingerprint)
        silent.save(tmp_path / f"silent{number}")
        with pytest.raises(StatisticsMismatchError, match=r"which networks .*silent.' does not; "):
            merge_files([tmp_path / f"silent{number}", *files])


def test_a_file_named_twice_and_none_at_all_are_refused(files) -> None:
    with pytest.raises(StatisticsMismatchError, match="merged once; .*first' is named several"):
        merge_files([*files, files[0]])
    with pytest.raises(ArgumentError, match="`paths` must name the statistics files to merge"):
        merge_files([])


def test_a_broken_part_is_named(files) -> None:
    files[1].write_bytes(files[1].read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="second' is no whole safetensors file"):
        merge_files(files)
