"""The reference on a CPU: chunks cover everything once, and stay exact at any size."""

import pytest
import torch

from repair_kernels import reference
from repair_kernels.reference import chunks
from tests import budget, oracles


@pytest.mark.parametrize("shape", [(3, 2, 5000), (40, 3, 7), (1, 900, 1), (0, 4, 9), (5, 1, 0)])
@pytest.mark.parametrize("across", [False, True])
def test_pieces_cover_every_position_once(shape, across):
    x = torch.randn(shape, dtype=torch.float64)
    if across:  # channels last
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    total = x.sum(dim=(0, 2))
    for pieces in (chunks.blocks(x), chunks.chunks(x, x.shape[1])):
        parts = [piece.sum(dim=(0, 2)) for piece in pieces]
        assert sum(parts, torch.zeros_like(total)) == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("channels", [1, 64, 512, 4096])
def test_a_chunk_holds_no_more_positions_than_a_float32_sum_takes(channels):
    pieces = chunks.chunks(torch.empty(1).expand(9, channels, 3000), channels)
    positions = [piece.shape[0] * piece.shape[2] for piece in pieces]
    assert max(positions) <= chunks.POSITIONS[-1]
    # More than the fewest only in pieces of bounded memory.
    assert max(positions) <= max(chunks.PRODUCT_VALUES // channels, chunks.POSITIONS[0])


@pytest.mark.parametrize("cross", [False, True, "diagonal"])
def test_moments_that_are_known_are_not_computed_again(cross):
    a, b = torch.randn(2, 40, 3, 7) + 2
    moments = reference.channel_moments(a), reference.channel_moments(b)
    given = reference.paired_moments(a, b, cross=cross, moments=moments)
    found = reference.paired_moments(a, b, cross=cross)
    assert given[:4] == (*moments[0], *moments[1])
    for one, other in zip(given, found, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("channels_last", [False, True])
def test_many_chunks_with_a_large_offset_stay_in_the_promised_1e_6(channels_last):
    a = torch.randn(3, 4, 150, 150) + 1e4
    b = 0.5 * a + torch.randn(3, 4, 150, 150) - 2e4
    if channels_last:
        a, b = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
    sums = reference.paired_moments(a, b)
    (_, m2_a), (_, m2_b) = (oracles.channel_moments(x, 1) for x in (a, b))
    scale = (m2_a[:, None] * m2_b[None, :]) ** 0.5
    assert budget.error(sums.cross, oracles.cross(a, b, 1), scale) <= 1e-6
    assert budget.error(sums.m2_a, m2_a, m2_a) <= 1e-6
    assert budget.error(sums.m2_b, m2_b, m2_b) <= 1e-6


def test_ten_million_positions_stay_in_the_promised_1e_6():
    x = torch.randn(10**7, 1) + 100
    y = x + torch.randn(10**7, 1)
    sums = reference.paired_moments(x, y)
    m2_x, m2_y = (oracles.channel_moments(values, 1)[1] for values in (x, y))
    scale = (m2_x[:, None] * m2_y[None, :]) ** 0.5
    assert budget.error(sums.cross, oracles.cross(x, y, 1), scale) <= 1e-6
    assert budget.error(sums.m2_a, m2_x, m2_x) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_values_are_summed_in_float32(dtype):
    x = (torch.randn(5000, 3) + 4).to(dtype)
    mean, m2 = oracles.channel_moments(x, 1)
    sums = reference.channel_moments(x)
    assert budget.error(sums.m2, m2, m2) <= 1e-6
    assert budget.error(sums.mean, mean, mean) <= 1e-6


def test_float64_is_the_truth():
    x = torch.randn(500, 3, dtype=torch.float64) + 1e3
    mean, m2 = oracles.channel_moments(x, 1)
    sums = reference.channel_moments(x)
    assert budget.error(sums.m2, m2, m2) <= 1e-12
    assert budget.error(sums.mean, mean, mean) <= 1e-15


@pytest.mark.parametrize("size", [1e17, 1e30])
def test_values_whose_squares_leave_float32_stay_finite(size):
    x = torch.randn(3000, 2) * size
    sums = reference.paired_moments(x, -x)
    _, m2 = oracles.channel_moments(x, 1)
    assert budget.error(sums.m2_a, m2, m2) <= 1e-6
    assert budget.error(sums.cross.diagonal(), -m2, m2) <= 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_shows_in_its_channel_only(value):
    x = torch.randn(300, 3)
    x[150, 1] = value
    sums = reference.channel_moments(x)
    assert (sums.mean + sums.m2).isfinite().tolist() == [True, False, True]


def test_no_float64_copy_of_an_activation_is_made():
    x = torch.randn(64, 8, 64, 64)
    with torch.profiler.profile(profile_memory=True) as profile:
        reference.paired_moments(x, x)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= chunks.BLOCK_VALUES * 4


def test_the_same_input_gives_the_same_bits():
    x = torch.randn(8, 64, 33, 33)
    first, second = reference.paired_moments(x, x), reference.paired_moments(x, x)
    assert all(torch.equal(one, other) for one, other in zip(first[:5], second[:5], strict=True))
