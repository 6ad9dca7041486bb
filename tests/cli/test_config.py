"""Options from a file: as on the command line, which wins; what is unknown is an error."""

from pathlib import Path

import pytest

from repair_kernels.cli import config
from repair_kernels.cli.parser import parse

REQUIRED = """\
model = "m:f"
a = "a.pt"
b = "b.pt"
data = "d.pt"
output = "out.pt"
"""


def parsed(folder: Path, text: str, *words: str, command: str = "merge"):
    file = folder / "run.toml"
    file.write_text(text)
    return parse([command, "--config", str(file), *words])


def test_options_stand_in_a_file_by_their_names(tmp_path: Path) -> None:
    text = (
        'alpha = 0.25\nvariant = "forward"\nbatch-mean = true\nadd_bias = true\n'
        'verify = false\ntap = ["conv", "block"]\nsamples = 30\n'
    )
    options = parsed(tmp_path, REQUIRED + text)
    assert (options.model, options.a, options.output) == ("m:f", "a.pt", "out.pt")
    assert (options.alpha, options.variant, options.samples) == (0.25, "forward", 30)
    assert (options.batch_mean, options.add_bias, options.verify) == (True, True, False)
    assert options.tap == ["conv", "block"]


def test_a_commands_table_is_for_it_alone_and_over_the_top(tmp_path: Path) -> None:
    text = f"{REQUIRED}seed = 1\npoints = 5\n[merge]\nseed = 2\n[stats]\nseed = 3\n"
    assert parsed(tmp_path, text).seed == 2
    assert parsed(tmp_path, text, command="stats").seed == 3
    options = parsed(tmp_path, text, command="sweep")
    assert (options.seed, options.points) == (1, 5)


@pytest.mark.parametrize(
    ("text", "words", "name", "value"),
    [
        ("alpha = 0.25", ["--alpha", "0.75"], "alpha", 0.75),
        ("alpha = 0.25", ["--alpha=0.75"], "alpha", 0.75),
        ("", ["-o", "mine.pt"], "output", "mine.pt"),
        ("", ["-omine.pt"], "output", "mine.pt"),
        ('tap = ["conv", "block"]', ["--tap", "norm"], "tap", ["norm"]),
        ("verify = false", ["--verify"], "verify", True),
        ("verify = true", ["--no-verify"], "verify", False),
    ],
)
def test_the_command_line_wins(tmp_path: Path, text, words, name, value) -> None:
    assert getattr(parsed(tmp_path, f"{REQUIRED}{text}\n", *words), name) == value


def test_arguments_are_tables(tmp_path: Path) -> None:
    text = REQUIRED + 'model-arg = { depth = 2, norm = "batch", bias = false }\n'
    assert parsed(tmp_path, text).model_arg == ["depth=2", 'norm="batch"', "bias=false"]


def test_shapes_are_lists(tmp_path: Path) -> None:
    options = parsed(tmp_path, "input-shape = [3, 8, 8]\n", command="inspect")
    assert options.input_shape == (3, 8, 8)


def test_what_is_there_already_need_not_be_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(REQUIRED)
    assert parse(["merge", f"--config={tmp_path / 'other.toml'}"]).data == "d.pt"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alhpa = 1", "`alhpa` is no option or command; did you mean alpha"),
        ("[merge]\nbalanse = 'sign'", "`balanse` is no option of merge; did you mean balance"),
        ("[merge]\npoints = 3", "`points` is no option of merge"),
        ("[merg]\nalpha = 1", "`merg` is no option or command; did you mean merge"),
        ("xyzzy = 1", "`xyzzy` is no option or command; see --help for all of them"),
        ("config = 'x'", "`config` is no option or command"),
        ("no-verify = true", "`no-verify` is no option or command; did you mean verify"),
        ("json = 1", "`json` must be true or false; got 1"),
        ("alpha = true", "`alpha` must be a text or number; got True"),
        ("alpha = [1, 2]", r"`alpha` must be a text or number; got [1, 2]"),
        (
            "a" + ".a" * 4_000 + " = 1",
            "`a` must be a text or number; got " + "{'a': " * 6 + "{...}",
        ),
        ("tap = [[1]]", "`tap` must be a text, a number, or a list of them; got [1]"),
        ("alpha = 'much'", "argument --alpha: invalid float value: 'much'"),
        ("variant = 'forwards'", "argument --variant: invalid choice: 'forwards'"),
        ("alpha = ", "is no TOML"),
        (
            "a" + ".a" * 50_000 + " = 1",
            "has 100,005 bytes, and options fit into 8,192; name a file",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_wrong_usage(tmp_path, capsys, text, said) -> None:
    with pytest.raises(SystemExit) as error:
        parsed(tmp_path, text)
    assert error.value.code == 2
    assert said in capsys.readouterr().err


def test_a_table_that_is_too_deep_for_json_is_wrong_usage(tmp_path, capsys, monkeypatch) -> None:
    def too_deep(value: object) -> str:
        raise RecursionError

    monkeypatch.setattr(config.json, "dumps", too_deep)
    with pytest.raises(SystemExit):
        parsed(tmp_path, f"{REQUIRED}model-arg.a.a = 1\n")
    said = capsys.readouterr().err
    assert "`model-arg` must be a table of values; got {'a': {'a': 1}}, which is nested too" in said


def test_an_absent_file_is_wrong_usage(capsys) -> None:
    with pytest.raises(SystemExit) as error:
        parse(["merge", "--config", "absent.toml"])
    assert error.value.code == 2
    assert "absent.toml: cannot be read (No such file or directory); check the" in (
        capsys.readouterr().err
    )


def test_a_second_file_is_wrong_usage(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        parsed(tmp_path, REQUIRED, "--config=other.toml")
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert "--config must be given once; got " in said
    assert "run.toml and other.toml; put their options into one file" in said
