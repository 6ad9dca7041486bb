"""Of edited files of options some are accepted, and what they are read as is what they say."""

import random
from pathlib import Path

import pytest

from bench import fuzz
from bench.robustness import configurations
from bench.robustness.configurations import SOUND, edited, judge, read, tomllib
from repair_kernels.errors import RepairKernelsError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(SOUND)
    return tmp_path / "run.toml"


def test_many_edited_files_are_accepted_and_many_refused(tmp_path) -> None:
    row = fuzz.fuzz("configuration", range(120), 0, tmp_path)
    assert row["faults"] == []
    assert row["read"] > 20 < row["refused"]


def test_edits_are_the_same_for_the_same_seed_and_use_every_way() -> None:
    made = [edited(SOUND.encode(), random.Random(seed)) for seed in range(60)]
    assert made == [edited(SOUND.encode(), random.Random(seed)) for seed in range(60)]
    names = {name for kinds, _ in made for name in kinds.split("+")}
    assert names == {edit.__name__ for edit in configurations.EDITS}


@pytest.mark.parametrize("edit", configurations.EDITS)
def test_the_smallest_text_can_be_edited(edit) -> None:
    for seed in range(10):
        assert isinstance(edit("a = 1", random.Random(seed)), str)


@pytest.mark.parametrize("edit", [configurations.add_comment, configurations.add_space])
def test_a_comment_or_a_space_leaves_a_file_sound(edit) -> None:
    texts = [edit(SOUND, random.Random(seed)) for seed in range(40)]
    assert SOUND not in texts
    assert all(tomllib.loads(text) == tomllib.loads(SOUND) for text in texts)


def test_wrong_usage_is_refused(file: Path) -> None:
    file.write_text(f"xyzzy = 1\n{SOUND}")
    with pytest.raises(RepairKernelsError, match="`xyzzy` is no option or command"):
        read(file)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("alpha", "0.25", "`alpha` is '0.25', and should be 0.25"),
        ("samples", 31, "`samples` is 31, and should be 30"),
        ("workers", 2, "`workers` is 2, and should be None"),
        ("tap", ["conv"], r"`tap` is \['conv'\], and should be \['conv', 'block'\]"),
        ("model_arg", ["depth=2"], "`model_arg` is .*, and should be .*bias=false"),
        ("xyzzy", 1, "`xyzzy` is no option of merge"),
    ],
)
def test_options_that_a_file_does_not_say_are_seen(file: Path, name, value, said) -> None:
    options = read(file)
    setattr(options, name, value)
    with pytest.raises(ValueError, match=said):
        judge(options, tomllib.loads(SOUND))


@pytest.mark.parametrize("text", ["xyzzy = 1\n", "[stats]\nalpha = 0.5\n", "config = 'x'\n"])
def test_an_unknown_option_that_is_accepted_is_seen(file: Path, text: str) -> None:
    options = read(file)
    content = tomllib.loads(text)
    with pytest.raises(ValueError, match="accepted with the unknown options"):
        judge(options, {**tomllib.loads(SOUND), **content})
