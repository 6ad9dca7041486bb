"""The command line: what it writes, what it says, and its exit codes."""

import json
import sys

import pytest
import torch

from repair_kernels.checkpoints import load_state_dict
from repair_kernels.cli import main
from repair_kernels.cli.demo import demo_table
from repair_kernels.cli.networks import keyword_arguments
from repair_kernels.evaluation import Path
from repair_kernels.statistics.paired_stats import PairedStats
from tests.command_lines import mlp

pytestmark = pytest.mark.usefixtures("torch_backend")


def test_merge_writes_a_checkpoint_of_the_original_architecture(pair, tmp_path, capsys):
    output = tmp_path / "merged.safetensors"
    assert main(["merge", *pair, "-o", str(output)]) == 0
    model = mlp(0)
    model.load_state_dict(load_state_dict(output))
    assert "explicit layers: none" in capsys.readouterr().out


def test_merge_writes_where_the_network_came_from(pair, tmp_path):
    from safetensors import safe_open

    output = tmp_path / "merged.safetensors"
    options = ["--alpha", "0.25", "--variant", "sequential", "--on-worse", "warn"]
    main(["merge", *pair, *options, "-o", str(output)])
    with safe_open(output, framework="pt") as file:
        made = file.metadata()
    assert (made["alpha"], made["variant"]) == ("0.25", "sequential")
    assert json.loads(made["sources"])[0]["path"].endswith("a.safetensors")


def test_merge_at_alpha_0_is_network_a(pair, tmp_path):
    output = tmp_path / "merged.safetensors"
    main(["merge", *pair, "--alpha", "0", "-o", str(output)])
    merged = load_state_dict(output)
    assert all(torch.equal(merged[name], value) for name, value in mlp(0).state_dict().items())


def test_a_correction_that_makes_the_loss_worse_is_said_and_not_written(pair, tmp_path, capsys):
    from safetensors import safe_open

    made = {}
    for on_worse in ("aligned", "warn"):
        output = tmp_path / f"{on_worse}.safetensors"
        # Networks that were never trained, and labels drawn at random.
        options = ["--variant", "forward", "--on-worse", on_worse]
        assert main(["merge", *pair, *options, "-o", str(output)]) == 0
        said = capsys.readouterr().err
        assert said.startswith("repair-kernels: warning: the correction made the cross-entropy")
        assert f"the {'aligned' if on_worse == 'aligned' else 'corrected'} network is" in said
        with safe_open(output, framework="pt") as file:
            made[on_worse] = file.metadata()["variant"]
    assert made == {"aligned": "none", "warn": "forward"}


@pytest.mark.parametrize("command", ["merge", "sweep"])
def test_what_is_restored_is_an_option(pair, tmp_path, capsys, command):
    options = ["--restore", "std", "--tap", "conv", "--batch-mean", "--variant", "forward"]
    options += ["--no-plot"] if command == "sweep" else ["--no-assess"]
    assert main([command, *pair, *options, "-o", str(tmp_path / "out.safetensors")]) == 0
    assert main([command, *pair, "--variant", "reset_norm", "-o", str(tmp_path / "no.pt")]) == 1
    assert "has no BatchNorm" in capsys.readouterr().err


def test_stats_then_match_gives_permutations_of_every_group(pair, tmp_path):
    stats, output = tmp_path / "stats", tmp_path / "permutations.json"
    assert main(["stats", *pair, "-o", str(stats)]) == 0
    assert PairedStats.load(stats).n_images == 60
    assert main(["match", *pair, "--stats", str(stats), "-o", str(output)]) == 0
    permutations = json.loads(output.read_text())
    assert [sorted(indices) for indices in permutations.values()] == [list(range(8))] * 2


def test_the_permuted_network_is_verified_unless_told_otherwise(
    pair, tmp_path, monkeypatch, capsys
):
    stats, permutations = tmp_path / "stats", tmp_path / "permutations.json"
    main(["stats", *pair, "-o", str(stats)])
    monkeypatch.setattr(
        "repair_kernels.graph.verification.MARGIN", 0.0
    )  # Not even rounding passes.
    match = ["match", *pair, "--stats", str(stats), "-o", str(permutations)]
    for command in (match, ["merge", *pair, "-o", str(tmp_path / "merged.safetensors")]):
        assert main(command) == 1
        assert "the permuted network must compute the same" in capsys.readouterr().err
        assert main([*command, "--no-verify"]) == 0
    assert "not verified" in capsys.readouterr().out


def test_samples_limit_the_statistics(pair, tmp_path):
    main(["stats", *pair, "--samples", "30", "-o", str(tmp_path / "stats")])
    assert PairedStats.load(tmp_path / "stats").n_images == 30


def test_sweep_writes_curves_and_a_picture(pair, tmp_path, capsys):
    folder = tmp_path / "path"
    assert main(["sweep", *pair, "--points", "3", "--variant", "none", "-o", str(folder)]) == 0
    rows = (folder / "barrier.csv").read_text().splitlines()
    assert len(rows) == 1 + 3
    assert (folder / "barrier.png").read_bytes().startswith(b"\x89PNG")
    assert "barrier" in capsys.readouterr().out


def test_data_can_come_from_a_callable(pair, tmp_path, monkeypatch):
    (tmp_path / "my_data.py").write_text(
        "import torch\ndef batches(n):\n    return [torch.randn(n, 12) for _ in range(2)]\n"
    )
    monkeypatch.chdir(tmp_path)
    at = pair.index("--data")
    options = [*pair[:at], "--data", "my_data:batches", "--data-arg", "n=7"]
    assert main(["stats", *options, "-o", "stats"]) == 0
    assert PairedStats.load("stats").n_images == 14


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--model", "models.mlp", "package.module:callable"),
        ("--model", "models.mlp:Missing", "something that can be imported"),
        ("--model", "no_such_package:f", "something that can be imported"),
        ("--model", "models.mlp:__doc__", "is a str; name a class or function of that module"),
        ("--model", "models.mlp:Tensor.dim", "must take the arguments"),
        ("--model-arg", "width", "name=value"),
        ("--model-arg", "depths=2", "; correct what is given as NAME=VALUE, or leave it out"),
        ("--a", "absent.pt", "absent.pt"),
        ("--data", "absent.npz", "nothing is at absent.npz; check the path"),
        ("--data", "nodir", "data must be a folder of images, tar shards, a file of tensors, or"),
        ("--alpha", "1.5", "; got 1.5; take one between network a (0) and network b (1), such as"),
        ("--tap", "fc9", "'fc9' is none of them"),
    ],
)
def test_wrong_values_are_explained_and_nothing_is_written(
    pair, tmp_path, capsys, option, value, said
):
    output = tmp_path / "merged.safetensors"
    assert main(["merge", *pair, option, value, "-o", str(output)]) == 1
    assert said in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("command", ["stats", "sweep", "merge"])
def test_a_device_that_is_not_here_is_explained(pair, tmp_path, capsys, command):
    assert main([command, *pair, "--device", "foo", "-o", str(tmp_path / "out.pt")]) == 1
    assert "`device` must be one that PyTorch finds here; got 'foo'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.arange(60), "from 0 to 2, as the network has 3 outputs; batch 0 has some from 0 to"),
        (
            torch.zeros(60),
            "must hold inputs (an image in each row), and labels of the same number (whole)",
        ),
    ],
)
def test_labels_that_are_no_classes_are_explained(pair, tmp_path, capsys, labels, said):
    torch.save({"x": torch.randn(60, 12), "y": labels}, tmp_path / "wrong.pt")
    sweep = ["sweep", *pair, "--eval-data", str(tmp_path / "wrong.pt"), "--points", "2"]
    assert main([*sweep, "--variant", "none", "-o", str(tmp_path / "path")]) == 1
    assert said in capsys.readouterr().err


def test_data_whose_labels_do_not_fit_is_refused(pair, tmp_path, capsys):
    torch.save({"inputs": torch.zeros(4, 12), "labels": torch.zeros(5)}, tmp_path / "data.pt")
    assert main(["stats", *pair, "-o", str(tmp_path / "stats")]) == 1
    assert "labels of the same number" in capsys.readouterr().err


def test_a_hostile_checkpoint_runs_no_code(pair, tmp_path, capsys):
    import pickle

    class Attack:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'owned')!r}, 'w')",))

    (tmp_path / "hostile.pt").write_bytes(pickle.dumps({"fc1.weight": Attack()}))
    hostile = ["--a", str(tmp_path / "hostile.pt")]
    assert main(["merge", *pair, *hostile, "-o", str(tmp_path / "merged.pt")]) == 1
    assert "hostile.pt" in capsys.readouterr().err
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "merged.pt").exists()


def test_usage_errors_exit_with_2():
    with pytest.raises(SystemExit) as error:
        main(["merge"])
    assert error.value.code == 2


def test_an_unwritable_output_is_explained(pair, tmp_path, capsys):
    assert main(["merge", *pair, "-o", str(tmp_path / "absent" / "merged.pt")]) == 1
    assert "absent" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        *("", "stats", "merge-stats", "match", "merge", "sweep", "inspect", "demo", "completion"),
    ],
)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as error:
        main([*command.split(), "--help"])
    assert error.value.code == 0
    assert "usage: repair-kernels" in capsys.readouterr().out


def test_arguments_are_json_where_they_can_be():
    assert keyword_arguments(["a=[1, 2]", "b=text", "c=1e-3"]) == {
        "a": [1, 2],
        "b": "text",
        "c": 1e-3,
    }


def test_the_demo_says_what_to_do_outside_of_the_repository(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "models.pretrained", None)
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 1
    assert "make demo" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.fixture
def few(monkeypatch):
    """Let the demo see 40 images of each split; return them."""
    from models import datasets

    load = datasets.load_embedded_fashion
    few = {split: tuple(t[::50] for t in load(split)) for split in ("train", "test")}
    monkeypatch.setattr(datasets, "load_embedded_fashion", few.__getitem__)
    return few


@pytest.mark.usefixtures("few")
def test_the_demo_writes_all_that_it_promises(tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path)]) == 0
    written = {path.name for path in tmp_path.iterdir()}
    pictures = {"barrier.png", "variance_collapse.png", "correlation.png", "filters.png"}
    assert written == {"merged.safetensors", "barrier.csv"} | pictures
    assert "aligned + REPAIR (forward)" in capsys.readouterr().out


def test_the_demos_checkpoint_is_the_network_of_its_table(few, tmp_path):
    import repair_kernels as rk
    from models.datasets import batches
    from models.pretrained import load_pair

    main(["demo", "-o", str(tmp_path)])
    state = rk.load_state_dict(tmp_path / "merged.safetensors")
    merged = rk.load_merged(load_pair("fashion_resnet20")[0], state)
    measured = batches(*few["test"], 500, normalise="fashion")
    rows = (tmp_path / "barrier.csv").read_text().splitlines()
    (row,) = (row.split(",") for row in rows if row.startswith("forward,0.5,"))
    assert float(row[2]) == rk.classifier_metrics(measured)(merged)["accuracy"]


def test_the_demo_table_has_a_row_for_each_way_of_merging():
    curves = {"accuracy": (0.9, 0.1, 0.8), "loss": (0.1, 2.0, 0.2)}
    variants = ("plain", "none", "closed_form", "forward")
    table = demo_table(Path((0.0, 0.5, 1.0), dict.fromkeys(variants, curves)))
    rows = table.splitlines()
    assert len(rows) == 1 + 2 + 4
    assert rows[-1].split()[-4:] == ["10.00%", "2.000", "1.850", "75.00%"]
