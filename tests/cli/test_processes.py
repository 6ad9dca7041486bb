"""The command line under torchrun: real processes share the data, and one writes and prints."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from repair_kernels.cli import main
from repair_kernels.cli.parser import parser
from repair_kernels.cli.processes import Process
from repair_kernels.cli.shards import run_stats
from repair_kernels.errors import ArgumentError
from repair_kernels.statistics.paired_stats import PairedStats
from tests.cli.test_endings import ENVIRONMENT

SIZE = 2


def port() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def launched(folder, *words: str) -> list[subprocess.CompletedProcess]:
    """Start the command line as torchrun does, in several processes; return how each ended."""
    group = {"MASTER_ADDR": "localhost", "MASTER_PORT": port(), "WORLD_SIZE": str(SIZE)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "repair_kernels", *words],
            cwd=folder,
            env={**ENVIRONMENT, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(SIZE)
    ]
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return ended


@pytest.mark.slow
@pytest.mark.usefixtures("torch_backend")
@pytest.mark.parametrize("totals", ["device", "ranks"])
def test_processes_together_compute_what_one_does(pair, tmp_path, totals) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    options = ["--samples", "40", "--totals", totals, "-o", "of-two", "--json"]
    first, second = launched(tmp_path, "stats", *pair, *options)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert json.loads(first.stdout)["images"] == 40
    assert second.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == before | {"of-two"}
    assert main(["stats", *pair, "--samples", "40", "-o", str(tmp_path / "of-one"), "--quiet"]) == 0
    two, one = (PairedStats.load(tmp_path / name) for name in ("of-two", "of-one"))
    # Sums over a batch are float32, about the mean of what a process saw before.
    for tap, moments in one.items():
        for name, value in moments.tensors.items():
            torch.testing.assert_close(two[tap].tensors[name], value, rtol=1e-6, atol=1e-6)


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
