"""`paired_moments` in three voices: oracle, reference, kernel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repair_kernels import kernels, reference
from repair_kernels.kernels.devices import INTERPRETER, KNOWN
from repair_kernels.kernels.paired_moments import (
    _dot_precision,
    launch_config,
    pairs_of_tiles,
)
from tests import budget
from tests.kernels.layouts import LAYOUTS

# What numpy says in the interpreter where values are not finite.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check(a, b, channel_dim=1, precision="tf32x3"):
    options = {"channel_dim": channel_dim, "precision": precision}
    kernel = kernels.paired_moments(a, b, **options)
    truth = reference.paired_moments(a, b, **options)
    budget.moments_within(kernel[:2], truth[:2], a, channel_dim)
    budget.moments_within(kernel[2:4], truth[2:4], b, channel_dim)
    floor = budget.TF32_FLOOR if precision == "tf32" and a.dtype == torch.float32 else None
    budget.cross_within(kernel.cross, truth.cross, a, b, channel_dim, floor)
    assert {sums.dtype for sums in kernel[:5]} == {torch.float64}


@pytest.mark.parametrize(("c_a", "c_b"), [(1, 1), (7, 65), (65, 7), (64, 64), (63, 65)])
@pytest.mark.parametrize("n", [1, 7, 63, 64, 65, 257])
def test_meets_the_budget_across_block_edges(n, c_a, c_b, device):
    check((torch.randn(n, c_a) + 3).to(device), torch.randn(n, c_b).to(device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_meets_the_budget_in_every_layout_and_dtype(layout, dtype, device):
    (a, channel_dim), (b, _) = (LAYOUTS[layout](70, c, dtype) for c in (9, 5))
    check(a.to(device), b.to(device), channel_dim)


def test_the_two_may_differ_in_layout(device):
    a, b = torch.randn(2, 9, 4, 5, device=device), torch.randn(2, 6, 4, 5, device=device)
    check(a, b.contiguous(memory_format=torch.channels_last))


def test_several_splits_of_many_positions(device):
    # 2,100 positions: five blocks of 512 and a ragged one, in four splits under the interpreter.
    check((torch.randn(3, 5, 700) - 1).to(device), torch.randn(3, 6, 700).to(device))


def test_a_hundred_thousand_positions_far_from_zero(device):
    a = torch.randn(10**5, 1, device=device)
    check(a + 1e4, a + torch.randn(10**5, 1, device=device) - 1e4)


@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "tf32"])
def test_every_precision_meets_its_budget(precision, device):
    check(torch.randn(300, 40, device=device), torch.randn(300, 33, device=device), 1, precision)


def test_float64_is_summed_in_float64(device):
    a = torch.randn(130, 3, dtype=torch.float64, device=device) + 1e3
    check(a, a.flip(1) * 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=10)
@given(offset=st.sampled_from([1.0, 30.0, -1e3, 1e4]), seed=st.integers(0, 99))
def test_an_offset_leaves_m2_and_cross_within_the_budget(dtype, offset, seed):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 150, 4, generator=generator)
    check((a + offset).to(device, dtype), (a + b - offset).to(device, dtype))


@settings(max_examples=5)
@given(order=st.permutations(range(9)))
def test_permuting_the_channels_of_b_permutes_the_columns_of_cross(order):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    a, b = torch.randn(100, 5, device=device), torch.randn(100, 9, device=device)
    straight, permuted = kernels.paired_moments(a, b), kernels.paired_moments(a, b[:, order])
    floor = budget.MOMENT_FLOOR[torch.float32] * 100  # sqrt(m2_a * m2_b) is about 100
    assert (permuted.cross - straight.cross[:, order]).abs().max() <= floor
    assert torch.equal(permuted.m2_b, straight.m2_b[order])


def test_a_constant_channel_has_no_m2_and_no_cross(device):
    a = torch.randn(257, 3, device=device)
    a[:, 1] = 12345.678
    sums = kernels.paired_moments(a, torch.randn(257, 2, device=device))
    assert sums.m2_a[1] <= 257 * (12345.678 * 2.0**-23) ** 2
    assert sums.cross[1].abs().max() <= 257 * 12345.678 * 2.0**-23


@pytest.mark.parametrize("shapes", [((0, 5), (0, 3)), ((4, 0), (4, 3)), ((4, 5), (4, 0))])
def test_no_positions_or_no_channels_gives_zeros(shapes, device):
    a, b = (torch.ones(shape, device=device) for shape in shapes)
    sums = kernels.paired_moments(a, b)
    truth = reference.paired_moments(a, b)
    for kernel, expected in zip(sums[:5], truth[:5], strict=True):
        assert kernel.tolist() == expected.tolist()


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 15, 47, 48, 49, 97])
def test_split_and_tile_boundaries(n, dtype, device):
    # Splits of 48 positions in blocks of 16, tiles of 16 channels: turns go round unevenly.
    check((torch.randn(n, 33) + 2).to(device, dtype), torch.randn(n, 49).to(device, dtype))


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize("precision", ["tf32x3", "tf32"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_channels_that_need_a_pivot_and_others_that_do_not(dtype, precision, device):
    # Channels 0 to 15 need none, 16 to 31 some, 32 to 47 all: the pairs of tiles take both loops.
    offset = torch.zeros(48)
    offset[20], offset[32:] = 50.0, -200.0
    a, b = torch.randn(2, 5, 48, 20) + offset[:, None]
    check(a.to(device, dtype), b[:, :40].to(device, dtype), precision=precision)
    check(a.to(device, dtype).transpose(1, 2), b.to(device, dtype).transpose(1, 2), 2, precision)


def test_a_first_block_unlike_the_rest_costs_nothing(device):
    # The pivot of the first block says 0, and 1e4 follows; or 1e4, and 0 follows.
    a = torch.randn(512, 2)
    a[64:, 0] += 1e4
    a[:64, 1] += 1e4
    check(a.to(device), torch.randn(512, 3).to(device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("row", [0, 200])
def test_a_value_that_is_not_finite_shows_in_its_channel_only(row, value, dtype, device):
    a, b = torch.randn(257, 3).to(dtype), torch.randn(257, 2).to(dtype)
    b[row, 1] = value
    sums = kernels.paired_moments(a.to(device), b.to(device))
    assert (sums.mean_b + sums.m2_b).isfinite().tolist() == [True, False]
    assert (sums.mean_a + sums.m2_a).isfinite().all()


def test_large_finite_values_stay_finite(device):
    a = torch.randn(300, 2, device=device) * 1e17
    check(a, -a)


def test_the_same_input_gives_the_same_bits(device):
    a, b = torch.randn(2, 65, 200, device=device), torch.randn(2, 7, 200, device=device)
    first, second = kernels.paired_moments(a, b), kernels.paired_moments(a, b)
    assert all(torch.equal(one, other) for one, other in zip(first[:5], second[:5], strict=True))


@pytest.mark.usefixtures("_filled_with_nan")
def test_every_output_is_written(device):
    a, b = torch.randn(130, 65, device=device), torch.ones(130, 7, device=device)
    sums = kernels.paired_moments(a, b)
    assert all(values.isfinite().all() for values in sums[:5])


@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "tf32"])
@pytest.mark.parametrize("device", [*KNOWN.values(), INTERPRETER], ids=lambda device: device.arch)
@pytest.mark.parametrize(("n", "c"), [(1, 1), (257, 65), (10**7, 64), (2**33, 1), (64, 2**14)])
def test_launch_config_covers_all_positions_once(n, c, device, precision):
    config = launch_config(n, c, c, torch.float32, device, precision)
    splits = config.splits(n)
    assert config.split_size % config.block_n == 0
    assert (splits - 1) * config.split_size < n <= splits * config.split_size


@pytest.mark.parametrize(
    ("arch", "dtype", "asked", "given"),
    [
        ("sm_90", torch.float32, "tf32x3", "tf32x3"),
        ("sm_90", torch.float32, "ieee", "ieee"),
        ("sm_90", torch.float16, "ieee", "tf32"),
        ("sm_90", torch.float64, "tf32", "ieee"),
        ("gfx942", torch.float32, "tf32x3", "ieee"),
        ("gfx942", torch.float32, "tf32", "tf32"),
    ],
)
def test_products_are_never_less_exact_than_asked_for(arch, dtype, asked, given):
    assert _dot_precision(dtype, asked, KNOWN[arch]) == given


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("c", [64, 128, 256, 512, 1024, 2048])
def test_launch_config_fills_the_chip_where_there_is_work(c, joint):
    device = KNOWN["sm_90"]
    config = launch_config(2**20, c, c, torch.bfloat16, device, "tf32", joint)
    programs = config.splits(2**20) * pairs_of_tiles(c, c, config.block_c, joint)
    rounds = -(-programs // device.processors)
    assert programs >= 0.85 * rounds * device.processors


def test_launch_config_keeps_float32_sums_short_and_partial_sums_small():
    for c in (16, 64, 512, 4096, 2**14):
        config = launch_config(2**24, c, c, torch.float32, KNOWN["sm_90"], "tf32x3")
        assert config.split_size <= max(2**13, 4 * c) <= 2**16
        # Partial sums, 4 bytes a pair, beside the activations that they are made of.
        assert 4 * c * c / (2 * 4 * c * config.split_size) <= 0.13 or c > 2**13
