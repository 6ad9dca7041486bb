"""The command line under torchrun: two processes share the data, and one writes and prints."""

import csv
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import repair_kernels as rk
from repair_kernels.cli import main
from tests.cli.test_endings import ENVIRONMENT, ROOT
from tests.command_lines import written_pair

pytestmark = pytest.mark.slow

IN_TURN = str(ROOT / "tests" / "cli" / "in_turn.py")
SWEEP = ["--points", "3", "--variant", "closed_form", "--variant", "sequential", "--no-plot"]
MERGE = ["--variant", "sequential", "--on-worse", "warn"]
BROKEN = """\
import os, torch

class Batches:
    def __iter__(self):
        for number in range(6):
            if number == 3 and os.environ["RANK"] == "1":
                raise OSError("the disk is gone")
            yield torch.randn(5, 12)
"""


def launched(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a program in two processes."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *words],
        cwd=folder,
        env={name: value for name, value in ENVIRONMENT.items() if name != "TRITON_INTERPRET"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def torchrun(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program in two processes; a hang is an error after two minutes."""
    process = launched(folder, *words)
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.terminate()  # not killed: it ends the processes that it started
        raise AssertionError("\n".join(process.communicate(timeout=60))) from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def images_in(folder: Path, count: int = 11) -> list[str]:
    """Write images of as many pixels as the networks have inputs; return the options."""
    generator = torch.Generator().manual_seed(3)
    for number in range(count):
        file = folder / "images" / f"class{number % 3}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (2, 2, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(file)
    return ["--data", str(folder / "images"), "--preprocessing", "none", "--batch-size", "3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process and two write, beside what they read."""
    folder = tmp_path_factory.mktemp("torchrun")
    pair = written_pair(folder)
    images = images_in(folder)

    def commands(of: str) -> list[list[str]]:
        by_rows = ["--totals", "ranks"] if of == "two" else []
        return [
            ["stats", *pair, "--samples", "40", "-o", str(folder / f"{of}.stats"), "--json"],
            ["stats", *pair, *images, *by_rows, "-o", str(folder / f"{of}.images"), "--quiet"],
            ["sweep", *pair, *SWEEP, "-o", str(folder / f"{of}.path")],
            ["merge", *pair, *MERGE, "-o", str(folder / f"{of}.safetensors")],
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)
        assert [main([*words, "--quiet"]) for words in commands("one")] == [0] * 4
    before = {path.name for path in folder.iterdir()}
    in_turn = [(free_port(), words) for words in commands("two")]
    (folder / "commands.json").write_text(json.dumps(in_turn))
    done = torchrun(folder, IN_TURN, "commands.json", "threads")
    assert done.returncode == 0, done.stderr
    written = {path.name for path in folder.iterdir()} - before
    (folder / "written.json").write_text(json.dumps(sorted(written)))
    (folder / "said.json").write_text(json.dumps([done.stdout, done.stderr]))
    return folder


@pytest.mark.parametrize("of", ["stats", "images"])
def test_statistics_are_those_of_one_process(folder: Path, of: str) -> None:
    two, one = (rk.PairedStats.load(folder / f"{count}.{of}") for count in ("two", "one"))
    assert (list(two), two.n_images) == (list(one), one.n_images)
    for tap, moments in one.items():
        for name, value in moments.tensors.items():
            torch.testing.assert_close(
                two[tap].tensors[name], value, rtol=1e-10, atol=1e-10 * float(value.abs().max())
            )


def test_the_merged_file_is_that_of_one_process(folder: Path) -> None:
    two, one = (folder / f"{count}.safetensors" for count in ("two", "one"))
    weights, expected = rk.load_state_dict(two), rk.load_state_dict(one)
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert float((weights[name] - value).norm()) <= 1e-6 * float(value.norm())
    made, alone = (rk.load_metadata(file) for file in (two, one))
    computing = [json.loads(each.pop("computing")) for each in (made, alone)]
    assert made == alone
    assert [each["processes"] for each in computing] == [2, 1]
    assert (made["variant"], json.loads(made["data"])["images"]) == ("sequential", 60)


def rows(file: Path) -> list[list[str]]:
    return list(csv.reader(file.read_text().splitlines()))


def test_a_path_is_that_of_one_process(folder: Path) -> None:
    for file in ("barrier.csv", "variance_collapse.csv"):
        two, one = (rows(folder / f"{count}.path" / file) for count in ("two", "one"))
        assert len(two) == len(one) > 3
        for ours, theirs in zip(two, one, strict=True):
            for our, their in zip(ours, theirs, strict=True):
                assert our == their or float(our) == pytest.approx(float(their), rel=1e-6)


def test_one_process_writes_and_leaves_nothing_else(folder: Path) -> None:
    mine = {"commands.json", "threads.0", "threads.1"}
    written = set(json.loads((folder / "written.json").read_text()))
    assert written - mine == {"two.stats", "two.images", "two.path", "two.safetensors"}
    assert {path.name for path in (folder / "two.path").iterdir()} == {
        path.name for path in (folder / "one.path").iterdir()
    }


def test_one_process_prints(folder: Path) -> None:
    out, err = json.loads((folder / "said.json").read_text())
    statistics, end = json.JSONDecoder().raw_decode(out)
    assert (statistics["command"], statistics["images"]) == ("stats", 40)
    tables = out[end:]
    for words in ("loss  ", "variant sequential at alpha 0.5", "two.path\n", "two.safetensors\n"):
        assert tables.count(words) == 1
    assert err.count("repair-kernels: warning: the correction made the cross-entropy") == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_no_thread_of_a_group_is_left_behind(folder: Path, rank: int) -> None:
    left = json.loads((folder / f"threads.{rank}").read_text())
    assert [name for name in left if "gloo" in name or "tcpstore" in name] == []


def test_an_error_in_one_process_ends_all_with_its_message(tmp_path: Path) -> None:
    pair = written_pair(tmp_path)
    (tmp_path / "broken.py").write_text(BROKEN)
    before = {path.name for path in tmp_path.iterdir()}
    data = ["--data", "broken:Batches", "--samples", "20"]
    merge = ["merge", *pair, *data, *MERGE, "-o", "merged.safetensors"]
    done = torchrun(tmp_path, "-m", "repair_kernels", *merge)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "repair-kernels: the disk is gone\n" in done.stderr
    assert (
        "repair-kernels: all 2 ranks must come through; rank 1 failed with OSError" in done.stderr
    )
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == before
