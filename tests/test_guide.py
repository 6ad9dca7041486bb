"""What the guide shows works: its Python runs, its commands exist and run, its pages build."""

import os
import re
import runpy
import subprocess
import sys
from glob import glob
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch.distributed as dist

import repair_kernels as rk
from bench import imagenet_stats
from repair_kernels.cli import main
from repair_kernels.cli.parser import parser
from tests.guide import DOCS, PAGES, ROOT, blocks, commands, stand_in

SLURM = {"SLURM_JOB_NODELIST": "node[1-4]", "SLURM_NNODES": "4", "SLURM_JOB_ID": "7"}
PARTS = 2
# What stands for sizes that a test has no time for, and for a GPU.
SMALLER = {"3,224,224": "3,32,32", "cuda": "cpu"}
SMALLER_AFTER = {"--samples": "8", "--batch-size": "4", "--workers": "0"}


def named(page):
    return str(page.relative_to(DOCS))


@pytest.fixture
def _small_world(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=named)
@pytest.mark.usefixtures("_small_world")
def test_the_python_of_a_page_runs_from_its_first_line_to_its_last(page, monkeypatch, tmp_path):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    meeting = f"file://{tmp_path / 'meeting'}"
    begin = dist.init_process_group
    monkeypatch.setattr(
        dist, "init_process_group", lambda: begin("gloo", meeting, rank=0, world_size=1)
    )
    names: dict = {}
    for block in blocks(page, "python"):
        code = block.code.replace("224, 224", "32, 32")
        exec(compile(code, str(page), "exec"), names)  # noqa: S102
    assert not dist.is_initialized()


def calls(page, folder):
    """Return the commands of a page in order, those of a job once for each of its parts."""
    found = []
    for block in blocks(page, "bash"):
        jobs = range(1, PARTS + 1) if "--array" in block.code else range(1)
        for job in jobs:
            count = {"SLURM_ARRAY_TASK_ID": str(job), "SLURM_ARRAY_TASK_COUNT": str(PARTS)}
            found += commands(folder, block.code, **SLURM, **count)
    return found


def small(words):
    """Return a command line with sizes that a test has time for."""
    found = [
        SMALLER_AFTER.get(before, SMALLER.get(word, word))
        for before, word in zip(["", *words], words, strict=False)
    ]
    found = [name for word in found for name in (sorted(glob(word)) if "*" in word else [word])]
    return [*found, "--image-size", "32"] if "--data" in found or "--config" in found else found


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")], ids=named)
@pytest.mark.usefixtures("_small_world")
def test_the_commands_of_a_page_run_one_after_the_other(page, tmp_path):
    for block in blocks(page, "toml"):
        (tmp_path / block.title).write_text(block.code)
    for name, *words in calls(page, tmp_path):
        if name == "repair-kernels":
            assert main([*small(words), "--quiet"]) == 0, words
        else:
            KNOWN[name](page, words)


def check_torchrun(page, words):
    """Check the options of torchrun, and those of what it starts."""
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(words)
    check_python(page, ["-m"] * options.module + [options.training_script])
    if options.module:
        parser().parse_args(options.training_script_args)
    else:
        imagenet_stats.parse(options.training_script_args)


def check_python(page, words):
    """Check that a script or module is there, and its options."""
    if words[0] == "-m":
        assert find_spec(words[1]), words
        return
    assert (ROOT / words[0]).exists(), words
    if words[0] == "bench/imagenet_stats.py":
        imagenet_stats.parse(words[1:])


def check_make(page, words):
    assert all(re.search(f"^{word}:", (ROOT / "Makefile").read_text(), re.M) for word in words)


def check_pip(page, words):
    extras = re.search(r"\[(.*)\]", " ".join(words))
    known = (ROOT / "pyproject.toml").read_text()
    assert words[0] == "install"
    assert extras
    assert all(re.search(f"^{extra} = \\[", known, re.M) for extra in extras[1].split(","))


def check_sbatch(page, words):
    assert words[0] in {block.title for block in blocks(page, "bash")}


KNOWN = {
    "torchrun": check_torchrun,
    "python": check_python,
    "make": check_make,
    "pip": check_pip,
    "sbatch": check_sbatch,
    "srun": lambda page, words: KNOWN[words[0]](page, words[1:]),
    "scontrol": lambda page, words: None,
}


def test_every_public_name_is_on_the_page_of_the_python_interface():
    page = (DOCS / "api.md").read_text()
    missing = [name for name in rk.__all__ if f"::: repair_kernels.{name}\n" not in page]
    assert missing == ["__version__"]


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs mkdocs: the extra `docs`")
def test_the_guide_builds_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    where = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [*command, "--site-dir", str(tmp_path)], cwd=ROOT, env=where, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    loaded = re.compile(r"<(?:script|link|img)[^>]*(?:src|href)=[\"']?https?:")
    assert not [page.name for page in pages if loaded.search(page.read_text())]


def test_a_link_to_a_file_that_is_not_there_ends_the_build(caplog):
    hook = runpy.run_path(str(DOCS / "site_hooks" / "repository_links.py"))
    page = SimpleNamespace(file=SimpleNamespace(src_uri="repair.md"))
    config = {"docs_dir": str(DOCS)}
    named = hook["on_page_markdown"]("[x](../bench/eager.py) [y](rules.md)", page, config)
    assert named == "x (`bench/eager.py`) [y](rules.md)"
    assert not caplog.records
    hook["on_page_markdown"]("[x](../bench/gone.py)", page, config)
    assert "repair.md links to ../bench/gone.py, which is not there" in caplog.text
