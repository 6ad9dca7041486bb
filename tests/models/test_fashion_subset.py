"""The embedded part of FashionMNIST: what it holds and how it was chosen."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models import fashion_subset
from models.datasets import EMBEDDED_FASHION, IMAGE_SETS, SPLITS, load_embedded_fashion


@pytest.mark.parametrize("split", SPLITS)
def test_every_class_has_200_images(split: str) -> None:
    images, labels = load_embedded_fashion(split)
    assert images.dtype == torch.uint8
    assert images.shape == (2000, 1, 28, 28)
    assert torch.bincount(labels).tolist() == [200] * 10


@pytest.mark.parametrize("split", SPLITS)
def test_images_have_the_sets_mean_and_std(split: str) -> None:
    images, _ = load_embedded_fashion(split)
    pixels = images.double() / 255
    assert pixels.mean().item() == pytest.approx(IMAGE_SETS["fashion"].mean[0], abs=0.01)
    assert pixels.std().item() == pytest.approx(IMAGE_SETS["fashion"].std[0], abs=0.01)
    assert len(images.flatten(1).unique(dim=0)) > 1990


@pytest.mark.parametrize("split", SPLITS)
def test_indices_ascend_and_begin_the_official_file(split: str) -> None:
    with np.load(EMBEDDED_FASHION, allow_pickle=False) as stored:
        indices = stored[f"{split}_indices"]
    assert (np.diff(indices) > 0).all()
    assert indices[:100].tolist() == list(range(100))
    assert indices[-1] < 3000


def test_the_file_is_small() -> None:
    assert EMBEDDED_FASHION.stat().st_size < 2_500_000


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="`split` must be one of"):
        load_embedded_fashion("all")


def test_too_few_of_a_class_are_refused() -> None:
    with pytest.raises(ValueError, match="class 1 has 1 items, fewer than 2"):
        fashion_subset.first_of_each_class(torch.tensor([0, 0, 1]), 2)


def test_the_command_writes_the_first_images_of_each_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.arange(4000) % 10
    images = torch.arange(4000).remainder(256).byte().view(-1, 1, 1, 1).expand(4000, 1, 28, 28)
    monkeypatch.setattr(fashion_subset, "load", lambda *_, **__: (images, labels))
    assert fashion_subset.main(["--out", str(tmp_path / "part.npz")]) == 0
    with np.load(tmp_path / "part.npz") as stored:
        assert stored["test_indices"].tolist() == list(range(2000))
        assert np.array_equal(stored["train_images"][:, 0, 0], images[:2000, 0, 0, 0].numpy())
