"""Selections: the same images in the same order, however they are cut and loaded."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from repair_kernels.errors import ArgumentError, CalibrationDataError, MissingExtraError
from repair_kernels.images import ImageSource, SyntheticImages, open_images


@pytest.fixture(params=["folder", "shards", "synthetic"])
def source(request: pytest.FixtureRequest) -> ImageSource:
    if request.param == "synthetic":
        return SyntheticImages(7, 16)
    return open_images(request.getfixturevalue(request.param), samples=7, image_size=16)


def images_of(source: ImageSource, batch_size: int = 3, **options) -> Tensor:
    return torch.cat(list(source.loader(batch_size, **options)))


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 0), (100, 0), (2, 1), (3, 2)])
def test_neither_batches_nor_workers_change_anything(
    source: ImageSource, batch_size: int, workers: int
) -> None:
    assert torch.equal(images_of(source, batch_size, workers=workers), images_of(source))


@pytest.mark.parametrize("n_shards", [1, 2, 3, 9])
def test_shards_in_a_row_are_the_whole(source: ImageSource, n_shards: int) -> None:
    parts = []
    for shard in range(n_shards):
        own = source.indices(shard, n_shards)
        parts += list(source.loader(2, start=own.start, stop=own.stop))
    assert torch.equal(torch.cat(parts), images_of(source))


def test_a_run_goes_on_where_it_stopped(source: ImageSource) -> None:
    assert torch.equal(images_of(source, start=4), images_of(source)[4:])


def test_a_loader_can_be_read_again_and_has_a_length(source: ImageSource) -> None:
    loader = source.loader(3)
    first, second = list(loader), list(loader)
    assert len(loader) == len(first) == 3
    assert all(map(torch.equal, first, second))


def test_loading_leaves_the_callers_random_numbers(source: ImageSource) -> None:
    before = torch.get_rng_state()
    list(source.loader(3, workers=1))
    assert torch.equal(torch.get_rng_state(), before)


@given(n=st.integers(0, 200), n_shards=st.integers(1, 50))
def test_shards_hold_every_image_once_and_are_even(n: int, n_shards: int) -> None:
    source = SyntheticImages(n, 1)
    shards = [source.indices(shard, n_shards) for shard in range(n_shards)]
    assert [number for shard in shards for number in shard] == list(range(n))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@given(n=st.integers(0, 200), n_shards=st.integers(1, 50), batch_size=st.integers(1, 20))
def test_shards_of_whole_batches_have_the_batches_of_the_whole(
    n: int, n_shards: int, batch_size: int
) -> None:
    source = SyntheticImages(n, 1)
    shards = [source.indices(shard, n_shards, batch_size) for shard in range(n_shards)]
    assert [number for shard in shards for number in shard] == list(range(n))
    batches = -(-n // batch_size)
    if batches >= n_shards:
        assert all(shard.start % batch_size == 0 for shard in shards)
        counts = [-(-len(shard) // batch_size) for shard in shards]
        assert max(counts) - min(counts) <= 1
    elif n >= n_shards:
        assert all(shards)


def test_the_seed_decides_which_images_are_taken(folder: Path) -> None:
    chosen = [
        {source.name(i) for i in range(4)}
        for source in (open_images(folder, samples=4, seed=seed) for seed in (0, 0, 1, 2, 3))
    ]
    assert chosen[0] == chosen[1]
    assert len({frozenset(names) for names in chosen}) > 2


def test_as_many_samples_as_there_are_images_are_all_of_them(folder: Path) -> None:
    some, all_of_them = open_images(folder, samples=100), open_images(folder)
    assert sorted(map(some.name, range(9))) == list(map(all_of_them.name, range(9)))


def test_labels_belong_to_their_images(folder: Path) -> None:
    source = open_images(folder, samples=5, image_size=16)
    labels = torch.cat([labels for _, labels in source.loader(2, labels=True, workers=1)])
    assert labels.tolist() == [int(Path(source.name(i)).parent.name[-1]) for i in range(5)]


def test_the_fingerprint_does_not_depend_on_where_the_data_lie(
    folder: Path, shards: Path, tmp_path: Path
) -> None:
    for data in (folder, shards):
        shutil.copytree(data, tmp_path / "copy")
        copied, own = (open_images(d, samples=7).fingerprint for d in (tmp_path / "copy", data))
        assert copied == own
        shutil.rmtree(tmp_path / "copy")


def test_whatever_changes_the_selection_changes_the_fingerprint(folder: Path, shards: Path) -> None:
    prints = [
        open_images(folder).fingerprint,
        open_images(shards).fingerprint,
        open_images(folder, samples=9).fingerprint,
        open_images(folder, samples=9, seed=1).fingerprint,
        open_images(folder, samples=8).fingerprint,
        open_images(folder, image_size=16).fingerprint,
        open_images(folder, preprocessing="none").fingerprint,
        SyntheticImages(9, 16).fingerprint,
        SyntheticImages(9, 16, seed=1).fingerprint,
        SyntheticImages(10, 16).fingerprint,
        SyntheticImages(9, 17).fingerprint,
    ]
    with (folder / "class0" / "0.JPEG").open("ab") as file:
        file.write(b"\0")
    prints.append(open_images(folder).fingerprint)
    (folder / "class0" / "0.JPEG").rename(folder / "class0" / "1.JPEG")
    prints.append(open_images(folder).fingerprint)
    assert len(set(prints)) == len(prints)


def test_a_description_says_what_is_read_and_how(folder: Path, shards: Path) -> None:
    said = open_images(folder, samples=4, seed=3).description
    assert said.startswith(f"4 of 9 (seed 3) images of the folder {folder}; imagenet: shorter ")
    assert "all 9 images of 3 tar shards" in open_images(shards).description
    assert SyntheticImages(4, 8).description.startswith("4 synthetic images (normal random")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"batch_size": 0},
            "`batch_size` must be a whole number of at least 1; got 0; take as many",
        ),
        ({"batch_size": 1, "workers": -1}, "of at least 0; got -1; take 0 to load images in"),
        ({"batch_size": 1, "start": 8}, "within the 7 images; got 8 and 7"),
        ({"batch_size": 1, "stop": 8}, "within the 7 images; got 0 and 8"),
        ({"batch_size": 1, "labels": True}, "`labels` needs images with class numbers"),
    ],
)
def test_a_loader_that_makes_no_sense_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        SyntheticImages(7, 8).loader(**arguments)


@pytest.mark.parametrize(("shard", "n_shards"), [(3, 3), (-1, 3), (0, 0), (0.5, 2)])
def test_a_shard_that_does_not_exist_is_refused(shard: int, n_shards: int) -> None:
    with pytest.raises(ArgumentError, match=r"0 <= k < n; got .* counted from 0"):
        SyntheticImages(7, 8).indices(shard, n_shards)


def test_no_samples_are_refused(folder: Path) -> None:
    with pytest.raises(ArgumentError, match="`samples` must be a whole number .*; got 0"):
        open_images(folder, samples=0)


def test_images_of_several_sizes_do_not_make_a_batch(folder: Path) -> None:
    with pytest.raises(CalibrationDataError, match=r"0\.JPEG is 36 x 40 and .*3\.png is 36 x 43"):
        list(open_images(folder, preprocessing="none").loader(2))


def test_without_braceexpand_the_package_to_install_is_named(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "braceexpand", None)
    with pytest.raises(MissingExtraError, match=r'pip install "repair-kernels\[images\]"'):
        open_images(f"{shards}/part-{{00..02}}.tar")


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_on_the_host(source: ImageSource) -> None:
    there = images_of(source, device="cuda", workers=1)
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), images_of(source), rtol=1e-6, atol=1e-6)
