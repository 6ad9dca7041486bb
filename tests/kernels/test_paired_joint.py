"""`joint=True`: the sums within a and within b, in the same pass as those across."""

import sys

import pytest
import torch

from repair_kernels import kernels, reference
from repair_kernels.kernels.paired_combine import combine_blocks
from tests import budget
from tests.kernels.layouts import LAYOUTS

# What numpy says in the interpreter where values are not finite.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check(a, b, channel_dim=1, precision="tf32x3"):
    options = {"channel_dim": channel_dim, "precision": precision, "joint": True}
    kernel = kernels.paired_moments(a, b, **options)
    truth = reference.paired_moments(a, b, **options)
    budget.moments_within(kernel[:2], truth[:2], a, channel_dim)
    budget.moments_within(kernel[2:4], truth[2:4], b, channel_dim)
    floor = budget.TF32_FLOOR if precision == "tf32" and a.dtype == torch.float32 else None
    budget.cross_within(kernel.cross, truth.cross, a, b, channel_dim, floor)
    budget.cross_within(kernel.within_a, truth.within_a, a, a, channel_dim, floor)
    budget.cross_within(kernel.within_b, truth.within_b, b, b, channel_dim, floor)
    return kernel


@pytest.mark.parametrize(
    ("n", "c_a", "c_b"), [(1, 1, 1), (7, 64, 1), (64, 63, 65), (65, 129, 7), (257, 128, 127)]
)
def test_meets_the_budget_across_block_edges(n, c_a, c_b, device):
    check((torch.randn(n, c_a) + 3).to(device), torch.randn(n, c_b).to(device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_meets_the_budget_in_every_layout_and_dtype(layout, dtype, device):
    (a, channel_dim), (b, _) = (LAYOUTS[layout](70, c, dtype) for c in (9, 5))
    check(a.to(device), b.to(device), channel_dim)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_every_precision_meets_its_budget(precision, device):
    a, b = torch.randn(3, 40, 50, device=device), torch.randn(3, 33, 50, device=device)
    check(a, b, precision=precision)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_within_are_exactly_symmetric_and_hold_m2(dtype, device):
    a, b = (torch.randn(300, 70) + 2).to(device, dtype), torch.randn(300, 5).to(device, dtype)
    sums = kernels.paired_moments(a, b, joint=True)
    for within, m2 in ((sums.within_a, sums.m2_a), (sums.within_b, sums.m2_b)):
        assert torch.equal(within, within.t())
        assert ((within.diag() - m2).abs() <= budget.MOMENT_FLOOR[dtype] * m2).all()


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize(("c_a", "c_b"), [(1, 16), (16, 17), (17, 33), (49, 32), (1, 64)])
def test_every_pair_of_tiles_is_multiplied(c_a, c_b, device):
    # 2 to 6 tiles of 16 channels: even and odd numbers of them fold the triangle differently.
    check(torch.randn(60, c_a, device=device), torch.randn(60, c_b, device=device) + 1)


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize("n", [1, 60, 150])
def test_a_tile_may_be_put_together_by_several_programs(n, monkeypatch, device):
    # Blocks of 4 × 8 pairs in tiles of 16, and 2 splits of 48 positions at a time.
    module = sys.modules["repair_kernels.kernels.paired_moments"]
    blocks = {"BLOCK_S": 2, "BLOCK_X": 4, "BLOCK_Y": 8}
    monkeypatch.setattr(module, "combine_blocks", lambda *_: blocks)
    a, b = torch.randn(n, 17, device=device) + 2, torch.randn(n, 16, device=device)
    check(a, b)
    alone, truth = kernels.paired_moments(a, b), reference.paired_moments(a, b)
    budget.moments_within(alone[:2], truth[:2], a, 1)
    budget.moments_within(alone[2:4], truth[2:4], b, 1)
    budget.cross_within(alone.cross, truth.cross, a, b, 1)


@pytest.mark.parametrize("block_c", [16, 32, 64, 128])
@pytest.mark.parametrize("splits", [1, 2, 3, 8, 33, 1000])
def test_blocks_of_pairs_divide_a_tile_and_fit_into_registers(splits, block_c):
    blocks = combine_blocks(splits, block_c)
    assert block_c % blocks["BLOCK_X"] == block_c % blocks["BLOCK_Y"] == 0
    assert blocks["BLOCK_S"] * blocks["BLOCK_X"] * blocks["BLOCK_Y"] <= 1024
    assert 4 * blocks["BLOCK_Y"] >= 32  # bytes side by side


def test_the_two_may_differ_in_layout(device):
    a, b = torch.randn(2, 9, 4, 5, device=device), torch.randn(2, 6, 4, 5, device=device)
    check(a, b.contiguous(memory_format=torch.channels_last))


def test_the_sums_across_are_those_without_joint(device):
    a, b = torch.randn(257, 65, device=device) + 1, torch.randn(257, 7, device=device)
    joint, alone = kernels.paired_moments(a, b, joint=True), kernels.paired_moments(a, b)
    floor = budget.MOMENT_FLOOR[torch.float32] * 257
    assert (joint.cross - alone.cross).abs().max() <= floor
    assert (joint.m2_a - alone.m2_a).abs().max() <= floor


@pytest.mark.parametrize("shapes", [((0, 5), (0, 3)), ((4, 0), (4, 3)), ((4, 5), (4, 0))])
def test_no_positions_or_no_channels_gives_zeros_or_the_sums_of_the_other(shapes, device):
    a, b = (torch.ones(shape, device=device) for shape in shapes)
    sums = kernels.paired_moments(a, b, joint=True)
    truth = reference.paired_moments(a, b, joint=True)
    for name in ("mean_a", "m2_a", "mean_b", "m2_b", "cross", "within_a", "within_b"):
        assert getattr(sums, name).tolist() == getattr(truth, name).tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_shows_in_its_channel_only(value, device):
    a, b = torch.randn(257, 3, device=device), torch.randn(257, 2, device=device)
    b[200, 1] = value
    sums = kernels.paired_moments(a, b, joint=True)
    assert (sums.mean_b + sums.m2_b).isfinite().tolist() == [True, False]
    assert sums.within_a.isfinite().all()
    assert sums.within_b.isfinite().tolist() == [[True, False], [False, False]]


@pytest.mark.usefixtures("_filled_with_nan")
def test_every_output_is_written(device):
    a, b = torch.randn(130, 65, device=device), torch.ones(130, 7, device=device)
    sums = kernels.paired_moments(a, b, joint=True)
    assert all(values.isfinite().all() for values in sums if values is not None)


def test_the_same_input_gives_the_same_bits(device):
    a, b = torch.randn(2, 65, 60, device=device), torch.randn(2, 7, 60, device=device)
    first, second = (kernels.paired_moments(a, b, joint=True) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
