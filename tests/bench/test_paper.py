"""Every experiment of the paper runs, goes on where it was cut off, and is drawn and told."""

import contextlib
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from bench.paper import report
from bench.paper.__main__ import main
from bench.paper.endpoints import OutOfTimeError, key_of, settings_of, trained
from bench.paper.experiments import EXPERIMENTS
from bench.paper.figures import draw, midpoint
from bench.paper.run import read_rows
from bench.paper.ways import WAYS
from models.recipes import RECIPES, fast

TRAINED = [name for name, experiment in EXPERIMENTS.items() if experiment.source == "trained"]


@pytest.fixture(scope="module", autouse=True)
def _torch_backend() -> Iterator[None]:
    """Run the ops in plain PyTorch, as `torch_backend` does, for fixtures of the module, too."""
    with contextlib.suppress(ImportError):
        importlib.import_module("repair_kernels.kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)
        yield


@dataclass
class Smoke:
    """Smoke runs into one folder, each made when it is asked for first; endpoints are shared."""

    out: Path
    ends: Path

    def rows(self, name: str) -> list[dict]:
        file = self.out / f"{name}-smoke.json"
        if not file.is_file():
            folders = ["--out", str(self.out), "--endpoints", str(self.ends)]
            assert main(["--size", "smoke", "--device", "cpu", "--only", name, *folders]) == 0
        return read_rows(file)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    return Smoke(tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("endpoints"))


@pytest.mark.parametrize("name", TRAINED)
def test_every_experiment_measures_all_its_ways(name: str, smoke: Smoke) -> None:
    rows = smoke.rows(name)
    points = [point for point in EXPERIMENTS[name].points if "smoke" in point.sizes]
    assert [(row["series"], row["x"]) for row in rows] == [(p.series, p.x) for p in points]
    for row, point in zip(rows, points, strict=True):
        assert tuple(row["curves"]) == (point.ways or EXPERIMENTS[name].ways)
        assert all(0 <= midpoint(row, way) <= 1 for way in row["curves"])
        assert len(row["endpoints"]) == 2
        assert row["seeds"] == [0, 1]
        assert {"device", "commit", "torch", "identity", "training"} <= row.keys()
    assert all(("collapse" in row) == EXPERIMENTS[name].collapse for row in rows)
    assert all(("filters" in row) == EXPERIMENTS[name].filters for row in rows)
    assert all(("baselines" in row) == EXPERIMENTS[name].split for row in rows)


def test_what_is_measured_is_left_alone_and_endpoints_are_shared(
    smoke: Smoke, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, ends, first = smoke.out, smoke.ends, smoke.rows("filters")
    before = (out / "filters-smoke.json").stat().st_mtime_ns
    arguments = ["--size", "smoke", "--device", "cpu", "--only", "filters"]
    assert main([*arguments, "--out", str(out), "--endpoints", str(ends)]) == 0
    assert "is there already" in capsys.readouterr().out
    assert (out / "filters-smoke.json").stat().st_mtime_ns == before
    assert main([*arguments, "--out", str(tmp_path), "--endpoints", str(ends)]) == 0
    assert "epoch" not in capsys.readouterr().out  # Trained already.
    again = read_rows(tmp_path / "filters-smoke.json")
    assert again[0]["filters"] == first[0]["filters"]


def test_a_row_with_other_endpoints_takes_the_place_of_the_old_one(
    smoke: Smoke, tmp_path: Path
) -> None:
    arguments = ["--size", "smoke", "--device", "cpu", "--only", "mlp_width"]
    arguments += ["--out", str(tmp_path), "--endpoints", str(smoke.ends)]
    assert main(arguments) == 0
    assert main([*arguments, "--epochs", "2"]) == 0
    [row] = read_rows(tmp_path / "mlp_width-smoke.json")
    assert row["identity"]["recipe"]["epochs"] == 2
    assert main([*arguments, "--epochs", "2", "--pairs", "2"]) == 0
    rows = read_rows(tmp_path / "mlp_width-smoke.json")
    assert [row["seeds"] for row in rows] == [[0, 1], [2, 3]]
    assert rows[0] == row


def test_one_point_can_be_run_alone_and_in_another_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--size", "smoke", "--device", "cpu", "--only", "mlp_depth", "--at", "5"]
    arguments += ["--series", "MLP, MNIST", "--precision", "bf16", "--train-only"]
    assert main([*arguments, "--out", str(tmp_path), "--endpoints", str(tmp_path)]) == 0
    assert "mlp_depth: MLP, MNIST, 1," not in capsys.readouterr().out
    reports = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("*/seed*.json"))]
    assert [(report["seed"], report["precision"]) for report in reports] == [
        (0, "bf16"),
        (1, "bf16"),
    ]
    assert not list(tmp_path.glob("*.json"))  # Trained only.


def test_without_time_nothing_is_run_and_what_is_left_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--size", "smoke", "--device", "cpu", "--only", "mlp_width", "--minutes", "0"]
    assert main([*arguments, "--out", str(tmp_path), "--endpoints", str(tmp_path)]) == 3
    assert "not run: mlp_width: MNIST, 64, seeds 0 and 1: no time left" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.json"))


def test_what_is_not_in_the_paper_is_run_when_all_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--size", "smoke", "--device", "cpu", "--minutes", "0", "--out", str(tmp_path)]
    beyond = {name for name, experiment in EXPERIMENTS.items() if experiment.figure is None}
    assert beyond  # Else this test says nothing.
    not_in_smoke = {
        n for n, e in EXPERIMENTS.items() if all("smoke" not in p.sizes for p in e.points)
    }
    for more, expected in (([], EXPERIMENTS.keys() - beyond), (["--all"], EXPERIMENTS.keys())):
        assert main([*arguments, *more]) == 3
        lines = re.findall(r"^not run: (\w+):", capsys.readouterr().out, re.MULTILINE)
        assert set(lines) == expected - not_in_smoke


def test_a_point_that_fails_keeps_no_other_from_being_run(
    smoke: Smoke, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def fail_but_at_1(recipe, *arguments, **given):
        if recipe.options["depth"] > 1:
            raise RuntimeError("the loss is not finite")
        return trained(recipe, *arguments, **given)

    arguments = ["--size", "smoke", "--device", "cpu", "--only", "mlp_depth"]
    arguments += ["--out", str(tmp_path), "--endpoints", str(smoke.ends)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.paper.sources.trained", fail_but_at_1)
        assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "failed: mlp_depth: MLP, MNIST, 5, seeds 0 and 1: the loss is not finite" in said
    assert [row["x"] for row in read_rows(tmp_path / "mlp_depth-smoke.json")] == [1]


def test_a_training_that_is_cut_off_goes_on_and_gives_the_same_networks(tmp_path: Path) -> None:
    recipe = fast(RECIPES["mnist_mlp1"], 3, batch_size=20)
    images = torch.randint(256, (60, 1, 28, 28), dtype=torch.uint8)
    data = [(images, torch.arange(60) % 10)] * 2
    given = {"images": {"set": "noise"}, "device": torch.device("cpu")}
    whole, _ = trained(recipe, data, (0, 1), cache=tmp_path / "whole", **given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.paper.endpoints.RESUME_SECONDS", 0.0)
        with pytest.raises(OutOfTimeError):
            trained(recipe, data, (0, 1), cache=tmp_path / "cut", deadline=0.0, **given)
    [folder] = (tmp_path / "cut").iterdir()
    assert folder.name == key_of(recipe, {"set": "noise"}, "float32")
    assert sorted(file.name for file in folder.iterdir()) == ["seed0.resume.pt", "seed1.resume.pt"]
    resumed, reports = trained(recipe, data, (0, 1), cache=tmp_path / "cut", **given)
    assert not list(folder.glob("*.resume.pt"))
    assert [report["seed"] for report in reports] == [0, 1]
    assert reports[0]["recipe"] == json.loads(json.dumps(settings_of(recipe)))
    for one, other in zip(whole, resumed, strict=True):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)


def test_a_key_knows_the_recipe_the_images_and_the_precision() -> None:
    recipe, images = RECIPES["mnist_mlp5"], {"set": "mnist", "train": 60_000}
    key = key_of(recipe, images, "float32")
    assert key == key_of(recipe, dict(reversed(images.items())), "float32")
    others = [
        key_of(fast(recipe, 20), images, "float32"),
        key_of(recipe, images | {"train": 100}, "float32"),
        key_of(recipe, images, "bf16"),
    ]
    assert len({key, *others}) == 4


@pytest.mark.parametrize("name", TRAINED)
def test_every_experiment_is_drawn(name: str, smoke: Smoke, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "picture.png"
    draw(name, "full", smoke.rows(name), file)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_the_document_tells_every_experiment_and_what_was_not_run(
    smoke: Smoke,
) -> None:
    rows = {name: smoke.rows(name) for name in ("mlp_depth", "vgg_depth", "split_data")}
    text = report.document(
        {
            "mlp_depth": {"full": rows["mlp_depth"]},
            "vgg_depth": {"cpu": rows["vgg_depth"]},
            "split_data": {"cpu": rows["split_data"]},
        }
    )
    for experiment in EXPERIMENTS.values():
        assert f"## {experiment.title}\n" in text
        assert experiment.note in text
    assert "; MLP, MNIST 10, 20, 30, 40, 50." in text
    fused = "MLP, MNIST, fused BatchNorms"
    assert f"| {fused} | 41 | full | 97.1 / 19.6 / 75.6 (closed form 71.1) | – |" in text
    assert "VGG, CIFAR-10 11, 13, 16, 19." in text
    assert text.count("not at full size |") == 3
    assert "; trained on all the data " in text


def row_at(accuracy: float, way: str = "forward") -> dict:
    return {"curves": {way: {"alphas": [0.5], "accuracy": [accuracy]}}}


def test_a_verdict_compares_with_the_published_midpoint_at_full_size_only() -> None:
    known = report.Published(95.0, 50.0, 90.0)
    said = [report.verdict([row_at(a)], known, "full") for a in (0.901, 0.9, 0.895, 0.894)]
    assert said == [
        "paper's way: beaten (+0.1)",
        "paper's way: reached (+0.0)",
        "paper's way: reached (-0.5)",
        "paper's way: short (-0.6)",
    ]
    assert report.verdict([row_at(0.99)], known, "cpu") == "not at full size"
    assert report.verdict([row_at(0.99)], None, "full") == "no published figure"
    closed = report.Published(98.0, 50.0, 90.0, 85.0)
    said = report.verdict([row_at(0.86, "closed_form")], closed, "full")
    assert said == "closed form: beaten (+1.0)"
    assert report.verdict([row_at(0.8997)], known, "full") == "paper's way: reached (+0.0)"
    both = {"curves": row_at(0.89)["curves"] | row_at(0.93, "ours")["curves"]}
    said = report.verdict([both], known, "full")
    assert said == "paper's way: short (-1.0), ours: beaten (+3.0)"


def test_of_several_pairs_the_mean_and_the_range_are_told() -> None:
    assert report.midpoints([row_at(0.9), row_at(0.84)], "forward") == "87.0 (84.0–90.0)"
    assert report.midpoints([row_at(0.9), row_at(0.90001)], "forward") == "90.0"
    assert report.midpoints([row_at(0.9)], "forward") == "90.0"
    assert report.midpoints([row_at(0.9)], "ours") == "–"


def test_the_document_is_what_the_results_say() -> None:
    assert report.main(["--check"]) == 0


def test_every_picture_of_the_document_is_there() -> None:
    pictures = re.findall(r"!\[.*\]\((.*)\)", report.DOCUMENT.read_text())
    assert pictures
    assert all((report.DOCUMENT.parent / picture).is_file() for picture in pictures)


def test_every_published_figure_belongs_to_a_point() -> None:
    for name, series, x in report.PUBLISHED:
        assert (series, x) in {(point.series, point.x) for point in EXPERIMENTS[name].points}


def test_every_way_of_an_experiment_is_known() -> None:
    for experiment in EXPERIMENTS.values():
        for point in experiment.points:
            assert set(point.ways or experiment.ways) <= set(WAYS)


def test_a_device_that_is_not_here_is_wrong_usage(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--size", "smoke", "--device", "nowhere"])
    assert stopped.value.code == 2
    assert "`device` must be one that PyTorch finds here; got 'nowhere'" in capsys.readouterr().err
