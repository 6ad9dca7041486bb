"""Data by name: which images of which kind, with what a merged file says of them."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from repair_kernels.batches import input_of
from repair_kernels.checkpoints import load_metadata
from repair_kernels.cli import main, sweeping
from repair_kernels.cli.data import first_input, load_data, load_test_data
from repair_kernels.cli.parser import parser
from repair_kernels.cli.processes import Process
from repair_kernels.errors import ArgumentError, CheckpointError
from repair_kernels.images import open_images
from repair_kernels.metrics import classifier_metrics
from tests.networks import PLAIN


def options(data: str | Path, **given) -> argparse.Namespace:
    usual = {"data_arg": [], "samples": None, "seed": 0, "batch_size": 4, "workers": 0}
    usual |= {"preprocessing": "imagenet", "image_size": 8, "device": None, "input_shape": None}
    usual |= {"eval_data": None, "eval_data_arg": [], "eval_samples": None}
    return argparse.Namespace(data=str(data), **{**usual, **given})


def inputs(batches) -> torch.Tensor:
    found = [input_of(batch, number) for number, batch in enumerate(batches)]
    return torch.cat(found) if found else torch.empty(0, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven images of two classes."""
    image = pytest.importorskip("PIL.Image")
    for number in range(7):
        path = tmp_path / "images" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (12, 10), (30 * number, 255 - 30 * number, 7)).save(path)
    return tmp_path / "images"


@pytest.fixture
def numbered(tmp_path: Path, monkeypatch) -> dict[str, str]:
    """Twenty labelled inputs, each its number: in a file, and from a callable."""
    numbers = torch.arange(20.0)[:, None]
    torch.save({"x": numbers, "y": torch.zeros(20, dtype=torch.int64)}, tmp_path / "data.pt")
    (tmp_path / "numbered.py").write_text(
        "import torch\n"
        "def batches():\n"
        "    numbers = torch.arange(20.0)[:, None]\n"
        "    return [[x, torch.zeros(len(x), dtype=torch.int64)] for x in numbers.split(3)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return {"file": str(tmp_path / "data.pt"), "callable": "numbered:batches"}


def test_a_folder_of_images_has_labels_and_a_fingerprint(folder: Path) -> None:
    data = load_data(options(folder))
    batches = list(data.batches)
    assert [len(images) for images, _ in batches] == [4, 3]
    assert batches[0][0].shape == (4, 3, 8, 8)
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 0, 0, 0, 1, 1, 1]
    source = open_images(folder, image_size=8)
    assert data.reference["fingerprint"] == source.fingerprint
    assert data.reference["data"] == str(folder)


def test_samples_of_a_folder_are_drawn_by_the_seed(folder: Path) -> None:
    drawn = [inputs(load_data(options(folder, samples=5, seed=s)).batches) for s in (0, 0, 1)]
    assert len(drawn[0]) == 5
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_without_test_data_the_calibration_images_are_measured_on(folder: Path) -> None:
    given = options(folder, samples=5)
    assert torch.equal(inputs(load_test_data(given)), inputs(load_data(given).batches))
    assert len(inputs(load_test_data(options(folder)))) == 7
    given.eval_samples = 6
    assert len(inputs(load_test_data(given))) == 6


def test_of_test_data_all_is_measured_on_unless_limited(folder: Path) -> None:
    given = options("absent.pt", samples=5, eval_data=str(folder))
    assert len(inputs(load_test_data(given))) == 7
    given.eval_samples = 3
    assert len(inputs(load_test_data(given))) == 3


@pytest.mark.parametrize("kind", ["file", "callable"])
def test_test_data_without_numbers_are_limited_to_the_first(numbered, kind: str) -> None:
    given = options(numbered[kind], samples=4)
    for _ in range(2):
        batches = list(load_test_data(given))
        assert inputs(batches)[:, 0].tolist() == [0, 1, 2, 3]
        assert [len(labels) for _, labels in batches] == [len(x) for x, _ in batches]
    given.eval_samples = 99
    assert len(inputs(load_test_data(given))) == 20


def test_preprocessing_is_an_option(folder: Path) -> None:
    data = load_data(options(folder, preprocessing="none", image_size=None))
    assert inputs(data.batches).shape == (7, 3, 10, 12)


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_processes_have_all_images_between_them(folder: Path, size: int) -> None:
    parts = [load_data(options(folder), Process(rank, size)).batches for rank in range(size)]
    shares = [inputs(part) for part in parts if len(part)]  # type: ignore[arg-type]
    assert torch.equal(torch.cat(shares), inputs(load_data(options(folder)).batches))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(("samples", "used"), [(None, 20), (13, 13), (99, 20)])
@pytest.mark.parametrize("kind", ["file", "callable"])
def test_processes_take_turns_at_batches(
    numbered, size: int, samples: int | None, used: int, kind: str
) -> None:
    found = []
    for rank in range(size):
        data = load_data(options(numbered[kind], samples=samples), Process(rank, size))
        found += inputs(data.batches)[: data.n_samples, 0].tolist()
    assert sorted(found) == list(range(used))


@pytest.mark.parametrize("size", [1, 2, 3, 9])
@pytest.mark.parametrize("samples", [None, 5])
@pytest.mark.parametrize("kind", ["file", "callable", "folder"])
def test_processes_measure_on_each_test_image_once(
    numbered, folder: Path, size: int, samples: int | None, kind: str
) -> None:
    given = options("absent.pt", eval_data=str({**numbered, "folder": folder}[kind]))
    given.eval_samples = samples
    (whole,) = shares_of_test_data(given, 1)
    parts = shares_of_test_data(given, size)
    assert sum(map(len, parts)) == len(whole) == (samples or (7 if kind == "folder" else 20))
    assert sorted(torch.cat(parts).tolist()) == sorted(whole.tolist())


def shares_of_test_data(given: argparse.Namespace, size: int) -> list[torch.Tensor]:
    parts = [inputs(load_test_data(given, Process(rank, size))) for rank in range(size)]
    return [part.flatten(1).sum(1) for part in parts]


@pytest.mark.usefixtures("torch_backend")
def test_a_sweeps_processes_measure_each_its_part(pair, tmp_path, monkeypatch) -> None:
    measured = []

    def measuring(batches, **given):
        measured.append(inputs(batches))
        assert given == {"device": None, "process_group": None}
        return classifier_metrics(batches, **given)

    monkeypatch.setattr(sweeping, "classifier_metrics", measuring)
    monkeypatch.setattr(Process, "grouped", {"process_group": None})
    sweep = ["sweep", *pair, "--points", "2", "--no-plot", "-o", str(tmp_path / "path")]
    for rank in range(2):
        sweeping.run_sweep(parser().parse_args(sweep), Process(rank, 2))
    assert [len(part) for part in measured] == [25 + 10, 25]
    every = torch.load(tmp_path / "data.pt")["inputs"]
    assert torch.equal(torch.cat([measured[0][:25], measured[1], measured[0][25:]]), every)


def test_a_shape_stands_for_data(folder: Path) -> None:
    found, is_real = first_input(options("", input_shape=(3, 4)))
    assert (found.shape, is_real) == ((2, 3, 4), False)
    found, is_real = first_input(options(folder))
    assert (found.shape, is_real) == ((4, 3, 8, 8), True)
    with pytest.raises(ArgumentError, match="neither `--data` nor `--input-shape` is given"):
        first_input(options(""))


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(4, 2), "y": torch.zeros(5)}, tmp_path / "data.pt")
    said = r"must hold inputs .*, and labels .* if any; got x \(4, 2\) .*, y .*; save"
    with pytest.raises(CheckpointError, match=said):
        load_data(options(tmp_path / "data.pt"))


@pytest.mark.parametrize(
    "held",
    [
        PLAIN.network(0).state_dict(),
        {"weight": torch.zeros(4, 3), "bias": torch.zeros(4)},
        {"weight": torch.zeros(4)},
        {"x": torch.zeros(4, 2), "y": torch.zeros(4, 1, dtype=torch.int64)},
        {"x": torch.zeros(4, 2), "y": torch.ones(4, dtype=torch.bool)},
    ],
    ids=["network", "layer", "vector", "column", "flags"],
)
def test_weights_are_not_taken_for_images(tmp_path: Path, held) -> None:
    torch.save(held, tmp_path / "data.pt")
    with pytest.raises(CheckpointError, match=r"must hold inputs .*; got .*; save these two"):
        load_data(options(tmp_path / "data.pt"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_inputs_and_labels_are_told_apart_in_any_order(tmp_path: Path, dtype, suffix) -> None:
    held = {"labels": torch.tensor([2, 0, 1]), "x": torch.arange(6).view(3, 2).to(dtype)}
    file = tmp_path / f"data.{suffix}"
    torch.save(held, file) if suffix == "pt" else save_file(held, file)
    ((images, labels),) = load_data(options(file)).batches
    assert torch.equal(images, held["x"])
    assert torch.equal(labels, held["labels"])


@pytest.mark.usefixtures("torch_backend")
def test_networks_are_merged_on_a_folder_of_images(
    folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 0), ("b", 1)):
        torch.save(PLAIN.network(seed).state_dict(), f"{name}.pt")
    command = ["merge", "--model", "tests.networks:plain_batch_norm", "--a", "a.pt", "--b", "b.pt"]
    command += ["--data", str(folder), "--image-size", "6", "--samples", "5", "--batch-size", "4"]
    assert main([*command, "--variant", "forward", "-o", "merged.safetensors"]) == 0
    assert "statistics of 5 images" in capsys.readouterr().out
    said = json.loads(load_metadata("merged.safetensors")["data"])
    assert (said["images"], said["samples"], said["seed"]) == (5, 5, 0)
    assert len(said["fingerprint"]) == 64
