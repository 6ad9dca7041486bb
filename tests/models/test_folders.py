"""torchvision's folders: CIFAR pickles of both ages, IDX files, and hostile ones."""

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from models.folders import read_cifar_pickle, read_folder, read_idx


def idx(values: np.ndarray) -> bytes:
    return (
        b"\0\0\x08"
        + bytes([values.ndim])
        + struct.pack(f">{values.ndim}I", *values.shape)
        + (values.astype(np.uint8).tobytes())
    )


def old_pickle(batch: dict) -> bytes:
    """Pickle as the official files are: protocol 2, numpy's old module names."""
    return pickle.dumps(batch, protocol=2).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )


def cifar_batch(n: int, label_key: bytes = b"labels", seed: int = 0) -> dict:
    data = np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)
    return {b"data": data, label_key: list(range(n)), b"filenames": [b"a.png"] * n}


@pytest.mark.parametrize("dumps", [pickle.dumps, old_pickle])
def test_cifar10_batches_are_read_in_order(tmp_path: Path, dumps) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batches = [cifar_batch(2, seed=i) for i in range(6)]
    for i, batch in enumerate(batches[:5], start=1):
        (folder / f"data_batch_{i}").write_bytes(dumps(batch))
    (folder / "test_batch").write_bytes(dumps(batches[5]))
    images, labels = read_folder(tmp_path, "cifar10", "train")
    data = np.concatenate([batch[b"data"] for batch in batches[:5]])
    assert np.array_equal(images.transpose(0, 3, 1, 2).reshape(10, 3072), data)
    assert labels.tolist() == [0, 1] * 5
    assert len(read_folder(tmp_path, "cifar10", "test")[0]) == 2


def test_cifar100_has_its_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "test").write_bytes(pickle.dumps(cifar_batch(3, b"fine_labels")))
    images, labels = read_folder(tmp_path, "cifar100", "test")
    assert images.shape == (3, 32, 32, 3)
    assert labels.tolist() == [0, 1, 2]
    assert read_folder(tmp_path, "cifar100", "train") is None


class Hostile:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.unlink, (str(self.victim),)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "precious"
    victim.write_text("here")
    file = tmp_path / "data_batch_1"
    file.write_bytes(pickle.dumps({b"data": Hostile(victim)}))
    with pytest.raises(ValueError, match=r"data_batch_1 is not a CIFAR .*unlink is not allowed"):
        read_cifar_pickle(file)
    assert victim.read_text() == "here"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is not a CIFAR batch file"), (pickle.dumps([1]), "it holds a list")],
)
def test_a_broken_pickle_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "test_batch"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_cifar_pickle(file)


def test_a_batch_without_labels_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(pickle.dumps(cifar_batch(2, b"fine_labels")))
    with pytest.raises(ValueError, match="has no `data` array or no b'labels'"):
        read_folder(tmp_path, "cifar10", "test")


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files_are_read_plain_or_compressed(
    tmp_path: Path, name: str, compressed: bool
) -> None:
    folder = tmp_path / name / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for part, values in (("images-idx3", images), ("labels-idx1", np.array([4, 0, 9]))):
        data = gzip.compress(idx(values)) if compressed else idx(values)
        (folder / f"t10k-{part}-ubyte{'.gz' if compressed else ''}").write_bytes(data)
    key = {"MNIST": "mnist", "FashionMNIST": "fashion"}[name]
    read_images, labels = read_folder(tmp_path, key, "test")
    assert np.array_equal(read_images, images)
    assert labels.tolist() == [4, 0, 9]
    assert read_folder(tmp_path, key, "train") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"PK", "is not an IDX file"), (idx(np.zeros((2, 3)))[:-1], r"should hold \(2, 3\) bytes")],
)
def test_a_broken_idx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "t10k-labels-idx1-ubyte"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(file)


def test_svhn_is_read_from_its_matrices_with_zero_for_the_digit_0(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    digits = np.array([[1], [9], [10], [3]], dtype=np.uint8)
    scipy.io.savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": digits})
    images, labels = read_folder(tmp_path, "svhn", "test")
    assert np.array_equal(images[2], pixels[:, :, :, 2])
    assert labels.tolist() == [1, 9, 0, 3]
    assert read_folder(tmp_path, "svhn", "train") is None


def test_a_broken_svhn_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "train_32x32.mat").write_bytes(b"no matrix")
    with pytest.raises(ValueError, match="train_32x32.mat is not an SVHN file with `X` and `y`"):
        read_folder(tmp_path, "svhn", "train")
