"""What the README shows works: its Python runs, its commands run or are there."""

import re
import shlex
import sys
from collections.abc import Iterator

import pytest

from models import datasets
from repair_kernels.cli import main
from tests.guide import ROOT, blocks, commands
from tests.test_guide import KNOWN

README = ROOT / "README.md"
# The function that the README leaves to its reader.
MY_DATA = """\
from models.datasets import batches, load_embedded_fashion

def calibration_batches():
    return batches(*load_embedded_fashion("train"), 50, normalise="fashion")
"""


@pytest.fixture(autouse=True)
def _few_images_in_a_folder_like_the_clone(tmp_path, monkeypatch) -> Iterator[None]:
    load = datasets.load_embedded_fashion
    few = {split: tuple(t[::10] for t in load(split)) for split in ("train", "test")}
    monkeypatch.setattr(datasets, "load_embedded_fashion", few.__getitem__)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "my_data.py").write_text(MY_DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_data", raising=False)
    yield
    sys.modules.pop("my_data", None)


def test_the_python_runs_from_its_first_line_to_its_last() -> None:
    names: dict = {}
    for block in blocks(README, "python"):
        exec(compile(block.code, str(README), "exec"), names)  # noqa: S102
    assert len(names["path"].alphas) == 5


def test_the_commands_run_one_after_the_other(tmp_path) -> None:
    inline = re.findall("`(repair-kernels [^`]+)`", README.read_text())
    called = [c for block in blocks(README, "bash") for c in commands(tmp_path, block.code)]
    called += [shlex.split(line) for line in inline]
    assert {tuple(words[:2]) for words in called} >= {
        ("make", "demo"),
        ("repair-kernels", "merge"),
        ("repair-kernels", "inspect"),
    }
    for name, *words in called:
        if name == "repair-kernels":
            assert main([*words, "--quiet"]) == 0, words
        else:
            KNOWN[name](README, words)
    assert (tmp_path / "merged.safetensors").exists()


def test_the_programs_that_it_names_are_there() -> None:
    named = re.findall("`python ([^`]+)`", README.read_text())
    assert len(named) > 3
    for line in named:
        KNOWN["python"](README, shlex.split(line))
