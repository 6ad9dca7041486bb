"""The benchmark runs as a person runs it, on nets and images small enough for a test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from bench import imagenet_stats
from repair_kernels.checkpoints import save_state_dict
from repair_kernels.errors import (
    ArchitectureMismatchError,
    ArgumentError,
    CalibrationDataError,
    CheckpointError,
)

ROOT = Path(imagenet_stats.__file__).parents[1]
TINY = ["--model", "resnet18", "--image-size", "32", "--batch-size", "2", "--device", "cpu"]
PYTHON = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(autouse=True)
def _without_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def noise(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images of two classes."""
    for number in range(9):
        path = tmp_path / "data" / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(path)
    return tmp_path / "data"


def run(launcher: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    # The interpreter must not be timed, whatever the environment says.
    return subprocess.run(
        [*launcher, "bench/imagenet_stats.py", *TINY, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )


def result_of(capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    assert imagenet_stats.main([*TINY, *arguments, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_synthetic_images_by_the_command_line(tmp_path: Path) -> None:
    done = run(PYTHON, "--steps", "2", "--json", str(tmp_path / "x.json"))
    assert done.returncode == 0, done.stderr
    for words in ("4 synthetic images", "random weights", "capture", "statistics / two plain"):
        assert words in done.stdout
    result = json.loads((tmp_path / "x.json").read_text())
    assert result["synthetic"] is True
    assert result["n_images"] == 4
    assert result["timed_images"] == 2
    assert result["taps"] > 20
    assert list(result["seconds"]) == [
        "capture",
        "data",
        "statistics",
        "two plain forward passes",
        "merging",
    ]
    assert result["ratio"] > 0
    assert result["versions"]["torch"] == torch.__version__
    assert result["command"].startswith("python bench/imagenet_stats.py --model resnet18")
    assert {"device", "commit", "images_per_second", "dead"} <= set(result)


def test_processes_of_torchrun_share_the_images_and_write_one_result(
    folder: Path, tmp_path: Path, capsys
) -> None:
    data = ["--data", str(folder), "--samples", "9"]
    done = run(TORCHRUN, *data, "--json", str(tmp_path / "x.json"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two resnet18s") == 1
    assert "in 2 processes" in done.stdout
    result, alone = json.loads((tmp_path / "x.json").read_text()), result_of(capsys, *data)
    assert result["images_of_processes"] == [4, 5]
    for name in ("n_images", "images_fingerprint", "images", "taps", "dead", "synthetic"):
        assert result[name] == alone[name]
    assert result["timed_images"] == 5
    assert result["n_images"] == 9


def test_an_error_in_one_process_ends_all_and_names_the_image(folder: Path) -> None:
    for path in (folder / "class1").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    done = run(TORCHRUN, "--data", str(folder))
    assert done.returncode == 1
    assert "error: expected a whole image of one of the formats" in done.stderr
    assert 'Traceback (most recent call last):\n  File "bench/imagenet' not in done.stderr


def test_a_folder_of_images_and_checkpoints(folder: Path, tmp_path: Path, capsys) -> None:
    for name, seed in (("a.pt", 1), ("b.safetensors", 2)):
        torch.manual_seed(seed)
        save_state_dict(imagenet_stats.imagenet_resnet18(classes=7).state_dict(), tmp_path / name)
    a, b = str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors")
    data = ["--data", str(folder), "--samples", "5", "--workers", "1"]
    result = result_of(capsys, "--weights", a, b, *data)
    assert result["n_images"] == 5
    assert result["timed_batches"] == 2
    assert result["synthetic"] is False
    assert result["images"].startswith(f"5 of 9 (seed 0) images of the folder {folder}; imagenet: ")
    assert "centre 32 x 32" in result["images"]
    assert "weights a.pt and b.safetensors" in result["networks"]


def test_shards_by_a_pattern(tmp_path: Path, capsys) -> None:
    with webdataset.ShardWriter(str(tmp_path / "x-%d.tar"), maxcount=3, verbose=0) as writer:
        for number in range(5):
            writer.write({"__key__": str(number), "png": noise(number)})
    result = result_of(capsys, "--data", str(tmp_path / "x-{0..1}.tar"))
    assert (result["n_images"], result["timed_images"]) == (5, 3)


def test_published_weights_are_loaded_by_name(tmp_path: Path, capsys, monkeypatch) -> None:
    def published(reference: str, *, progress: bool = False) -> Path:
        torch.manual_seed(int(reference[-1]))
        file = tmp_path / f"{reference[-2:]}.pt"
        save_state_dict(imagenet_stats.imagenet_resnet18(classes=3).state_dict(), file)
        return file

    monkeypatch.setattr(imagenet_stats, "published_weights", published)
    names = [f"torchvision:ResNet18_Weights.IMAGENET1K_V{version}" for version in (1, 2)]
    result = result_of(capsys, "--steps", "2", "--weights", *names, "--synthetic")
    assert f"weights {names[0]} and {names[1]}" in result["networks"]


def test_the_subset_depends_on_the_seed_alone(folder: Path) -> None:
    def chosen(seed: int) -> list[str]:
        arguments = [*TINY, "--data", str(folder), "--samples", "3", "--seed", str(seed)]
        source = imagenet_stats.open_source(imagenet_stats.parse(arguments))
        return [source.name(number) for number in range(len(source))]

    assert chosen(0) == chosen(0)
    assert len({tuple(chosen(seed)) for seed in range(8)}) > 1


def test_too_few_batches_are_refused() -> None:
    with pytest.raises(CalibrationDataError, match="at least 2 batches, .* a process fill 1"):
        imagenet_stats.main([*TINY, "--steps", "1"])


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match=r"expected images at .*<class>/<image>"):
        imagenet_stats.main([*TINY, "--data", str(tmp_path)])


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"no checkpoint")
    weights = ["--weights", str(tmp_path / "a.pt"), str(tmp_path / "b.pt")]
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        imagenet_stats.main([*TINY, "--steps", "2", *weights])
    for name in ("a.pt", "b.pt"):
        save_state_dict({"fc.bias": torch.zeros(3)}, tmp_path / name)
    with pytest.raises(ArchitectureMismatchError, match="network a"):
        imagenet_stats.main([*TINY, "--steps", "2", *weights])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "a.pt"], "--weights: expected 2 arguments"),
        (["--synthetic", "--data", "x"], "--synthetic stands for images without --data"),
        (["--samples", "0"], "expected a whole number of at least 1, got '0'"),
        (["--precision", "fp8"], "invalid choice: 'fp8'"),
        (
            ["--json", "absent/x.json"],
            "--json must lie in a folder that exists; absent does not; make",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_refused(capsys, arguments, message: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        imagenet_stats.main(arguments)
    assert message in capsys.readouterr().err


def test_an_error_is_one_line_on_the_command_line(tmp_path: Path) -> None:
    done = run(PYTHON, "--data", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: expected images at")


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`device` must be one .*; got 'foo' .*; name one of"):
        imagenet_stats.main([*TINY, "--device", "foo"])
