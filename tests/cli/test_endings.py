"""How a command ends that is stopped: cleanly, with the code that shells expect, and no files."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from repair_kernels.cli import main

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SLOW = """\
import pathlib, time, torch

def batches():
    yield torch.randn(5, 12)
    pathlib.Path("started").touch()
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Heed SIGINT as a program in the foreground does: one in the background may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(folder: Path, *words: str) -> subprocess.Popen:
    """Start the command line as a program of its own, in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "repair_kernels", *words],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_interrupted_command_leaves_nothing_behind(pair, tmp_path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    before = {path.name for path in tmp_path.iterdir()}
    at = pair.index("--data")
    process = started(tmp_path, "stats", *pair[:at], "--data", "slow:batches", "-o", "stats")
    deadline = time.monotonic() + 120
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "repair-kernels: interrupted\n")
    after = {path.name for path in tmp_path.iterdir()} - {"started", "__pycache__"}
    assert after == before


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("torch_backend")
def test_a_file_that_is_being_written_is_removed(pair, tmp_path, monkeypatch, sent, code) -> None:
    output = tmp_path / "merged.pt"
    output.write_text("as before")
    before = {path.name for path in tmp_path.iterdir()}

    def half(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        os.kill(os.getpid(), sent)
        time.sleep(60)

    monkeypatch.setattr(torch, "save", half)
    handler = signal.getsignal(signal.SIGTERM)
    command = ["merge", *pair, "--variant", "none", "-o", str(output)]
    assert _exit_code(command) == code
    assert {path.name for path in tmp_path.iterdir()} == before
    assert output.read_text() == "as before"
    assert signal.getsignal(signal.SIGTERM) is handler


def _exit_code(command: list[str]) -> object:
    try:
        return main(command)
    except SystemExit as error:
        return error.code


def test_a_reader_that_leaves_ends_the_program_quietly(monkeypatch, capsys) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["completion", "bash"]) == 141
        stream.write("flushed when the interpreter ends")
    assert capsys.readouterr().err == ""
