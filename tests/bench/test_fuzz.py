"""Damaged and hostile files are read or refused by every reader; and what is not would be seen."""

import pickle
import random
from dataclasses import replace
from pathlib import Path

import pytest

from bench import fuzz
from bench.robustness import hostile
from bench.robustness.mutations import MUTATIONS, mutate
from bench.robustness.readers import TARGETS
from repair_kernels.errors import RepairKernelsError

pytestmark = pytest.mark.usefixtures("unchecked_annotations")
FILES = 22


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_and_hostile_files_are_read_or_refused(tmp_path, name) -> None:
    row = fuzz.fuzz(name, range(FILES), 1, tmp_path)
    assert row["faults"] == []
    assert row["read"] + row["refused"] == FILES
    assert row["refused"] > 0


@pytest.mark.parametrize("name", ["merge-stats", "pt", "tar shard", "configuration"])
def test_a_sound_file_is_read(tmp_path, monkeypatch, name) -> None:
    monkeypatch.setattr(fuzz, "_mutant", lambda sound, *_: ("none", sound))
    row = fuzz.fuzz(name, range(1), 0, tmp_path)
    assert (row["read"], row["faults"]) == (1, [])


def executed(path: Path) -> None:
    try:
        pickle.loads(path.read_bytes())
    except Exception as error:
        raise RepairKernelsError from error


def broken(path: Path) -> None:
    raise KeyError("a header")


def untidy(path: Path) -> None:
    path.with_name("part of an output").touch()


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (executed, "code was run"),
        (broken, "KeyError in test_fuzz.py"),
        (untidy, "left ['part of an output']"),
        (lambda path: sum(range(10**7)), "took more than 0 s"),
        (lambda path: len(b"x" * (2**28 + len(str(path)))), "took "),
    ],
)
def test_every_kind_of_fault_is_seen(tmp_path, monkeypatch, read, fault) -> None:
    target = replace(TARGETS["pt"], read=read, attacks=hostile.payloads)
    monkeypatch.setitem(fuzz.TARGETS, "pt", target)
    monkeypatch.setattr(fuzz, "SECONDS", 0.01 if "more than" in fault else 30)
    monkeypatch.setattr(fuzz, "GROWTH", 2**24)
    monkeypatch.setattr(fuzz, "HOSTILE", 1.0)
    row = fuzz.fuzz("pt", range(12), 0, tmp_path)
    assert any(one["fault"].startswith(fault) for one in row["faults"])


def test_contents_that_changed_under_a_checksum_are_a_fault(tmp_path, monkeypatch) -> None:
    target = replace(TARGETS["statistics"], read=lambda path: path.read_bytes())
    monkeypatch.setitem(fuzz.TARGETS, "statistics", target)
    row = fuzz.fuzz("statistics", range(3), 0, tmp_path)
    assert {one["fault"] for one in row["faults"]} == {"read with other contents"}


def test_mutants_are_the_same_for_the_same_seed_and_nearly_all_differ_from_the_file() -> None:
    data = bytes(range(256)) * 4
    made = [mutate(data, random.Random(seed)) for seed in range(200)]
    assert made == [mutate(data, random.Random(seed)) for seed in range(200)]
    assert sum(mutant != data for _, mutant in made) > 190
    assert {name.split("+")[0] for name, _ in made} == set(MUTATIONS)


@pytest.mark.parametrize("data", [b"", b"x", b"1" * 9])
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_smallest_files_can_be_damaged(name, data) -> None:
    for seed in range(20):
        assert isinstance(MUTATIONS[name](data, random.Random(seed)), bytes)


def test_the_payloads_would_run(tmp_path) -> None:
    for payload in hostile.payloads(tmp_path / "trap").values():
        pickle.loads(payload)
        assert (tmp_path / "trap").exists()
        (tmp_path / "trap").unlink()
