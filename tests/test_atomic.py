"""A file written through `atomic_path` is whole or absent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repair_kernels.atomic import atomic_path, remove_leftovers

ROOT = Path(__file__).resolve().parents[1]


def test_a_new_file_appears_whole(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "x.txt").exists()
    assert (tmp_path / "x.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type) -> None:
    (tmp_path / "x.txt").write_text("old")

    def write() -> None:
        with atomic_path(tmp_path / "x.txt") as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(error):
        write()
    assert os.listdir(tmp_path) == ["x.txt"]
    assert (tmp_path / "x.txt").read_text() == "old"


def test_the_temporary_file_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.safetensors") as temporary:
        temporary.write_bytes(b"")
        assert temporary.suffix == ".safetensors"


def test_the_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    with atomic_path(tmp_path / "x") as temporary:
        temporary.write_text("")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with atomic_path(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(IsADirectoryError, match="path of a file to write, but .* is a folder"),
        atomic_path(tmp_path),
    ):
        pass


def test_leftovers_of_killed_writes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    others = [".run-1234567.part", ".run-12345678.pt", ".runs-12345678.part", "run-12345678.part"]
    for name in ("run.part", ".run-0123abcd.part", *others):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path / "run.part")
    assert {file.name for file in tmp_path.iterdir()} == {"run.part", *others}


def test_what_a_writer_puts_beside_its_file_is_gone_with_it(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.txt") as temporary:
        temporary.write_text("new")
        (temporary.parent / "of the writer").touch()
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_killed_writer_leaves_nothing_outside_of_its_leftovers(tmp_path: Path) -> None:
    """The process ends while safetensors has a temporary file of its own beside the file."""
    path = tmp_path / "run.part"
    write = f"""
import os
from repair_kernels.atomic import atomic_path
with atomic_path({str(path)!r}) as temporary:
    (temporary.parent / ".tmp0123ab").touch()
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", write], cwd=ROOT).returncode == 9
    assert [file.name for file in tmp_path.glob(".tmp*")] == []
    remove_leftovers(path)
    assert os.listdir(tmp_path) == []
