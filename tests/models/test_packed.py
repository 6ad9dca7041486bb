"""The packed format: an encoder written from its description, decoded again."""

import lzma
import struct
from pathlib import Path

import numpy as np
import pytest

from models.packed import cache_folder, decode_part, has_packed, read_packed


def encode(images: np.ndarray) -> bytes:
    """Pack uint8 (n, h, w) or (n, h, w, 3), pixel by pixel, as the format is described."""
    planes = images.astype(int)
    if images.ndim == 4:
        red, green, blue = planes.transpose(3, 0, 1, 2)
        planes = np.stack([green, red - green, blue - green])
    else:
        planes = planes[None]
    c, n, h, w = planes.shape
    code = np.zeros(planes.shape, np.uint8)
    for k, m, i, j in np.ndindex(c, n, h, w):
        plane = planes[k, m]
        left = plane[i, j - 1] if j else plane[i - 1, j] if i else 0
        above = plane[i - 1, j] if i else left
        corner = plane[i - 1, j - 1] if i and j else above
        prediction = sorted([left, above, left + above - corner])[1]
        residual = (plane[i, j] - prediction) % 256
        residual -= 256 if residual > 127 else 0
        code[k, m, i, j] = 2 * residual if residual >= 0 else -2 * residual - 1
    return struct.pack("<4I", c, n, h, w) + code.tobytes()


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPAIR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5, 4, 3), (1, 1, 1), (2, 1, 3, 3)])
def test_decoding_undoes_encoding(shape: tuple[int, ...]) -> None:
    images = random_images(*shape)
    assert np.array_equal(decode_part(encode(images)), images)


def write_parts(root: Path, name: str, parts: list[np.ndarray]) -> np.ndarray:
    labels = np.arange(sum(map(len, parts)), dtype=np.uint8)
    np.savez(root / "labels.npz", **{name: labels})
    for i, part in enumerate(parts):
        (root / f"{name}_{i}.mz.xz").write_bytes(lzma.compress(encode(part)))
    return labels


def test_parts_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    parts = [np.full((2, 3, 3), i, np.uint8) for i in range(11)]
    labels = write_parts(tmp_path, "mnist_train", parts)
    images, read_labels = read_packed(tmp_path, "mnist_train")
    assert np.array_equal(images, np.concatenate(parts))
    assert np.array_equal(read_labels, labels)


def test_only_the_parts_that_are_needed_are_decoded(tmp_path: Path, cache: Path) -> None:
    write_parts(tmp_path, "cifar10_train", [random_images(4, 2, 2, 3) for _ in range(3)])
    images, labels = read_packed(tmp_path, "cifar10_train", n=5)
    assert len(images) == len(labels) == 5
    assert len(list(cache.iterdir())) == 2


def test_a_decoded_part_is_read_from_the_cache_until_the_file_changes(
    tmp_path: Path, cache: Path
) -> None:
    first, second = random_images(2, 3, 3), random_images(4, 3, 3)
    write_parts(tmp_path, "mnist_test", [first])
    read_packed(tmp_path, "mnist_test")
    np.save(next(cache.iterdir()), first + 1)
    assert np.array_equal(read_packed(tmp_path, "mnist_test")[0], first + 1)
    write_parts(tmp_path, "mnist_test", [second])
    assert np.array_equal(read_packed(tmp_path, "mnist_test")[0], second)


def test_a_whole_array_may_be_packed_plainly(tmp_path: Path) -> None:
    images = random_images(3, 4, 4)
    np.savez(tmp_path / "labels.npz", mnist_test=np.arange(3))
    with lzma.open(tmp_path / "mnist_test.npy.xz", "wb") as file:
        np.save(file, images)
    assert has_packed(tmp_path, "mnist_test")
    assert not has_packed(tmp_path, "mnist_train")
    assert np.array_equal(read_packed(tmp_path, "mnist_test")[0], images)


def test_a_failed_write_leaves_nothing_in_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parts(tmp_path, "mnist_test", [random_images(2, 3, 3)])

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("models.packed.np.save", fail)
    with pytest.raises(OSError, match="disk full"):
        read_packed(tmp_path, "mnist_test")
    assert list(cache.iterdir()) == []


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPAIR_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "repair_kernels"
