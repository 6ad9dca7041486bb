"""ImageNet's experiment runs on a folder of images and two checkpoints of the user."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.paper import imagenet
from bench.paper.figures import draw
from bench.paper.run import read_rows, run
from bench.paper.sizes import SIZES
from bench.paper.sources import Settings
from models.resnet import BasicBlock, ImageNetResNet
from tests.networks import lively

CLASSES = ("cat", "dog", "fish")

pytestmark = pytest.mark.usefixtures("torch_backend")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of a few random pictures of three classes, of several sizes."""
    image_module = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for split, n in (("train", 8), ("val", 4)):
        for name in CLASSES:
            place = tmp_path / split / name
            place.mkdir(parents=True)
            for number in range(n):
                pixels = random.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
                image_module.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    network = partial(ImageNetResNet, BasicBlock, (1, 1, 1, 1))
    monkeypatch.setitem(imagenet.NETWORKS, "resnet18", network)


def settings(tmp_path: Path, **given) -> Settings:
    return Settings(SIZES["smoke"], out=tmp_path / "out", image_size=32, **given)


def test_the_experiment_runs_on_the_users_images_and_networks(
    folder: Path, tmp_path: Path, small: None
) -> None:
    for seed, end in enumerate("ab"):
        model = lively(imagenet.NETWORKS["resnet18"](classes=3), seed)
        torch.save(model.state_dict(), tmp_path / f"resnet18_{end}.pth")
    with pytest.warns(UserWarning, match="more images than the widest layer has channels"):
        left = run(["imagenet"], settings(tmp_path, imagenet=folder, checkpoints=tmp_path))
    assert left == []
    [row] = read_rows(tmp_path / "out" / "imagenet-smoke.json")
    assert row["identity"]["images"] == {"set": "imagenet", "test": 12}
    assert set(row["curves"]) == {"aligned", "reset", "forward", "ours"}
    pytest.importorskip("matplotlib")
    draw("imagenet", "smoke", [row], tmp_path / "imagenet.png")
    assert (tmp_path / "imagenet.png").is_file()
    assert (tmp_path / "imagenet-filters.png").is_file()


def test_without_images_or_networks_the_run_says_what_it_needs(
    folder: Path, tmp_path: Path, small: None
) -> None:
    [left] = run(["imagenet"], settings(tmp_path, imagenet=folder))
    assert not left.failed
    assert left.reason == (
        "needs two trained networks: --checkpoints with resnet18_a.* and resnet18_b.*"
    )
    for end in "ab":
        state = imagenet.NETWORKS["resnet18"](classes=3).state_dict()
        torch.save(state, tmp_path / f"resnet18_{end}.pth")
    [left] = run(["imagenet"], settings(tmp_path, checkpoints=tmp_path))
    assert left.reason == "needs ImageNet: --imagenet with `train` and `val`"
