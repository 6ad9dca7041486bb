"""Commands that are killed at random moments lose no image, double none, and change no bit."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import soak
from bench.robustness import kills, marked_images
from repair_kernels.images import open_images
from repair_kernels.statistics.collecting import compute_stats

TAR, TORCHRUN = soak.KINDS[1:]


@pytest.mark.parametrize(
    "kind", [TAR, pytest.param(TORCHRUN, marks=pytest.mark.slow)], ids=["tar", "torchrun"]
)
def test_a_pass_that_is_killed_ends_in_the_same_bits(kind, monkeypatch) -> None:
    monkeypatch.setattr(kills, "MAX_KILLS", 1)
    monkeypatch.setattr(kills, "EARLY", 0)
    monkeypatch.setattr(kills, "LATE", 0)
    monkeypatch.setattr(kills, "STRETCH", 0)
    monkeypatch.setattr(kills, "ONE_RANK", 1)
    one = soak.Round(kind, soak.TAR, shards=1, images=150, batch_size=1, every=0)
    monkeypatch.setattr(soak.Round, "drawn", lambda kind, draw: one)
    (row,) = soak.soak(0, kinds=[kind])
    assert (row["kills"], row["resumes"]) == (1, 1)
    assert row["kills_of_one_rank"] == (kind == TORCHRUN)
    assert (row["counted"], row["lost"], row["doubled"], row["leftovers"]) == (150, 0, 0, 0)
    assert row["identical"]
    assert soak.is_sound(row)


@pytest.mark.parametrize("write", soak.WRITERS.values(), ids=soak.WRITERS)
@pytest.mark.parametrize(
    ("numbers", "lost", "doubled"),
    [(range(40), 0, 0), (range(39), 1, 0), (range(1, 40), 1, 0), ([*range(40), 7, 7], 0, 2)],
)
def test_images_that_are_lost_or_doubled_are_counted(
    tmp_path, torch_backend, write, numbers, lost, doubled
) -> None:
    write(tmp_path / "data", 40)
    source = open_images(tmp_path / "data", preprocessing="none")
    images = next(iter(source.loader(40)))[torch.tensor(list(numbers))]
    networks = marked_images.network(0), marked_images.network(1)
    stats = compute_stats(*networks, images.split(16), cross=[marked_images.HIDDEN])
    found = marked_images.count_images(stats, 40)
    assert found == {"counted": len(numbers), "lost": lost, "doubled": doubled}


SOUND = {"kind": TAR, "images": 3, "counted": 3, "identical": True}
SOUND |= dict.fromkeys(("lost", "doubled", "leftovers", *soak.KILLS), 0)


def test_a_round_is_sound_only_if_all_of_it_is() -> None:
    assert soak.is_sound(SOUND)
    for change in ({"counted": 4}, {"identical": False}, {"lost": 1}, {"leftovers": 1}):
        assert not soak.is_sound({**SOUND, **change})


def test_each_kind_has_a_row_of_sums() -> None:
    rounds = [{**SOUND, "kills": 2}, {**SOUND, "kind": TORCHRUN}, {**SOUND, "identical": False}]
    tar, torchrun = soak.by_kind(rounds)
    assert (tar["kind"], tar["rounds"], tar["kills"], tar["images"]) == (TAR, 2, 2, 6)
    assert (tar["identical"], torchrun["identical"], torchrun["rounds"]) == (1, 1, 1)


def test_kinds_take_turns_and_rounds_are_the_same_for_the_same_seed(monkeypatch) -> None:
    monkeypatch.setattr(soak, "shake", lambda one, draw: one)
    first = soak.soak(0, seed=0)
    assert [one.kind for one in first] == list(soak.KINDS)
    assert first == soak.soak(0, seed=0) != soak.soak(0, seed=1)


FAMILY = """
import subprocess, sys, time
from pathlib import Path
below = "import time; time.sleep(600)"
children = [subprocess.Popen([sys.executable, "-c", below], start_new_session=True) for _ in "ab"]
Path(sys.argv[1]).write_text(" ".join(str(child.pid) for child in children))
sys.exit(max(abs(child.wait()) for child in children[:1]))
"""


@pytest.fixture
def family(tmp_path: Path):
    """A process with two children in sessions of their own, as torchrun's ranks are."""
    written = tmp_path / "children"
    process = subprocess.Popen([sys.executable, "-c", FAMILY, str(written)])
    while not written.exists() or len(written.read_text().split()) < 2:
        time.sleep(0.01)
    yield process, [int(pid) for pid in written.read_text().split()]
    kills._kill_all(process)


def test_all_processes_are_killed_and_gone(family, monkeypatch) -> None:
    process, children = family
    monkeypatch.setattr(kills, "ONE_RANK", 0)
    assert kills._kill(process, random.Random(0)) == "all"
    assert process.poll() == -9
    assert [kills._is_running(pid) for pid in children] == [False, False]


def test_one_rank_is_killed_and_the_others_are_not(family, monkeypatch) -> None:
    process, children = family
    monkeypatch.setattr(kills, "ONE_RANK", 1)
    monkeypatch.setattr(random.Random, "choice", lambda self, ranks: children[1])
    assert kills._kill(process, random.Random(0)) == "one rank"
    assert process.poll() is None
    assert kills._is_running(children[0])


def test_a_process_that_has_ended_is_not_killed() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert kills._kill(process, random.Random(0)) is None


def test_a_command_that_fails_by_itself_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such data')"]
    with pytest.raises(RuntimeError, match=r"(?s)ended with 1, killed: None.*no such data"):
        kills.until_done(command, tmp_path / "out", None)


def test_a_command_that_hangs_is_an_error(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(kills, "LONGEST", 0.1)
    with pytest.raises(RuntimeError, match="ended with nothing within 0 s"):
        kills.until_done(["sleep", "600"], tmp_path / "out", None)


def test_a_result_is_told_from_a_checkpoint(tmp_path: Path) -> None:
    output = tmp_path / "1-of-1.safetensors"
    for name in (".1-of-1-0123abcd.safetensors", output.name):
        (tmp_path / name).touch()
    for name in (f".{output.name}-0123abcd.partial", f"{output.name}.partial.2-of-2"):
        (tmp_path / name).touch()
    results = {name for name, _ in kills._results(output)}
    assert results == {".1-of-1-0123abcd.safetensors", output.name}
    assert {name for name, _ in kills._checkpoints(output)} == {f"{output.name}.partial.2-of-2"}
