"""A pass that is stopped goes on where it was, to the same bits."""

import itertools
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from repair_kernels.digests import digest_of_tensors
from repair_kernels.errors import ArgumentError, CalibrationDataError, CheckpointError
from repair_kernels.statistics import checkpoint_file
from repair_kernels.statistics.checkpoint_file import FORMAT
from repair_kernels.statistics.collecting import compute_stats
from repair_kernels.statistics.paired_stats import PairedStats
from repair_kernels.statistics.parts import merge_files
from repair_kernels.statistics.resuming import Checkpointing
from tests.networks import FAMILIES, PLAIN, Family
from tests.numbers import Killed, Numbers

MLP = FAMILIES["mlp"]
BATCHES = [MLP.inputs(n, seed) for seed, n in enumerate([7, 7, 7, 7, 3])]


def until(batches: list[Tensor], count: int) -> Iterator[Tensor]:
    yield from itertools.islice(batches, count)
    raise Killed


def stats_of(batches, *, family: Family = MLP, seeds=(0, 1), **options) -> PairedStats:
    a, b = (family.network(seed) for seed in seeds)
    return compute_stats(a, b, batches, backend="torch", **options)


def saved(stats: PairedStats, path: Path) -> bytes:
    stats.save(path)
    return path.read_bytes()


def kept(path: Path, *, resume: bool = True, **every) -> Checkpointing:
    return Checkpointing(path, resume=resume, **(every or {"seconds": 0}))


@pytest.mark.parametrize(
    ("stop", "options"),
    [(1, {}), (3, {"joint": True, "cross": "all"}), (5, {"cross": []})],
    ids=str,
)
def test_a_pass_that_was_stopped_ends_in_the_same_bits(tmp_path, stop, options) -> None:
    file = tmp_path / "run.partial"
    with pytest.raises(Killed):
        stats_of(until(BATCHES, stop), checkpointing=kept(file), **options)
    resumed = stats_of(BATCHES, checkpointing=kept(file), **options)
    whole = stats_of(BATCHES, **options)
    assert saved(resumed, tmp_path / "x") == saved(whole, tmp_path / "y")


@pytest.mark.parametrize("shard", ["1/2", "2/2"])
def test_a_shard_of_a_source_that_was_stopped_twice_ends_in_the_same_bits(tmp_path, shard) -> None:
    data = Numbers(31).loader(4)
    for killed in (replace(data, killed_after=1), replace(data, killed_after=1)):
        with pytest.raises(Killed):
            stats_of(killed, shard=shard, checkpointing=kept(tmp_path / "run"))
    data.read.clear()
    resumed = stats_of(data, shard=shard, checkpointing=kept(tmp_path / "run"))
    assert len(data.read) == 2
    whole = stats_of(data, shard=shard)
    assert saved(resumed, tmp_path / "x") == saved(whole, tmp_path / "y")


def test_a_shard_of_other_batches_that_was_stopped_ends_in_the_same_bits(tmp_path) -> None:
    with pytest.raises(Killed):
        stats_of(until(BATCHES, 2), shard="2/2", checkpointing=kept(tmp_path / "run"))
    resumed = stats_of(BATCHES, shard="2/2", checkpointing=kept(tmp_path / "run"))
    whole = stats_of(BATCHES, shard="2/2")
    assert saved(resumed, tmp_path / "x") == saved(whole, tmp_path / "y")


def test_a_shard_without_images_is_a_part_like_any_other(tmp_path) -> None:
    a, b = (MLP.network(seed).double() for seed in (0, 1))
    batches = [batch.double() for batch in BATCHES[:2]]
    for number in (1, 2, 3):
        compute_stats(a, b, batches, shard=f"{number}/3", backend="torch").save(
            tmp_path / f"{number}"
        )
    assert PairedStats.load(tmp_path / "3").n_images == 0
    merged = merge_files([tmp_path / f"{number}" for number in (3, 2, 1)])
    whole = compute_stats(a, b, batches, backend="torch")
    assert merged.n_images == 14
    for tap, moments in whole.items():
        for name, value in moments.tensors.items():
            torch.testing.assert_close(merged[tap].tensors[name], value, rtol=1e-10, atol=1e-10)


def test_images_of_several_sizes_of_batches_and_taps_go_on(tmp_path) -> None:
    batches = [PLAIN.inputs(n, n) for n in (4, 2, 5)]
    with pytest.raises(Killed):
        stats_of(until(batches, 2), family=PLAIN, checkpointing=kept(tmp_path / "run"))
    resumed = stats_of(batches, family=PLAIN, checkpointing=kept(tmp_path / "run"))
    whole = stats_of(batches, family=PLAIN)
    assert saved(resumed, tmp_path / "x") == saved(whole, tmp_path / "y")


def test_a_pass_that_was_done_is_not_done_again(tmp_path) -> None:
    data = Numbers(30).loader(4)
    first = stats_of(data, checkpointing=kept(tmp_path / "run"))
    data.read.clear()
    again = stats_of(data, checkpointing=kept(tmp_path / "run"))
    assert data.read == []
    assert saved(again, tmp_path / "x") == saved(first, tmp_path / "y")


def test_a_checkpoint_is_written_as_often_as_asked(tmp_path, monkeypatch) -> None:
    written = []
    write = checkpoint_file.write
    monkeypatch.setattr(
        "repair_kernels.statistics.resuming.checkpoint_file.write",
        lambda path, state: (written.append(state.running.batches), write(path, state)),
    )
    clock = itertools.count(0, 10)
    monkeypatch.setattr(
        "repair_kernels.statistics.resuming.time", SimpleNamespace(monotonic=clock.__next__)
    )
    stats_of(BATCHES, checkpointing=kept(tmp_path / "batches", seconds=1e9, batches=2))
    assert written == [2, 4, 5]
    written.clear()
    stats_of(BATCHES, checkpointing=kept(tmp_path / "seconds", seconds=30))
    assert written == [3, 5]


def test_a_file_that_is_there_is_not_overwritten_unasked(tmp_path) -> None:
    stats_of(BATCHES, checkpointing=kept(tmp_path / "run", resume=False))
    before = (tmp_path / "run").read_bytes()
    with pytest.raises(
        CheckpointError, match=r"expected no checkpoint at '.*/run', but one is there; give `resu"
    ):
        stats_of(BATCHES, checkpointing=kept(tmp_path / "run", resume=False))
    assert (tmp_path / "run").read_bytes() == before


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """What a pass leaves that is killed after two batches."""
    file = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Killed):
        stats_of(until(BATCHES, 2), checkpointing=kept(file), joint=True)
    return file


@pytest.fixture
def run(stopped, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(stopped, tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": FAMILIES["mlp_without_bias"]}, "in the architecture, the weights of a, "),
        ({"seeds": (2, 1)}, "in the weights of a; resume with what it was started with"),
        ({"seeds": (0, 0)}, "in the weights of b; resume"),
        ({"cross": "all"}, "in the taps or the products kept there; resume"),
        ({"batches": [BATCHES[1], BATCHES[0]]}, "in the data; resume"),
        ({"n_samples": 9}, "in the data; resume"),
        ({"shard": "1/2"}, r"in option `shard` \('1/1' there, '1/2' here\); resume"),
        ({"precision": "ieee"}, r"option `precision` \('tf32x3' there, 'ieee' here\); resume"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(run, change, words) -> None:
    options = {"batches": BATCHES, "joint": True, **change}
    with pytest.raises(CheckpointError, match=f"expected a checkpoint of this run .* {words}"):
        stats_of(options.pop("batches"), checkpointing=kept(run), **options)


def test_data_of_which_a_later_batch_changed_are_refused(run) -> None:
    changed = [BATCHES[0], BATCHES[4], *BATCHES[2:]]
    with pytest.raises(CalibrationDataError, match="must be as before the stop"):
        stats_of(changed, checkpointing=kept(run), joint=True)


def test_a_value_that_is_not_finite_has_the_number_of_its_batch(run) -> None:
    broken = [*BATCHES[:3], BATCHES[3] * torch.inf]
    with pytest.raises(ValueError, match="in batch 3;"):
        stats_of(broken, checkpointing=kept(run), joint=True)


@pytest.mark.parametrize("every", [{"seconds": -1}, {"seconds": math.nan}, {"batches": 0}])
def test_times_that_are_none_are_refused(every) -> None:
    with pytest.raises(ArgumentError, match="at least 0 seconds and 1 batch between two; got"):
        Checkpointing("x", **every)


def test_each_rank_has_a_file_of_its_own(tmp_path) -> None:
    names = [Checkpointing(tmp_path / "run").of_rank(rank, 2).path for rank in (0, 1)]
    assert names == [tmp_path / "run.1-of-2", tmp_path / "run.2-of-2"]


@pytest.mark.parametrize(
    ("left", "world", "said"),
    [
        (["run"], 2, "than 2, but '.*run' is one of 1; go on with 1 .* or remove 1 such file to"),
        (["run.1-of-4", "run.2-of-4"], 2, "run.1-of-4' is one of 4; go on with 4 .* remove 2 such"),
        (["run", "run.3-of-4"], 1, "than 1, but '.*run.3-of-4' is one of 4"),
    ],
)
def test_another_number_of_processes_does_not_start_beside_checkpoints(
    tmp_path, left: list[str], world: int, said: str
) -> None:
    for name in left:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=said):
        Checkpointing(tmp_path / "run", resume=True).check_processes(world)


def test_as_many_processes_may_start_beside_their_checkpoints(tmp_path) -> None:
    for name in ("run.1-of-2", "run.2-of-2", "run.x-of-3", "runs.1-of-3"):
        (tmp_path / name).touch()
    Checkpointing(tmp_path / "run").check_processes(2)


def test_a_checkpoint_that_cannot_be_written_is_named_and_not_its_temporary_file(tmp_path) -> None:
    match = r"cannot write a checkpoint to '.*/absent/x': No such file or directory; name a file in"
    with pytest.raises(CheckpointError, match=match):
        stats_of(BATCHES, checkpointing=kept(tmp_path / "absent" / "x"))


# --- the file ------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_bit_for_bit(run, tmp_path) -> None:
    checkpoint_file.write(tmp_path / "again", checkpoint_file.read(run))
    assert (tmp_path / "again").read_bytes() == run.read_bytes()


@pytest.mark.parametrize("at", range(0, 16000, 640))
def test_every_changed_bit_of_a_checkpoint_is_found(run, at) -> None:
    raw = bytearray(run.read_bytes())
    raw[at % len(raw)] ^= 1 << at % 8
    run.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"run' .*\. Remove it to start anew"):
        checkpoint_file.read(run)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c, t: c.update(version=2), "expected format version 1, got 2"),
        (lambda c, t: c.update(options=3), "expected options, and the size of the first batch"),
        (lambda c, t: c.update(first_size=-1), "expected options, and the size of the first batch"),
        (lambda c, t: c.update(position=[1, 2]), r"expected a position in the data, got \[1, 2\]"),
        (lambda c, t: c.update(position=[1, -2, []]), "expected a position in the data"),
        (lambda c, t: c.update(position=[1, 2, [[3]]]), "expected ranges of image numbers"),
        (lambda c, t: c.update(fingerprint=None), "expected a fingerprint"),
        (lambda c, t: c.update(taps=None), "expected taps, and the number of batches"),
        (lambda c, t: c["taps"][0].append(1), "expected a tap with its counts"),
        (lambda c, t: c["taps"][0].__setitem__(1, 2), "expected a tap with its counts"),
        (lambda c, t: c["taps"][0].__setitem__(2, 9), "means and m2 of|does not belong"),
        (lambda c, t: c["taps"].pop(), "means and m2 of|does not belong"),
        (lambda c, t: t.pop("mean"), "expected finite float64 totals"),
        (lambda c, t: t["mean"].fill_(torch.nan), "expected finite float64 totals"),
        (lambda c, t: t.update(m2=t["m2"].float()), "expected finite float64 totals"),
        (lambda c, t: t.update(x=torch.zeros(1)), "the tensor 'x' does not belong to the taps"),
    ],
)
def test_a_checkpoint_that_was_forged_is_refused(run, damage, words) -> None:
    from safetensors import safe_open

    with safe_open(run, framework="pt") as file:
        content = json.loads(file.metadata()[FORMAT])
    tensors = load_file(run)
    del content["sha256"]
    damage(content, tensors)
    content["sha256"] = digest_of_tensors(tensors, json.dumps(content))
    save_file(tensors, run, metadata={FORMAT: json.dumps(content)})
    with pytest.raises(CheckpointError, match=f"no valid checkpoint of a run: .*({words})"):
        checkpoint_file.read(run)


def test_statistics_are_no_checkpoint_and_a_checkpoint_no_statistics(run, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="A checkpoint of weights is not a statistics file"):
        PairedStats.load(run)
    stats_of(BATCHES).save(tmp_path / "stats")
    with pytest.raises(CheckpointError, match="expected format version 1, got None"):
        checkpoint_file.read(tmp_path / "stats")
    with pytest.raises(
        CheckpointError, match="expected a checkpoint at '.*', but none is there; check"
    ):
        checkpoint_file.read(tmp_path / "absent")
