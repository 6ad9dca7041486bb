"""Running totals: what `merge` gives, for many taps at once and without its memory."""

from functools import reduce

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from repair_kernels.errors import CalibrationDataError, NonFiniteActivationError
from repair_kernels.moments import ChannelMoments, PairedMoments
from repair_kernels.ops import ChannelSums, PairedSums
from repair_kernels.statistics.running import RunningMoments

KINDS = ("none", "diagonal", "cross", "joint")


def channel_sums(x: Tensor) -> ChannelSums:
    return ChannelSums(x.mean(0), (x - x.mean(0)).square().sum(0))


def paired_sums(a: Tensor, b: Tensor, kind: str) -> PairedSums:
    """The sums of some rows as the op returns them, with what a kind of record holds."""
    x, y = a - a.mean(0), b - b.mean(0)
    products: dict[str, Tensor | None] = {"cross": None}
    if kind == "diagonal":
        products["diagonal"] = (x * y).sum(0)
    if kind in ("cross", "joint"):
        products["cross"] = x.T @ y
    if kind == "joint":
        products |= {"within_a": x.T @ x, "within_b": y.T @ y}
    return PairedSums(*channel_sums(a), *channel_sums(b), **products)


def batches(seed: int, sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Rows of 3 and 3 channels with means far from zero, in batches of the given sizes."""
    generator = torch.Generator().manual_seed(seed)
    shape = (sum(sizes), 6)
    rows = 5 + torch.randn(shape, generator=generator, dtype=torch.float64)
    return [(part[:, :3], part[:, 3:]) for part in rows.split(sizes)]


def assert_same(ours: ChannelMoments | PairedMoments, theirs: object) -> None:
    for name, value in vars(theirs).items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(getattr(ours, name), value, rtol=1e-14, atol=1e-13)
        else:
            assert getattr(ours, name) == value


@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    kind=st.sampled_from(KINDS),
    places=st.lists(st.integers(1, 3), min_size=6, max_size=6),
)
def test_a_running_total_is_what_merge_gives(
    seed: int, sizes: list[int], kind: str, places: list[int]
) -> None:
    running = RunningMoments(("a", "b"))
    pairs, singles = [], []
    for (a, b), times in zip(batches(seed, sizes), places, strict=False):
        # The second tap has other weights than the first, and in each batch other ones.
        x = a.repeat(times, 1)[:, :2]
        running.add("deep", 0, len(x), channel_sums(x))
        running.add_pair("pair", len(a), paired_sums(a, b, kind))
        running.end_batch()
        pairs.append(PairedMoments.from_sums(len(a), paired_sums(a, b, kind)))
        singles.append(ChannelMoments.from_sums(len(x), channel_sums(x)))
    assert_same(running.pair("pair"), reduce(PairedMoments.merge, pairs))
    assert_same(running.channels("deep"), reduce(ChannelMoments.merge, singles))


@pytest.mark.parametrize("sizes", [[0, 4], [4, 0], [0, 0], [4, 0, 4]])
def test_a_batch_without_samples_changes_nothing(sizes: list[int]) -> None:
    nothing = PairedMoments.empty(3, 3)
    none = PairedSums(nothing.mean_a, nothing.m2_a, nothing.mean_b, nothing.m2_b, nothing.cross)
    ((a, b),) = batches(0, [4])
    some = paired_sums(a, b, "cross")
    running = RunningMoments(("a", "b"))
    expected = nothing
    for n in sizes:
        running.add_pair("tap", n, some if n else none)
        running.end_batch()
        expected = expected.merge(PairedMoments.from_sums(n, some if n else none))
    assert_same(running.pair("tap"), expected)


@pytest.mark.parametrize("in_place", [False, True])
def test_products_may_be_added_in_place_or_afterwards(in_place: bool) -> None:
    (a, b), (c, d) = batches(1, [4, 4])
    running = RunningMoments(("a", "b"))
    for x, y in ((a, b), (c, d)):
        sums = paired_sums(x, y, "cross")
        assert sums.cross is not None
        if in_place:
            total = running.onto("tap", *sums.cross.shape, sums.cross.device)
            running.add_pair("tap", 4, sums._replace(cross=total.add_(sums.cross)))
        else:
            running.add_pair("tap", 4, sums)
            sums.cross.fill_(torch.nan)  # it may be memory that the next batch is written to
        running.end_batch()
    expected = PairedMoments.from_sums(4, paired_sums(a, b, "cross")).merge(
        PairedMoments.from_sums(4, paired_sums(c, d, "cross"))
    )
    assert_same(running.pair("tap"), expected)


def test_moments_of_a_batch_can_be_asked_for_until_it_ends() -> None:
    running = RunningMoments(("a", "b"))
    sums = [channel_sums(torch.randn(4, 3, dtype=torch.float64)) for _ in "ab"]
    assert running.added("tap") is None
    running.add("tap", 0, 4, sums[0])
    assert running.added("tap") is None
    running.add("tap", 1, 4, sums[1])
    assert running.added("tap") == tuple(sums)
    running.end_batch()
    assert running.added("tap") is None


def test_a_value_that_is_not_finite_is_named_with_network_tap_and_batch() -> None:
    running = RunningMoments(("first", "second"))
    for number in range(3):
        for network in (0, 1):
            x = torch.randn(4, 3, dtype=torch.float64)
            x[1, 2] = torch.inf if (number, network) == (2, 1) else 0
            running.add("shallow", network, 4, channel_sums(torch.zeros_like(x)))
            running.add("deep", network, 4, channel_sums(x))
        if number < 2:
            running.end_batch()
    with pytest.raises(NonFiniteActivationError, match="second.* tap 'deep' in batch 2"):
        running.end_batch()


def test_a_total_of_nothing_is_refused() -> None:
    with pytest.raises(CalibrationDataError, match="at least one batch with tap 'tap'"):
        RunningMoments(("a",)).channels("tap")
