"""Shards hold every image once, and what comes after a stop is what would have come."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repair_kernels.errors import ArgumentError, CalibrationDataError, EmptyDataError
from repair_kernels.shard import Shard
from repair_kernels.statistics.numbered import Position, Seekable, numbered
from tests.numbers import Numbers

SIZES = st.lists(st.integers(0, 5), min_size=1, max_size=12)
KINDS = st.sampled_from(["streamed", "seekable"])


def made(kind: str, sizes: list[int]):
    """Batches of the images 0, 1, ...: of these sizes, or, where there is a source, of three."""
    if kind == "seekable":
        return Numbers(sum(sizes), width=1).loader(3)
    return list(Numbers(sum(sizes), width=1).images(range(sum(sizes))).split(sizes))


@given(
    kind=KINDS,
    sizes=SIZES.filter(any),
    count=st.integers(1, 6),
    n_samples=st.none() | st.integers(1, 70),
)
def test_shards_hold_every_image_once(kind, sizes, count, n_samples) -> None:
    found, covered = [], []
    total = min(sum(sizes), n_samples or sum(sizes))
    for number in range(1, count + 1):
        part = numbered(made(kind, sizes), shard=f"{number}/{count}", n_samples=n_samples)
        images = list(part)
        assert part.total == total
        assert part.coverage.n_images == sum(map(len, images))
        assert part.coverage.shards == (f"{number}/{count}",)
        for start, stop in part.coverage.ranges:
            covered += range(start, stop)
        found += images
    assert sorted(covered) == list(range(total))
    everything = Numbers(sum(sizes), width=1).images(range(total))
    torch.testing.assert_close(torch.cat(found).sort(0).values, everything.sort(0).values)


@given(kind=KINDS, sizes=SIZES.filter(any), stop=st.integers(0, 6), shard=st.integers(1, 3))
def test_what_comes_after_a_stop_is_what_would_have_come(kind, sizes, stop, shard) -> None:
    whole = numbered(made(kind, sizes), shard=Shard(shard, 3))
    expected = list(whole)
    stopped = numbered(made(kind, sizes), shard=Shard(shard, 3))
    before = list(itertools.islice(stopped, stop))
    again = numbered(made(kind, sizes), shard=Shard(shard, 3))
    again.go_to(stopped.position)
    after = list(again)
    assert len(before) + len(after) == len(expected)
    for ours, theirs in zip((*before, *after), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert again.position == whole.position
    assert again.total == whole.total


def test_images_of_a_source_that_were_counted_are_not_read_again() -> None:
    loader = Numbers(30).loader(4)
    assert isinstance(loader, Seekable)
    part = numbered(loader, shard="2/3")
    part.go_to(Position(2, 16, ((8, 16),)))
    assert [len(x) for x in part] == [4]
    assert loader.read == [range(16, 20)]


def test_the_number_of_batches_to_come_is_known_where_the_source_knows_it() -> None:
    for count in (1, 2, 5):
        for number in range(1, count + 1):
            part = numbered([torch.zeros(2, 1)] * 7, shard=Shard(number, count))
            assert len(part) == len(list(part))
            assert len(part) == 0
    assert len(numbered(iter([torch.zeros(2, 1)]))) == 0
    assert len(numbered(Numbers(10).loader(4), shard="2/2")) == 2


def test_batches_are_told_apart_by_their_first_one() -> None:
    x = torch.arange(6.0).view(3, 2)
    same = {numbered(batches).fingerprint for batches in ([x], [(x, 1), x], iter([x]))}
    assert len(same) == 1
    others = ([x + 1], [x[:2], x[2:]], [x.double()])
    assert len({numbered(batches).fingerprint for batches in others} | same) == 4
    assert numbered([x], n_samples=2).fingerprint not in same
    assert numbered(Numbers(9).loader(3)).fingerprint == "made-up vectors"


@pytest.mark.parametrize("text", ["3", "0/3", "4/3", "a/b", "1/0", "-1/3", "1/3/5", "1/9999999"])
def test_what_is_no_shard_is_refused(text) -> None:
    with pytest.raises(ArgumentError, match="a shard must be .* from 1/16 to 16/16; got"):
        Shard.parse(text)


def test_data_that_changed_since_the_stop_are_refused() -> None:
    x = torch.arange(8.0)[:, None]
    stopped = numbered(x.split(2))
    next(iter(stopped))
    for batches in (x.split(3), x.split([4, 4])):
        part = numbered(batches)
        part.go_to(stopped.position)
        with pytest.raises(
            CalibrationDataError, match=r"as before the stop, 2 images in 1 .* there"
        ):
            list(part)
    shorter = numbered(x.split(2)[:1])
    shorter.go_to(Position(3, 6, ((0, 6),)))
    with pytest.raises(CalibrationDataError, match="now there are 2 in 1; use data in a fixed"):
        list(shorter)
    with pytest.raises(CalibrationDataError, match="1 batches went up to image 4; those of 3 im"):
        numbered(Numbers(9).loader(3)).go_to(Position(1, 4, ((0, 4),)))


def test_a_source_that_ends_too_soon_is_refused() -> None:
    loader = Numbers(9).loader(3)
    loader.source.images = lambda numbers: torch.zeros(2, 1)  # type: ignore[method-assign]
    with pytest.raises(CalibrationDataError, match="must yield images 0 to 9; it ended at 6; ch"):
        list(numbered(loader))


def test_no_data_at_all_are_refused() -> None:
    with pytest.raises(EmptyDataError, match="at least one batch; it is empty"):
        numbered([])
    with pytest.raises(EmptyDataError, match="at least one image; it is empty"):
        numbered(Numbers(0).loader(3)).example  # noqa: B018
    with pytest.raises(CalibrationDataError, match="must be an iterable of batches; got a Tensor"):
        numbered(torch.zeros(3, 1))
