"""The benchmark runs as a person runs it, on nets and images small enough for a test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench import imagenet_stats
from bench.imagenet_stats import IMAGENET_MEAN, IMAGENET_STD, ImageFolder, Stopwatch
from repair_kernels.checkpoints import save_state_dict
from repair_kernels.errors import (
    ArchitectureMismatchError,
    CalibrationDataError,
    CheckpointError,
)

ROOT = Path(imagenet_stats.__file__).parents[1]
TINY = ["--model", "resnet18", "--image-size", "32", "--batch-size", "2", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _without_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven images of two classes, of several sizes and modes, and a file that is no image."""
    for number, (mode, size) in enumerate(
        [("RGB", (40, 50)), ("L", (50, 40)), ("RGBA", (33, 33)), ("P", (90, 30)), ("RGB", (8, 9))]
        + [("RGB", (37, 37))] * 2
    ):
        path = tmp_path / "data" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, color=17 * number).save(path)
    (tmp_path / "data" / "class0" / "readme.txt").write_text("not an image")
    return tmp_path / "data"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "bench/imagenet_stats.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_synthetic_images_by_the_command_line(tmp_path: Path) -> None:
    # The interpreter must not be timed, whatever the environment says.
    done = run(*TINY, "--steps", "2", "--json", str(tmp_path / "x.json"), TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    for words in ("synthetic images", "random weights", "capture", "statistics / two plain"):
        assert words in done.stdout
    result = json.loads((tmp_path / "x.json").read_text())
    assert result["n_images"] == 4
    assert result["timed_images"] == 2
    assert result["taps"] > 20
    assert set(result["seconds"]) == {
        "capture",
        "data",
        "statistics",
        "two plain forward passes",
    }
    assert result["ratio"] > 0
    assert result["versions"]["torch"] == torch.__version__
    assert result["command"].startswith("python bench/imagenet_stats.py --model resnet18")
    assert {"device", "commit", "images_per_second", "dead"} <= set(result)


def test_a_folder_of_images_and_checkpoints(folder: Path, tmp_path: Path, capsys) -> None:
    for name, seed in (("a.pt", 1), ("b.safetensors", 2)):
        torch.manual_seed(seed)
        save_state_dict(imagenet_stats.imagenet_resnet18(classes=7).state_dict(), tmp_path / name)
    weights = [
        "--weights-a",
        str(tmp_path / "a.pt"),
        "--weights-b",
        str(tmp_path / "b.safetensors"),
    ]
    data = ["--data", str(folder), "--samples", "5", "--workers", "1"]
    assert imagenet_stats.main([*TINY, *weights, *data, "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n_images"] == 5
    assert result["timed_batches"] == 2
    assert "real images" in result["images"]
    assert "weights from files" in result["networks"]


def test_images_are_resized_cropped_and_normalised(folder: Path) -> None:
    images = ImageFolder(folder, 32)
    assert len(images) == 7
    assert {tuple(image.shape) for image in images} == {(3, 32, 32)}
    index = next(i for i, path in enumerate(images.paths) if path.name == "1.png")
    expected = (17 / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(images[index].mean((1, 2)), expected)


def test_the_centre_is_cropped_from_the_shorter_side_resized_to_256(tmp_path: Path) -> None:
    image = Image.new("RGB", (512, 256))
    image.paste((255, 255, 255), (512 // 2 - 112, 16, 512 // 2 + 112, 240))
    (tmp_path / "class").mkdir()
    image.save(tmp_path / "class" / "x.png")
    (crop,) = [ImageFolder(tmp_path, 224)[0]]
    white = (1 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(crop, white[:, None, None].expand(3, 224, 224))


def test_the_subset_depends_on_the_seed_alone(folder: Path) -> None:
    def chosen(seed: int) -> list[int]:
        arguments = [*TINY, "--data", str(folder), "--samples", "3", "--seed", str(seed)]
        return list(imagenet_stats.build_loader(imagenet_stats.parse(arguments)).dataset.indices)

    assert chosen(0) == chosen(0)
    assert len({tuple(chosen(seed)) for seed in range(8)}) > 1


def test_the_stopwatch_counts_the_first_batch_as_capture() -> None:
    watch = Stopwatch([], (None, None), torch.device("cpu"))  # type: ignore[arg-type]
    watch.images, watch.data = [4, 4, 2], [9.0, 1.0, 2.0]
    watch.forward, watch.statistics = [9.0, 2.0, 1.0], [10.0, 3.0, 1.0]
    report = watch.report()
    assert list(report["seconds"].values()) == [8.0, 3.0, 4.0, 3.0]
    assert report["ratio"] == 1.25
    assert report["images_per_second"]["statistics"] == 1.5


def test_too_few_batches_are_refused() -> None:
    with pytest.raises(CalibrationDataError, match="at least 2 batches, .*; the images fill 1"):
        imagenet_stats.main([*TINY, "--steps", "1"])


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match="--data must name a folder with images"):
        imagenet_stats.main([*TINY, "--data", str(tmp_path)])


def test_a_broken_image_is_named(folder: Path) -> None:
    (folder / "class1" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(CalibrationDataError, match=r"1\.png is not a whole image"):
        list(ImageFolder(folder, 32))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"no checkpoint")
    weights = ["--weights-a", str(tmp_path / "a.pt"), "--weights-b", str(tmp_path / "b.pt")]
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        imagenet_stats.main([*TINY, "--steps", "2", *weights])
    for name in ("a.pt", "b.pt"):
        save_state_dict({"fc.bias": torch.zeros(3)}, tmp_path / name)
    with pytest.raises(ArchitectureMismatchError, match="network a"):
        imagenet_stats.main([*TINY, "--steps", "2", *weights])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights-a", "a.pt"], "--weights-a and --weights-b go together"),
        (["--samples", "0"], "expected a whole number of at least 1, got '0'"),
        (["--precision", "fp8"], "invalid choice: 'fp8'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(capsys, arguments, message: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        imagenet_stats.main(arguments)
    assert message in capsys.readouterr().err


def test_without_pillow_the_package_to_install_is_named(folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SystemExit, match="2"):
        imagenet_stats.main([*TINY, "--data", str(folder)])
    assert "install it: pip install pillow" in capsys.readouterr().err


def test_an_error_is_one_line_on_the_command_line(tmp_path: Path) -> None:
    done = run(*TINY, "--data", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: --data must name a folder")
