"""`bench/gpu.sh` says what it cannot do before it does anything."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.paper.__main__ import parser
from models.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def gpu_sh(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "bench/gpu.sh", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_help_tells_the_stages():
    done = gpu_sh("--help")
    assert done.returncode == 0
    assert "ceilings" in done.stdout
    assert "set -u" not in done.stdout


def test_an_unknown_stage_is_refused_with_the_known_ones(tmp_path):
    done = gpu_sh(str(tmp_path / "out"), "kernels", "warmup")
    assert done.returncode == 2
    assert "unknown stage: warmup; the stages are kernels" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    done = gpu_sh(str(tmp_path / "out"))
    assert done.returncode == 2
    assert "needs a GPU, and this machine has none" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_stage_of_the_paper_gives_options_that_are_known():
    script = (ROOT / "bench" / "gpu.sh").read_text()
    [line] = re.findall(r"-m bench\.paper (--.*)", script)
    words = [word for word in shlex.split(line) if "PAPER_OPTIONS" not in word]
    options = parser().parse_args([word.replace("$minutes", "7") for word in words])
    assert (options.size, options.minutes) == ("full", 7)
    [names] = re.findall(r"--recipes (.*)", script)
    assert set(names.split()) <= RECIPES.keys()
