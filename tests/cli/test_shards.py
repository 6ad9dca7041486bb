"""Statistics by shards on the command line: what adds up, what goes on, what is refused."""

import pytest
import torch

from repair_kernels.checkpoints import save_state_dict
from repair_kernels.cli import main
from repair_kernels.statistics.paired_stats import PairedStats
from tests.networks import FAMILIES

pytestmark = pytest.mark.usefixtures("torch_backend")


@pytest.fixture
def stats(tmp_path):
    """Write two checkpoints and data; return a function that runs `stats` on them."""
    family = FAMILIES["mlp"]
    for name, seed in (("a", 0), ("b", 1)):
        save_state_dict(family.network(seed).state_dict(), tmp_path / f"{name}.safetensors")
    torch.save({"inputs": family.inputs(60)}, tmp_path / "data.pt")
    command = ["stats", "--model", "models.mlp:MLP", "--batch-size", "9"]
    for argument in ("depth=2", "width=8", "in_features=12", "classes=5"):
        command += ["--model-arg", argument]
    for name, file in (("a", "a.safetensors"), ("b", "b.safetensors"), ("data", "data.pt")):
        command += [f"--{name}", str(tmp_path / file)]

    def run(output: str, *options: str) -> int:
        return main([*command, "-o", str(tmp_path / output), *options])

    return run


def test_shards_merge_to_the_whole(stats, tmp_path, capsys) -> None:
    for number in (1, 2, 3):
        assert stats(f"part{number}", "--shard", f"{number}/3") == 0
    assert "images (shard 3/3), written to" in capsys.readouterr().out
    assert stats("whole") == 0
    parts = [str(tmp_path / f"part{number}") for number in (2, 3, 1)]
    assert main(["merge-stats", *parts, "-o", str(tmp_path / "all")]) == 0
    assert "3 parts, 60 images, written to" in capsys.readouterr().out
    merged, whole = (PairedStats.load(tmp_path / name) for name in ("all", "whole"))
    for tap, moments in whole.items():
        for name, value in moments.tensors.items():
            torch.testing.assert_close(merged[tap].tensors[name], value, rtol=1e-5, atol=1e-4)


def test_missing_shards_are_said_and_may_be_allowed(stats, tmp_path, capsys) -> None:
    stats("part", "--shard", "2/3")
    merge = ["merge-stats", str(tmp_path / "part"), "-o", str(tmp_path / "all")]
    assert main(merge) == 1
    assert "shards 1/3, 3/3 are missing; compute these, or allow" in capsys.readouterr().err
    assert not (tmp_path / "all").exists()
    assert main([*merge, "--partial"]) == 0
    assert "1 part, 18 images (not all), written" in capsys.readouterr().out


def test_shards_of_other_divisions_that_overlap_are_refused(stats, tmp_path, capsys) -> None:
    stats("one", "--shard", "1/2")
    stats("two", "--shard", "2/4")
    stats("three", "--shard", "3/4")
    parts = [str(tmp_path / name) for name in ("one", "two", "three")]
    assert main(["merge-stats", *parts, "-o", str(tmp_path / "all")]) == 1
    assert "images 18 to 27 would be counted twice (shards 1/2 and 3/4)" in capsys.readouterr().err


def test_no_checkpoint_is_left_once_the_result_is_written(stats, tmp_path) -> None:
    assert stats("whole", "--checkpoint-every", "0") == 0
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_that_was_killed_goes_on(stats, tmp_path, monkeypatch, capsys) -> None:
    with monkeypatch.context() as patch:

        def killed(*_, **__):
            raise KeyboardInterrupt

        patch.setattr(PairedStats, "save", killed)
        assert stats("whole") == 130
    assert stats("whole") == 1
    assert "give `resume=True` (`--resume`) to go on from it" in capsys.readouterr().err
    assert stats("whole", "--shard", "1/2", "--resume") == 1
    assert "option `shard` ('1/1' there, '1/2' here)" in capsys.readouterr().err
    assert stats("whole", "--resume") == 0
    assert PairedStats.load(tmp_path / "whole").n_images == 60
    assert not (tmp_path / "whole.partial").exists()


@pytest.mark.parametrize("shard", ["0/3", "4/3", "three"])
def test_what_is_no_shard_is_explained(stats, shard, capsys) -> None:
    assert stats("part", "--shard", shard) == 1
    assert "from 1/16 to 16/16" in capsys.readouterr().err


def test_checkpoints_of_another_number_of_processes_are_not_left_behind(
    stats, tmp_path, capsys
) -> None:
    for rank in (1, 2):
        (tmp_path / f"whole.partial.{rank}-of-2").touch()
    assert stats("whole", "--resume") == 1
    said = capsys.readouterr().err
    assert "expected no checkpoint of another number of processes than 1, but " in said
    assert "whole.partial.1-of-2' is one of 2; go on with 2 (torchrun --nproc-per-node=2), " in said
    assert "or remove 2 such files to start anew" in said
    assert not (tmp_path / "whole").exists()


def test_no_number_is_no_time_between_checkpoints(stats, capsys) -> None:
    assert stats("whole", "--checkpoint-every", "nan") == 1
    assert "at least 0 seconds and 1 batch between two; got nan" in capsys.readouterr().err
