"""Processes of torchrun that are killed at a random moment go on to the same bits."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from repair_kernels.statistics import checkpoint_file
from tests.cli.slowly import FIRST
from tests.cli.test_endings import ROOT
from tests.cli.test_torchrun import IN_TURN, free_port, images_in, launched, torchrun
from tests.command_lines import written_pair

pytestmark = pytest.mark.slow

SLOWLY = str(ROOT / "tests" / "cli" / "slowly.py")
IMAGES = 40


def children_of(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def killed(folder: Path, partial: list[Path], *words: str) -> None:
    """Start a pass, and kill all of its processes once each of them has kept some of it."""
    agent = launched(folder, SLOWLY, *words)
    deadline = time.monotonic() + 120
    while not all(file.exists() for file in partial):
        assert agent.poll() is None, agent.communicate()
        assert time.monotonic() < deadline, "nothing is kept"
        time.sleep(0.05)
    time.sleep(random.uniform(0, 0.6))
    ranks = children_of(agent.pid)
    assert len(ranks) == 2
    for pid in (agent.pid, *ranks):
        os.kill(pid, signal.SIGKILL)
    agent.communicate(timeout=60)
    assert agent.returncode == -signal.SIGKILL


def test_a_killed_pass_is_resumed_to_the_bits_of_one_that_was_not(tmp_path: Path) -> None:
    inputs = [*written_pair(tmp_path), *images_in(tmp_path, IMAGES)]
    stats = ["stats", *inputs, "--batch-size", "1", "--quiet", "-o"]
    output, calm = tmp_path / "killed.stats", tmp_path / "calm.stats"
    before = {file.name for file in tmp_path.iterdir()}
    partial = [tmp_path / f"killed.stats.partial.{rank}-of-2" for rank in (1, 2)]
    killed(tmp_path, partial, *stats, str(output), "--checkpoint-every", "0")
    assert not output.exists()
    for file in partial:
        ((start, stop),) = checkpoint_file.read(file).position.ranges
        assert 1 <= stop - start <= FIRST
    commands = [[*stats, str(output), "--resume"], [*stats, str(calm)]]
    in_turn = [(free_port(), words) for words in commands]
    (tmp_path / "commands.json").write_text(json.dumps(in_turn))
    done = torchrun(tmp_path, IN_TURN, "commands.json", "threads")
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == calm.read_bytes()
    mine = {"commands.json", "threads.0", "threads.1"}
    assert {file.name for file in tmp_path.iterdir()} - before - mine == {output.name, calm.name}
