"""Tar shards, written and read by the WebDataset library beside ours."""

import contextlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from repair_kernels.errors import CalibrationDataError, RepairKernelsError
from repair_kernels.images import open_images
from repair_kernels.images.web_dataset import WebDataset, expand_shards, read_index


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, contents in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            tar.addfile(info, io.BytesIO(contents))
    return path


def read_by_library(path: Path) -> list[dict[str, bytes]]:
    with path.open("rb") as stream:
        return list(group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])))


def png(colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_images_and_labels_are_those_that_the_library_reads(shards: Path) -> None:
    expected = [sample for path in sorted(shards.glob("*.tar")) for sample in read_by_library(path)]
    loaded = open_images(shards, preprocessing="none").loader(1, labels=True)
    assert len(expected) == len(loaded) == 9
    for sample, (image, label) in zip(expected, loaded, strict=True):
        pixels = np.array(Image.open(io.BytesIO(sample["jpg"])))
        assert torch.equal(image[0], torch.from_numpy(pixels).permute(2, 0, 1) / 255)
        assert label.tolist() == [int(sample["cls"])]


@pytest.mark.parametrize("data", ["", "/part-00.tar", "/part-{00..02}.tar", "/part-0{0,2}.tar"])
def test_a_folder_one_shard_or_a_pattern(shards: Path, data: str) -> None:
    expected = {"": 9, "/part-00.tar": 4, "/part-{00..02}.tar": 9, "/part-0{0,2}.tar": 5}
    assert len(open_images(f"{shards}{data}")) == expected[data]


def test_missing_shards_are_counted_and_named(shards: Path) -> None:
    with pytest.raises(
        CalibrationDataError, match=r"expected 6 tar files .*; 3 .* missing, first .*part-03\.tar"
    ):
        expand_shards(f"{shards}/part-{{00..05}}.tar")


def test_an_unfinished_pattern_is_refused(shards: Path) -> None:
    with pytest.raises(CalibrationDataError, match="expected a pattern such as .*close every"):
        expand_shards(f"{shards}/part-{{00..05.tar")


def test_a_sample_without_an_image_is_left_out(tmp_path: Path) -> None:
    members = {"a.png": png(), "b.cls": b"3", "c.txt": b"words", "d.seg.png": png(), ".png": png()}
    dataset = WebDataset([write_tar(tmp_path / "x.tar", members)])
    assert [dataset.name(i) for i in range(len(dataset))] == [f"{tmp_path}/x.tar, member a.png"]
    assert not dataset.has_labels


def test_one_sample_without_a_label_leaves_all_without(tmp_path: Path) -> None:
    members = {"a.png": png(), "a.cls": b"1", "b.png": png()}
    source = open_images(write_tar(tmp_path / "x.tar", members))
    assert not source.has_labels


def test_a_sample_with_two_images_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": png(), "a.jpg": png()})
    with pytest.raises(CalibrationDataError, match=r"expected one image .*a\.png and a\.jpg are"):
        WebDataset([path])


def test_a_label_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": png(), "a.cls": b"cat"})
    loader = open_images(path, preprocessing="none").loader(1, labels=True)
    with pytest.raises(CalibrationDataError, match=r"class number in .*member a\.png; got b'cat'"):
        list(loader)


def test_shards_without_images_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.txt": b"words"})
    with pytest.raises(CalibrationDataError, match=r"expected images .*x\.tar; found none"):
        WebDataset([path])


def test_a_compressed_shard_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": png()}, mode="w:gz")
    with pytest.raises(CalibrationDataError, match=r"expected a whole, uncompressed tar file at"):
        WebDataset([path])


def test_a_broken_image_is_named_with_its_shard(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": png(), "b.png": png()[:45]})
    with pytest.raises(CalibrationDataError, match=r"x\.tar, member b\.png; it cannot be decoded"):
        list(open_images(path, preprocessing="none").loader(2))


def test_a_shard_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", {"a.png": png(1), "b.png": png(2)}).read_bytes()
    held = len(whole.rstrip(b"\0"))
    for length in [*range(0, held, 97), 512, 1024, 1536, 2048]:
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(CalibrationDataError, match=r"whole, uncompressed tar file at .*cut"):
            read_index(tmp_path / "cut.tar")


def test_a_broken_header_inside_is_refused_and_the_member_before_it_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": png(), "b.png": png()})
    contents = bytearray(path.read_bytes())
    contents[1024 + 150] ^= 0x55  # in the second header's check sum
    path.write_bytes(contents)
    with pytest.raises(CalibrationDataError, match=r"behind member a\.png: no header at byte 1024"):
        WebDataset([path])


def test_a_member_of_negative_size_ends_the_reading(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": png(), "b.png": png()})
    contents = bytearray(path.read_bytes())
    contents[1024 + 124 : 1024 + 136] = (-1024).to_bytes(12, "big", signed=True)
    header = bytearray(contents[1024:1536])
    header[148:156] = b" " * 8
    contents[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(header)
    path.write_bytes(contents)
    with pytest.raises(CalibrationDataError, match=r"x\.tar; it cannot be read.*byte 1024"):
        WebDataset([path])


def test_bytes_changed_at_random_give_an_error_or_images(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", {"a.png": png(1), "b.png": png(2)}).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(100):
        contents = np.frombuffer(whole, np.uint8)[:4096].copy()
        contents[generator.integers(0, 2200, 3)] = generator.integers(0, 256, 3)
        (tmp_path / "changed.tar").write_bytes(contents.tobytes())
        with contextlib.suppress(RepairKernelsError):
            loader = open_images(tmp_path / "changed.tar", image_size=8).loader(1)
            assert {tuple(batch.shape) for batch in loader} == {(1, 3, 8, 8)}
