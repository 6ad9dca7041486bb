"""A file written through `atomic_path` is whole or absent."""

import os
from pathlib import Path

import pytest

from repair_kernels.atomic import atomic_path, remove_leftovers


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
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "run.part")
    assert {file.name for file in tmp_path.iterdir()} == {"run.part", *others}
