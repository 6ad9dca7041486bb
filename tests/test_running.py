"""Running totals: the bits of `merge`, without its memory; what was taken out stays as it was."""

from functools import reduce
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from repair_kernels.errors import ArchitectureMismatchError, ArgumentError, CalibrationDataError
from repair_kernels.moments import ChannelMoments, PairedMoments
from repair_kernels.ops import ChannelSums, PairedSums
from repair_kernels.running import RunningChannels, RunningPaired

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


def assert_bits(ours: Any, theirs: Any) -> None:
    for name, value in vars(theirs).items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(getattr(ours, name), value, rtol=0, atol=0)
        else:
            assert getattr(ours, name) == value


@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    kind=st.sampled_from(KINDS),
)
def test_a_running_total_has_the_bits_of_merge(seed: int, sizes: list[int], kind: str) -> None:
    paired, channels = RunningPaired(), RunningChannels()
    pairs, singles = [], []
    for a, b in batches(seed, sizes):
        sums = paired_sums(a, b, kind)
        pairs.append(PairedMoments.from_sums(len(a), sums))
        singles.append(ChannelMoments.from_sums(len(a), channel_sums(a)))
        paired.add(len(a), sums)
        channels.add(len(a), channel_sums(a))
    assert_bits(paired.value(), reduce(PairedMoments.merge, pairs))
    assert_bits(channels.value(), reduce(ChannelMoments.merge, singles))


@pytest.mark.parametrize("sizes", [[0, 4], [4, 0], [0, 0]])
def test_a_batch_without_samples_changes_nothing(sizes: list[int]) -> None:
    nothing = PairedMoments.empty(3, 3)
    none = PairedSums(nothing.mean_a, nothing.m2_a, nothing.mean_b, nothing.m2_b, nothing.cross)
    ((a, b),) = batches(0, [4])
    some = paired_sums(a, b, "cross")
    running = RunningPaired()
    for n in sizes:
        running.add(n, some if n else none)
    assert_bits(running.value(), PairedMoments.from_sums(4, some) if any(sizes) else nothing)


def test_what_was_taken_out_stays_as_it_was() -> None:
    first, second, third = batches(0, [4, 5, 6])
    running = RunningPaired()
    running.add(4, paired_sums(*first, "joint"))
    one = running.value()
    kept = one.clone()
    running.add(5, paired_sums(*second, "joint"))
    two = running.value()
    running.add(6, paired_sums(*third, "joint"))
    assert_bits(one, kept)
    parts = [
        PairedMoments.from_sums(len(a), paired_sums(a, b, "joint"))
        for a, b in (first, second, third)
    ]
    assert_bits(two, parts[0].merge(parts[1]))
    assert_bits(running.value(), two.merge(parts[2]))


def test_sums_are_copied_since_an_op_may_reuse_their_memory() -> None:
    (a, b), (c, d) = batches(1, [4, 4])
    buffer = paired_sums(a, b, "cross")
    running = RunningPaired()
    running.add(4, buffer)
    expected = running.value().clone()
    for held, new in zip(buffer[:5], paired_sums(c, d, "cross")[:5], strict=True):
        assert held is not None
        assert new is not None
        held.copy_(new)
    assert_bits(running.value(), expected)


def test_totals_stay_in_the_memory_they_have() -> None:
    running = RunningPaired()
    for a, b in batches(2, [4, 4, 4]):
        running.add(4, paired_sums(a, b, "joint"))
    total = running._total  # noqa: SLF001
    assert total is not None
    places = [t.data_ptr() for t in vars(total).values() if isinstance(t, Tensor)]
    for a, b in batches(3, [4, 4, 4]):
        running.add(4, paired_sums(a, b, "joint"))
    after = [t.data_ptr() for t in vars(running.value()).values() if isinstance(t, Tensor)]
    assert after == places


def test_nothing_is_read_back_from_the_device() -> None:
    # A tensor on the meta device has no values: whoever reads one gets an error.
    running = RunningPaired()
    for a, b in batches(4, [4, 4, 4]):
        running.add(4, paired_sums(a.to("meta"), b.to("meta"), "joint"))
    assert running.value().n_samples == 12


def test_sums_of_another_kind_width_or_device_are_refused() -> None:
    ((a, b),) = batches(5, [4])
    running = RunningPaired()
    running.add(4, paired_sums(a, b, "cross"))
    with pytest.raises(ArgumentError, match="the same products of deviations"):
        running.add(4, paired_sums(a, b, "joint"))
    with pytest.raises(ArchitectureMismatchError, match="channels in `mean_b`; got 3 and 2"):
        running.add(4, paired_sums(a, b[:, :2], "cross"))
    with pytest.raises(ArgumentError, match="on one device; got cpu and meta"):
        running.add(4, paired_sums(a.to("meta"), b.to("meta"), "cross"))


@pytest.mark.parametrize("running", [RunningChannels(), RunningPaired()])
def test_a_total_of_nothing_is_refused(running: RunningChannels | RunningPaired) -> None:
    with pytest.raises(CalibrationDataError, match="at least one batch, and none was added"):
        running.value()
