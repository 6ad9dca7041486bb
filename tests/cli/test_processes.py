"""The command line in one of several processes, and outside of them."""

import os

import pytest

from repair_kernels.cli import main
from repair_kernels.cli.parser import parser
from repair_kernels.cli.processes import Process
from repair_kernels.cli.shards import run_stats
from repair_kernels.errors import ArgumentError


def test_rows_need_processes_and_go_without_checkpoints(pair, tmp_path, capsys) -> None:
    stats = ["stats", *pair, "--totals", "ranks", "-o", str(tmp_path / "stats")]
    assert main(stats) == 1
    said = capsys.readouterr().err
    assert "`--totals ranks` needs processes that torchrun started; this is none; start " in said
    options = parser().parse_args([*stats, "--resume"])
    with pytest.raises(ArgumentError, match="in one go; got `--resume`; leave one of the two out"):
        run_stats(options, Process(0, 2, object()))
    options = parser().parse_args([*stats, "--checkpoint", "there"])
    with pytest.raises(ArgumentError, match="got `--checkpoint`; .* or take `--totals host`"):
        run_stats(options, Process(0, 2, object()))


def test_what_one_process_does_is_not_done_by_the_others(monkeypatch, capsys) -> None:
    command = ["inspect", "--model", "models.mlp:MLP", "--input-shape", "784"]
    monkeypatch.setenv("RANK", "1")
    assert main(command) == 0
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert main([*command, "--model-arg", "depth=2", "--model-arg", "width=8"]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_a_group_outside_of_torchrun_is_explained(pair, tmp_path, capsys, backend) -> None:
    assert "RANK" not in os.environ
    stats = ["stats", *pair, "--process-group", backend, "-o", str(tmp_path / "stats")]
    assert main(stats) == 1
    said = capsys.readouterr().err
    assert (
        f"`--process-group {backend}` needs processes that torchrun started; this is none" in said
    )
    assert "torchrun --nproc-per-node=N -m repair_kernels" in said
