"""What stands on standard output, and what is never written over."""

import json

import pytest
import torch

from repair_kernels.checkpoints import save_state_dict
from repair_kernels.cli import main
from repair_kernels.cli.results import plain
from repair_kernels.version import __version__
from tests.command_lines import BUILD, mlp

pytestmark = pytest.mark.usefixtures("torch_backend")


def strictly(text: str) -> dict:
    """Read one JSON object, without what only Python takes."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def run(pair, tmp_path, capsys):
    """Return a function that runs a command with --json and returns what it printed."""
    stats = tmp_path / "stats"
    options = {
        "stats": [*pair, "-o", str(stats)],
        "merge-stats": [str(stats), "-o", str(tmp_path / "all")],
        "match": [*pair, "--stats", str(stats), "-o", str(tmp_path / "permutations.json")],
        "merge": [*pair, "--variant", "forward", "-o", str(tmp_path / "merged.pt")],
        "sweep": [*pair, "--points", "3", "--no-plot", "-o", str(tmp_path / "path")],
        "inspect": [str(stats)],
    }

    def run(command: str, *more: str) -> dict:
        assert main([command, *options[command], *more, "--json"]) == 0
        found = strictly(capsys.readouterr().out)
        assert (found["command"], found["version"]) == (command, __version__)
        return found

    return run


def test_every_command_prints_one_json_object_and_nothing_else(run, tmp_path) -> None:
    stats = run("stats")
    assert (stats["images"], stats["output"]) == (60, str(tmp_path / "stats"))
    assert stats["taps"][0] == "fc1"
    assert run("merge-stats")["missing_images"] == []
    match = run("match")
    assert match["groups"]["fc1"]["size"] == 8
    assert match["permutation_deviation"] < 1e-10
    assert run("inspect")["kind"] == "statistics"
    merge = run("merge")
    assert merge["metadata"]["alpha"] == "0.5"
    assert merge["report"]["n_images"] == 60
    assert merge["report"]["losses"]["kind"] == "cross-entropy"
    assert merge["warnings"][0].startswith("the correction made the cross-entropy")
    sweep = run("sweep")
    assert sweep["alphas"] == [0, 0.5, 1]
    assert len(sweep["metrics"]["forward"]["loss"]) == 3
    assert sweep["barriers"].keys() == {"none", "forward"}


def test_quiet_prints_nothing(pair, tmp_path, capsys) -> None:
    assert main(["stats", *pair, "--quiet", "--progress", "always", "-o", str(tmp_path / "x")]) == 0
    assert capsys.readouterr() == ("", "")


def test_progress_is_on_standard_error_if_asked_for(pair, tmp_path, capsys) -> None:
    command = ["stats", *pair, "-o", str(tmp_path / "x")]
    main(command)
    assert capsys.readouterr().err == ""
    main([*command, "--progress", "always", "--json"])
    out, err = capsys.readouterr()
    assert "statistics: 100%" in err
    assert "60/60" in err
    strictly(out)


def test_an_error_leaves_standard_output_empty(pair, tmp_path, capsys) -> None:
    assert main(["merge", *pair, "--json", "--alpha", "2", "-o", str(tmp_path / "x.pt")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("repair-kernels: `alpha` must be")


def test_json_has_no_nan(tmp_path) -> None:
    values = {"x": float("nan"), "y": (float("inf"), torch.ones(2)), "z": tmp_path, 3: {None}}
    assert plain(values) == {"x": None, "y": [None, [1.0, 1.0]], "z": str(tmp_path), "3": [None]}


@pytest.mark.parametrize("command", ["stats", "match", "merge"])
@pytest.mark.parametrize("name", ["a", "b", "data"])
def test_inputs_are_not_written_over(pair, tmp_path, capsys, command, name) -> None:
    file = tmp_path / ("data.pt" if name == "data" else f"{name}.safetensors")
    before = file.read_bytes()
    named = tmp_path / "sub" / ".." / file.name
    (tmp_path / "sub").mkdir()
    more = ["--stats", str(tmp_path / "stats")] if command == "match" else []
    assert main([command, *pair, *more, "-o", str(named)]) == 1
    said = capsys.readouterr().err
    assert "`--output` must not be an input" in said
    assert "which is read; name another file" in said
    assert file.read_bytes() == before


def test_the_statistics_that_match_reads_are_not_written_over(pair, tmp_path, capsys) -> None:
    (tmp_path / "stats").write_text("mine")
    stats = str(tmp_path / "stats")
    assert main(["match", *pair, "--stats", stats, "-o", stats]) == 1
    assert "must not be an input" in capsys.readouterr().err
    assert (tmp_path / "stats").read_text() == "mine"
    assert main(["merge-stats", stats, "-o", stats]) == 1
    assert (tmp_path / "stats").read_text() == "mine"


@pytest.fixture
def in_shards(tmp_path):
    """Write a network in two shards under an index; return the index."""
    state = mlp(0).state_dict()
    weight_map = {name: f"model-{n % 2}.safetensors" for n, name in enumerate(state)}
    for shard in set(weight_map.values()):
        held = {name: state[name] for name in state if weight_map[name] == shard}
        save_state_dict(held, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


@pytest.mark.parametrize("shard", ["model-0.safetensors", "model-1.safetensors"])
def test_shards_that_an_index_names_are_not_written_over(in_shards, pair, capsys, shard) -> None:
    output = in_shards.with_name(shard)
    before = output.read_bytes()
    assert main(["merge", *pair, "--a", str(in_shards), "-o", str(output)]) == 1
    said = f"{output} would be written over {output}, which is read; name another file"
    assert said in capsys.readouterr().err
    assert output.read_bytes() == before


def test_a_file_beside_shards_may_be_written(in_shards, pair, tmp_path) -> None:
    assert main(["stats", *pair, "--a", str(in_shards), "-o", str(tmp_path / "stats")]) == 0


@pytest.mark.parametrize("option", ["--data", "--eval-data"])
def test_shards_that_a_pattern_names_are_not_written_over(pair, tmp_path, capsys, option) -> None:
    pytest.importorskip("braceexpand")
    for number in range(3):
        (tmp_path / f"{number}.tar").write_text("mine")
    sweep = ["sweep", *pair, option, str(tmp_path / "{0..2}.tar")]
    (tmp_path / "barrier.csv").symlink_to(tmp_path / "1.tar")
    assert main([*sweep, "-o", str(tmp_path)]) == 1
    assert "1.tar, which is read; name another file" in capsys.readouterr().err
    assert (tmp_path / "1.tar").read_text() == "mine"


@pytest.mark.parametrize("option", ["--a", "--data"])
@pytest.mark.parametrize("name", ["x.pt", "class/0.png"])
def test_nothing_is_written_into_a_folder_that_is_read(
    pair, tmp_path, capsys, option, name
) -> None:
    (tmp_path / "read" / "class").mkdir(parents=True)
    output = tmp_path / "read" / name
    assert main(["merge", *pair, option, str(tmp_path / "read"), "-o", str(output)]) == 1
    said = f"must not be an input, nor lie in one; {output} lies in {tmp_path / 'read'}, which"
    assert said in capsys.readouterr().err


def test_links_to_a_folder_that_is_read_are_followed(pair, tmp_path, capsys) -> None:
    for name in ("read", "classes"):
        (tmp_path / name).mkdir()
    (tmp_path / "read" / "class").symlink_to(tmp_path / "classes")
    (tmp_path / "link").symlink_to(tmp_path / "read")
    for folder in ("link", "read/class"):
        output = str(tmp_path / folder / "0.png")
        assert main(["stats", *pair, "--data", str(tmp_path / "read"), "-o", output]) == 1
        assert "read, which is read; name another file" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["stats", "match", "merge", "merge-stats"])
def test_an_output_in_a_missing_folder_is_explained_before_anything_is_read(
    tmp_path, capsys, command
) -> None:
    absent = str(tmp_path / "absent" / "merged.pt")
    networks = [*BUILD, "--a", "x", "--b", "x", "--data", "x"]
    options = ["x"] if command == "merge-stats" else networks
    options += ["--stats", "x"] if command == "match" else []
    assert main([command, *options, "-o", absent]) == 1
    said = capsys.readouterr().err
    assert "must lie in a folder that exists" in said
    assert "make it first (mkdir -p" in said


def test_an_output_that_is_a_folder_is_explained(pair, tmp_path, capsys) -> None:
    assert main(["stats", *pair, "-o", str(tmp_path)]) == 1
    assert "is a folder; name a file in it" in capsys.readouterr().err


def test_folders_are_made_for_a_sweep_and_files_are_none(pair, tmp_path, capsys) -> None:
    sweep = ["sweep", *pair, "--points", "2", "--variant", "none", "--no-plot"]
    assert main([*sweep, "-o", str(tmp_path / "deep" / "path")]) == 0
    assert (tmp_path / "deep" / "path" / "barrier.csv").exists()
    assert main([*sweep, "-o", str(tmp_path / "data.pt")]) == 1
    assert "data.pt is a file; name another place" in capsys.readouterr().err


def test_a_sweep_does_not_write_over_its_data(pair, tmp_path, capsys) -> None:
    (tmp_path / "data.pt").rename(tmp_path / "barrier.csv")
    sweep = ["sweep", *pair, "--data", str(tmp_path / "barrier.csv")]
    assert main([*sweep, "-o", str(tmp_path)]) == 1
    assert "must not be an input" in capsys.readouterr().err
