"""`cross="diagonal"` and `cross=False`: paired channels, and only the moments of both."""

import numpy as np
import pytest
import torch

from repair_kernels import kernels, reference
from tests import budget, oracles
from tests.kernels.layouts import LAYOUTS

# What numpy says in the interpreter where values are not finite.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check(a, b, channel_dim=1):
    options = {"channel_dim": channel_dim, "cross": "diagonal"}
    kernel = kernels.paired_moments(a, b, **options)
    truth = reference.paired_moments(a, b, **options)
    budget.moments_within(kernel[:2], truth[:2], a, channel_dim)
    budget.moments_within(kernel[2:4], truth[2:4], b, channel_dim)
    (_, m2_a), (_, m2_b) = (oracles.channel_moments(x, channel_dim) for x in (a, b))
    scale, floor = np.sqrt(m2_a * m2_b), budget.MOMENT_FLOOR[a.dtype]
    expected = oracles.diagonal(a, b, channel_dim)
    budget.within(kernel.diagonal, truth.diagonal, expected, scale, floor)
    assert {sums.dtype for sums in kernel if sums is not None} == {torch.float64}
    assert kernel.cross is kernel.within_a is kernel.within_b is None


@pytest.mark.parametrize("channels", [1, 63, 64, 65, 129])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 257])
def test_meets_the_budget_across_block_edges(n, channels, device):
    check((torch.randn(n, channels) + 3).to(device), torch.randn(n, channels).to(device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_meets_the_budget_in_every_layout_and_dtype(layout, dtype, device):
    (a, channel_dim), (b, _) = (LAYOUTS[layout](70, 9, dtype) for _ in range(2))
    check(a.to(device), b.to(device), channel_dim)


def test_the_two_may_differ_in_layout(device):
    a, b = torch.randn(2, 9, 4, 5, device=device), torch.randn(2, 9, 4, 5, device=device)
    check(a, b.contiguous(memory_format=torch.channels_last))


def test_several_splits_of_many_positions_far_from_zero(device):
    a = torch.randn(3, 5, 7000, device=device)
    check(a + 1e4, a * 0.5 + torch.randn(3, 5, 7000, device=device) - 1e4)


def test_is_the_diagonal_of_cross(device):
    a, b = torch.randn(257, 65, device=device), torch.randn(257, 65, device=device)
    diagonal = kernels.paired_moments(a, b, cross="diagonal").diagonal
    cross = kernels.paired_moments(a, b).cross
    assert (diagonal - cross.diag()).abs().max() <= budget.MOMENT_FLOOR[torch.float32] * 257


@pytest.mark.parametrize("cross", [False, "diagonal"])
@pytest.mark.parametrize("shape", [(0, 5), (4, 0)])
def test_no_positions_or_no_channels_gives_zeros(shape, cross, device):
    x = torch.ones(shape, device=device)
    sums = kernels.paired_moments(x, x, cross=cross)
    assert sums.mean_a.tolist() == sums.m2_b.tolist() == [0.0] * shape[1]
    assert (sums.diagonal is None) == (cross is False)
    assert cross is False or sums.diagonal.tolist() == [0.0] * shape[1]


@pytest.mark.parametrize(("c_a", "c_b"), [(5, 5), (5, 3)])
def test_without_cross_only_the_moments_of_both(c_a, c_b, device):
    a, b = torch.randn(70, c_a, device=device), torch.randn(70, c_b, device=device)
    sums = kernels.paired_moments(a, b, cross=False)
    assert sums[4:] == (None,) * 4
    budget.moments_within(sums[:2], reference.channel_moments(a), a, 1)
    budget.moments_within(sums[2:4], reference.channel_moments(b), b, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("row", [0, 200])
def test_a_value_that_is_not_finite_shows_in_its_channel_only(row, value, device):
    a, b = torch.randn(257, 3, device=device), torch.randn(257, 3, device=device)
    b[row, 1] = value
    sums = kernels.paired_moments(a, b, cross="diagonal")
    assert (sums.mean_b + sums.m2_b).isfinite().tolist() == [True, False, True]
    assert (sums.mean_a + sums.m2_a).isfinite().all()
    assert sums.diagonal.isfinite().tolist() == [True, False, True]


@pytest.mark.usefixtures("_filled_with_nan")
def test_every_output_is_written(device):
    sums = kernels.paired_moments(*torch.randn(2, 130, 65, device=device), cross="diagonal")
    assert all(values.isfinite().all() for values in sums if values is not None)


def test_the_same_input_gives_the_same_bits(device):
    a, b = torch.randn(2, 2, 65, 300, device=device)
    first, second = (kernels.paired_moments(a, b, cross="diagonal") for _ in range(2))
    assert torch.equal(first.diagonal, second.diagonal)
    assert torch.equal(first.m2_b, second.m2_b)
