"""Folders of classes: which images there are, in which order, of which class."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from repair_kernels.errors import CalibrationDataError
from repair_kernels.images import open_images
from repair_kernels.images.image_folder import ImageFolder


def names(folder: ImageFolder) -> list[str]:
    return [Path(folder.name(i)).name for i in range(len(folder))]


def test_images_come_class_by_class_in_the_order_of_their_names(folder: Path) -> None:
    found = ImageFolder(folder)
    expected = "0.JPEG 3.png 6.JPEG 1.png 4.JPEG 7.png 2.JPEG 5.png 8.JPEG"
    assert names(found) == expected.split()
    assert [found.label(i) for i in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_classes_are_ordered_by_their_names_not_by_their_paths(tmp_path: Path) -> None:
    for name in ("a-b", "a"):  # "a-b/x" sorts before "a/x"
        (tmp_path / name).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / name / "x.png")
    found = ImageFolder(tmp_path)
    assert [Path(found.name(i)).parent.name for i in (0, 1)] == ["a", "a-b"]
    assert [found.label(i) for i in (0, 1)] == [0, 1]


def test_a_class_without_images_keeps_its_number(folder: Path) -> None:
    (folder / "class0a").mkdir()
    found = ImageFolder(folder)
    assert [found.label(i) for i in (0, 3, 6)] == [0, 2, 3]


def test_linked_folders_are_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "only").symlink_to(folder / "class1")
    assert names(ImageFolder(tmp_path / "linked")) == ["1.png", "4.JPEG", "7.png"]


def test_images_without_class_folders_have_no_labels(folder: Path) -> None:
    source = open_images(folder / "class2", image_size=16)
    assert len(source) == 3
    assert not source.has_labels


def test_every_image_comes_out_of_the_size_asked_for(folder: Path) -> None:
    [images] = open_images(folder, image_size=16).loader(20)
    assert images.shape == (9, 3, 16, 16)
    assert images.dtype == torch.float32


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match=r"expected images at .*<class>/<image>.* none"):
        open_images(tmp_path)


def test_what_is_neither_folder_nor_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match=r"nowhere is neither; check the path"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(CalibrationDataError, match=r"expected a folder of images; .* is none"):
        ImageFolder(tmp_path / "nowhere")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(folder: Path, workers: int) -> None:
    path = folder / "class1" / "4.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(
        CalibrationDataError, match=r"class1/4\.JPEG; it cannot be decoded: Truncated"
    ):
        list(open_images(folder, image_size=16).loader(4, workers=workers))


def test_an_image_that_is_gone_is_named(folder: Path) -> None:
    source = open_images(folder, image_size=16)
    (folder / "class1" / "4.JPEG").unlink()
    with pytest.raises(CalibrationDataError, match=r"expected to read .*4\.JPEG; No such file"):
        list(source.loader(4))
