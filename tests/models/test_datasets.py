"""Image sets as tensors: where they are looked for, their layout, batches, absent data."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from models import datasets
from models.datasets import (
    IMAGE_SETS,
    DataNotFoundError,
    EmbeddedSubsetWarning,
    batches,
    load,
    load_embedded_fashion,
    normalise,
)


def write_mnist(root: Path, n: int, split: str = "test", size: int = 28) -> np.ndarray:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(n).integers(0, 256, (n, size, size), dtype=np.uint8)
    stem = "train" if split == "train" else "t10k"
    header = b"\0\0\x08\x03" + struct.pack(">3I", n, size, size)
    (folder / f"{stem}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    labels = b"\0\0\x08\x01" + struct.pack(">I", n) + bytes(i % 10 for i in range(n))
    (folder / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
    return images


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPAIR_DATA", str(tmp_path))
    monkeypatch.setenv("REPAIR_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_images_are_bytes_channels_first_and_labels_long(data: Path) -> None:
    expected = write_mnist(data, 12)
    images, labels = load("mnist", "test")
    assert images.dtype == torch.uint8
    assert images.shape == (12, 1, 28, 28)
    assert np.array_equal(images[:, 0].numpy(), expected)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [i % 10 for i in range(12)]


def test_packed_colour_images_are_channels_first(data: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    (data / "cache").mkdir()
    np.savez(data / "labels.npz", cifar10_test=np.arange(4))
    packed = data / "cifar10_test_0.mz.xz"
    packed.touch()
    stamp = packed.stat()
    np.save(data / "cache" / f"cifar10_test_0-0-{stamp.st_mtime_ns}.npy", pixels)
    images, _ = load("cifar10", "test", n=3)
    assert np.array_equal(images.numpy(), pixels[:3].transpose(0, 3, 1, 2))


def test_root_comes_before_the_environment(data: Path, tmp_path: Path) -> None:
    write_mnist(data, 3)
    other = tmp_path / "other"
    write_mnist(other, 5)
    assert len(load("mnist", "test", root=other)[0]) == 5
    assert len(load("mnist", "test")[0]) == 3


def test_without_the_environment_the_repositorys_folders_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REPAIR_DATA", raising=False)
    monkeypatch.setattr(datasets, "REPOSITORY", tmp_path / "project")
    with pytest.raises(DataNotFoundError, match="shared/data, .*project/data"):
        load("mnist", "test")
    write_mnist(tmp_path / "project" / "data", 2)
    assert len(load("mnist", "test")[0]) == 2
    write_mnist(tmp_path / "shared" / "data", 4)
    assert len(load("mnist", "test")[0]) == 4


@pytest.mark.parametrize("name", sorted(IMAGE_SETS))
def test_absent_data_says_where_it_was_sought_and_what_to_do(data: Path, name: str) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        load(name, "train", embedded=False)
    message = str(caught.value)
    assert f"the train images of {name} were not found in: {data}" in message
    assert "download=True" in message
    assert "REPAIR_DATA" in message


def test_absent_fashion_falls_back_to_the_embedded_part_with_a_warning(data: Path) -> None:
    with pytest.warns(EmbeddedSubsetWarning, match="its embedded part is used"):
        images, _ = load("fashion", "test", n=7)
    assert torch.equal(images, load_embedded_fashion("test")[0][:7])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("emnist",), "must be one of .* got 'emnist'"),
        (("mnist", "validation"), "`split` must be one of .* got 'validation'"),
    ],
)
def test_unknown_names_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(*arguments)


def test_more_images_than_there_are_is_refused(data: Path) -> None:
    write_mnist(data, 3)
    with pytest.raises(ValueError, match="`n` is 4, but only 3 images of mnist were found"):
        load("mnist", "test", n=4)
    with pytest.raises(ValueError, match="`n` must be positive, got 0"):
        load("mnist", "test", n=0)


def test_images_of_another_size_are_refused(data: Path) -> None:
    write_mnist(data, 2, size=27)
    with pytest.raises(ValueError, match=r"mnist images must be \(1, 28, 28\), those found"):
        load("mnist", "test")


@pytest.mark.parametrize("name", sorted(IMAGE_SETS))
def test_normalising_takes_off_the_mean_and_divides_by_the_std(name: str) -> None:
    image_set = IMAGE_SETS[name]
    mean = torch.tensor(image_set.mean).view(1, -1, 1, 1)
    images = (mean * 255).expand(2, *image_set.shape)
    assert normalise(images, name).abs().max() < 1e-6
    white = normalise(torch.full((1, *image_set.shape), 255, dtype=torch.uint8), name)
    expected = (1 - image_set.mean[0]) / image_set.std[0]
    assert white[0, 0, 0, 0].item() == pytest.approx(expected, rel=1e-6)


def test_batches_cover_the_set_every_time() -> None:
    images, labels = torch.arange(7).view(7, 1, 1, 1), torch.arange(7)
    cut = batches(images, labels, 3)
    assert len(cut) == 3
    for _ in range(2):
        assert torch.cat([y for _, y in cut]).tolist() == list(range(7))
    shuffled = batches(images, labels, 3, generator=torch.Generator().manual_seed(0))
    first, second = (torch.cat([y for _, y in shuffled]).tolist() for _ in range(2))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(7))
    assert all(torch.equal(x.flatten(), y) for x, y in shuffled)


def test_batches_are_normalised_by_the_set_named() -> None:
    images = torch.randint(256, (5, 1, 28, 28), dtype=torch.uint8)
    got = torch.cat([x for x, _ in batches(images, torch.zeros(5), 2, normalise="mnist")])
    assert torch.equal(got, normalise(images, "mnist"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(2)}, "got 3 `images` but 2 `labels`"),
        ({"batch_size": 0}, "`batch_size` must be positive, got 0"),
        ({"normalise": "emnist"}, "must be one of .* got 'emnist'"),
    ],
)
def test_bad_batches_are_refused(change: dict, message: str) -> None:
    arguments = {"images": torch.zeros(3, 1, 2, 2), "labels": torch.zeros(3), "batch_size": 2}
    with pytest.raises(ValueError, match=message):
        batches(**arguments | change)
