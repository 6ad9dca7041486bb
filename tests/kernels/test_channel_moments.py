"""`channel_moments` in three voices: oracle, reference, kernel."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repair_kernels import kernels, reference
from repair_kernels.kernels.channel_moments import launch_config
from repair_kernels.kernels.devices import INTERPRETER, KNOWN
from tests import budget
from tests.kernels.layouts import LAYOUTS

# What numpy says in the interpreter where values are not finite.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check(x: torch.Tensor, channel_dim: int) -> None:
    kernel = kernels.channel_moments(x, channel_dim=channel_dim)
    truth = reference.channel_moments(x, channel_dim=channel_dim)
    budget.moments_within(kernel, truth, x, channel_dim)
    assert kernel.mean.dtype == kernel.m2.dtype == torch.float64


@pytest.mark.parametrize("channels", [1, 7, 63, 64, 65])
@pytest.mark.parametrize("n", [1, 7, 63, 64, 65, 257])
def test_meets_the_budget_across_block_edges(n, channels, device):
    check((torch.randn(n, channels) + 3).to(device), 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_meets_the_budget_in_every_layout_and_dtype(layout, dtype, device):
    x, channel_dim = LAYOUTS[layout](70, 9, dtype)
    check(x.to(device), channel_dim)


def test_several_splits_of_many_positions(device):
    # 2,100 positions: five blocks of 512 and a ragged one, in four splits under the interpreter.
    check((torch.randn(3, 5, 700) * 2 - 1).to(device), 1)


def test_float64_is_summed_in_float64(device):
    check(torch.randn(130, 3, dtype=torch.float64, device=device) + 1e6, 1)


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 5, 3, 3)])
def test_no_positions_or_no_channels_gives_zeros(shape, device):
    sums = kernels.channel_moments(torch.empty(shape, device=device))
    assert sums.mean.tolist() == sums.m2.tolist() == [0.0] * shape[1]


def test_one_position_has_no_spread(device):
    x = torch.tensor([[3.5, -2.0]], device=device)
    sums = kernels.channel_moments(x)
    assert sums.mean.tolist() == [3.5, -2.0]
    assert sums.m2.tolist() == [0.0, 0.0]


@given(offset=st.sampled_from([1e2, -1e4, 1e4]), scale=st.floats(0.5, 2.0))
def test_an_offset_leaves_m2_within_the_budget(offset, scale):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check((torch.randn(150, 3) * scale + offset).to(device), 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("row", [0, 200])
def test_a_value_that_is_not_finite_shows_in_its_channel_only(row, value, device):
    x = torch.randn(257, 3)
    x[row, 1] = value
    sums = kernels.channel_moments(x.to(device))
    seen = (sums.mean + sums.m2).isfinite()
    assert seen.tolist() == [True, False, True]


def test_large_finite_values_stay_finite(device):
    sums = kernels.channel_moments(torch.randn(300, 2, device=device) * 1e17)
    assert sums.m2.isfinite().all()


def test_the_same_input_gives_the_same_bits(device):
    x = torch.randn(2, 65, 300, device=device)
    first, second = kernels.channel_moments(x), kernels.channel_moments(x)
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.m2, second.m2)


@pytest.mark.usefixtures("_filled_with_nan")
def test_every_output_is_written(device):
    sums = kernels.channel_moments(torch.randn(130, 65, device=device))
    assert sums.mean.isfinite().all()
    assert sums.m2.isfinite().all()


@pytest.mark.parametrize("device", [*KNOWN.values(), INTERPRETER], ids=lambda device: device.arch)
@pytest.mark.parametrize(("n", "c"), [(1, 1), (257, 65), (10**7, 64), (2**33, 1), (64, 2**20)])
def test_launch_config_covers_all_positions_once(n, c, device):
    config = launch_config(n, c, torch.float32, device)
    splits = config.splits(n)
    assert config.split_size % config.block_n == 0
    assert (splits - 1) * config.split_size < n <= splits * config.split_size


def test_launch_config_fills_the_chip_where_there_is_work():
    config = launch_config(10**6, 64, torch.float32, KNOWN["sm_90"])
    assert 0.9 * 264 <= config.splits(10**6) * 64 / config.block_c <= 264
