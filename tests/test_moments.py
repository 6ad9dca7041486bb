"""Laws of the moments: any split of the samples, in any order, is one set of samples."""

from collections.abc import Iterator
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import config
from torch import Tensor

from repair_kernels import ops
from repair_kernels.errors import (
    ArchitectureMismatchError,
    ArgumentError,
    CalibrationDataError,
)
from repair_kernels.moments import ChannelMoments, PairedMoments
from tests.two_pass import two_pass

SEEDS = st.integers(0, 2**31)
SIZES = st.tuples(st.integers(4, 65), st.integers(1, 7), st.integers(1, 7))


def samples(seed: int, n: int, c_a: int, c_b: int) -> tuple[Tensor, Tensor]:
    """Correlated channels of very different scale, with means of a few standard deviations."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    c = c_a + c_b
    scale = 10.0 ** torch.linspace(-3, 3, c, dtype=torch.float64)
    both = (normal(n, 3) @ normal(3, c) + normal(n, c) + 3 * normal(c)) * scale
    return both[:, :c_a].contiguous(), both[:, c_a:].contiguous()


def split(a: Tensor, b: Tensor, cuts: list[int]) -> list[PairedMoments]:
    """Moments of each piece of the samples; a piece may be empty."""
    nothing = PairedMoments.empty(a.shape[1], b.shape[1])
    return [
        two_pass(a[start:stop], b[start:stop]) if stop > start else nothing
        for start, stop in pairwise([0, *sorted(cuts), len(a)])
    ]


def with_values(mean: list[float], std: list[float], n: int = 100) -> PairedMoments:
    """Uncorrelated channels of both networks with given means and standard deviations."""
    means = torch.tensor(mean, dtype=torch.float64)
    m2 = n * torch.tensor(std, dtype=torch.float64).square()
    return PairedMoments(n, means, m2, means, m2, torch.diag(m2))


def assert_same(ours: PairedMoments, theirs: PairedMoments, tolerance: float = 1e-10) -> None:
    """Compare; errors count relative to a channel's magnitude, and to sqrt(m2_a m2_b)."""
    assert ours.n_samples == theirs.n_samples
    for x, y in ((ours.a, theirs.a), (ours.b, theirs.b)):
        rms = (y.mean.square() + y.m2 / y.n_samples).sqrt()
        assert ((x.mean - y.mean).abs() <= tolerance * rms).all()
        assert ((x.m2 - y.m2).abs() <= tolerance * y.m2).all()
    assert ours.cross is not None
    assert theirs.cross is not None
    scale = torch.outer(theirs.m2_a.sqrt(), theirs.m2_b.sqrt())
    assert ((ours.cross - theirs.cross).abs() <= tolerance * scale).all()


def assert_equal(x: Tensor, y: Tensor) -> None:
    torch.testing.assert_close(x, y, rtol=0, atol=0)


# --- merge ---------------------------------------------------------------------------------------


@given(seed=SEEDS, size=SIZES, data=st.data())
def test_any_split_of_the_samples_gives_the_moments_of_all(seed, size, data) -> None:
    a, b = samples(seed, *size)
    cuts = data.draw(st.lists(st.integers(0, size[0]), max_size=5))
    assert_same(reduce(PairedMoments.merge, split(a, b, cuts)), two_pass(a, b))


@given(seed=SEEDS, size=SIZES, data=st.data())
def test_merge_is_commutative_and_associative(seed, size, data) -> None:
    cuts = data.draw(st.lists(st.integers(1, size[0] - 1), min_size=2, max_size=2))
    x, y, z = split(*samples(seed, *size), cuts)
    assert_same(x.merge(y).merge(z), z.merge(y.merge(x)))
    assert_same(x.merge(y).merge(z), x.merge(y.merge(z)))


def test_merge_with_no_samples_is_identity_bit_for_bit() -> None:
    x = two_pass(*samples(0, 9, 2, 3))
    nothing = PairedMoments.empty(2, 3)
    assert x.merge(nothing) is x
    assert nothing.merge(x) is x
    assert_equal(x.a.merge(ChannelMoments.empty(2)).mean, x.mean_a)
    assert_equal(ChannelMoments.empty(2).merge(x.a).m2, x.m2_a)


def test_a_ragged_last_batch_weighs_what_it_holds() -> None:
    a = torch.tensor([[0.0], [0.0], [0.0], [4.0]], dtype=torch.float64)
    merged = two_pass(a[:3], a[:3]).merge(two_pass(a[3:], a[3:]))
    assert merged.mean_a.item() == 1.0
    assert merged.var_a.item() == merged.cov.item() == 3.0


def test_merge_of_one_network_equals_that_of_both() -> None:
    x, y = split(*samples(1, 20, 3, 2), [7])
    alone, both = x.a.merge(y.a), x.merge(y)
    assert alone.n_samples == both.n_samples
    assert_equal(alone.mean, both.mean_a)
    assert_equal(alone.m2, both.m2_a)


def test_merge_takes_counts_whose_product_overflows_64_bits() -> None:
    x, y = with_values([0.0], [1.0], n=2**62), with_values([2.0], [1.0], n=2**62)
    merged = x.merge(y)
    assert merged.n_samples == 2**63
    assert merged.mean_a.item() == 1.0
    assert merged.var_a.item() == merged.cov.item() == 2.0


def test_merge_reads_nothing_back_from_the_device() -> None:
    # A tensor on the meta device has no values: whoever reads one gets an error.
    x = with_values([0.0, 1.0], [1.0, 2.0]).to("meta")
    assert x.merge(x).n_samples == 200
    assert x.a.merge(x.b).mean.device.type == "meta"


def test_merge_leaves_its_operands_as_they_were() -> None:
    operands = split(*samples(2, 12, 3, 4), [5])
    copies = [PairedMoments(**{k: _copy(v) for k, v in vars(x).items()}) for x in operands]
    operands[0].merge(operands[1])
    for operand, copy in zip(operands, copies, strict=True):
        assert_same(operand, copy, tolerance=0)


def _copy(value: int | Tensor) -> int | Tensor:
    return value.clone() if isinstance(value, Tensor) else value


def test_merge_without_cross_has_none() -> None:
    x = PairedMoments.empty(2, 3, cross=False)
    one = torch.ones(2, dtype=torch.float64)
    three = torch.ones(3, dtype=torch.float64)
    y = PairedMoments(4, one, one, three, three)
    assert x.merge(y).cross is None
    assert y.merge(y).cross is None


# --- what the ops return -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_batches_through_the_op_give_the_moments_of_all(dtype: torch.dtype) -> None:
    a, b = torch.randn(7, 3, 2, 5).to(dtype), torch.randn(7, 4, 2, 5).to(dtype)
    total = PairedMoments.empty(3, 4)
    for x, y in zip(a.split(3), b.split(3), strict=True):
        sums = ops.paired_moments(x, y, precision="ieee", backend="torch")
        total = total.merge(PairedMoments.from_sums(len(x) * 10, sums))
    rows = [x.movedim(1, -1).flatten(0, -2).double() for x in (a, b)]
    assert_same(total, two_pass(*rows), tolerance=1e-6)


def test_channel_moments_through_the_op_equal_those_of_the_pair() -> None:
    x = torch.randn(7, 3, 4)
    alone = ChannelMoments.from_sums(28, ops.channel_moments(x, backend="torch"))
    paired = PairedMoments.from_sums(28, ops.paired_moments(x, x, cross=False, backend="torch"))
    torch.testing.assert_close(alone.std, paired.std_b, rtol=1e-6, atol=0)
    assert paired.cross is None


@given(seed=SEEDS)
def test_1e4_on_a_channel_leaves_m2_and_corr(seed: int) -> None:
    # Multiples of 1/256 below 16: float32 holds them exactly also after the shift.
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randint(-4095, 4096, (50, 4), generator=generator) / 256 for _ in range(2))
    shift = torch.tensor([1e4, 0.0, -1e4, 0.0])

    def moments(x: Tensor, y: Tensor) -> PairedMoments:
        parts = zip(x.split(17), y.split(17), strict=True)
        sums = [(len(u), ops.paired_moments(u, v, backend="torch")) for u, v in parts]
        return reduce(PairedMoments.merge, [PairedMoments.from_sums(n, s) for n, s in sums])

    still, moved = moments(a, b), moments(a + shift, b)
    torch.testing.assert_close(moved.m2_a, still.m2_a, rtol=1e-6, atol=0)
    torch.testing.assert_close(moved.corr, still.corr, rtol=0, atol=1e-6)


def test_sums_with_a_gradient_give_moments_without_one() -> None:
    x = torch.ones(3, requires_grad=True)
    moments = PairedMoments.from_sums(5, ops.PairedSums(x, x, x, x, torch.outer(x, x)))
    assert not moments.corr.requires_grad
    assert not moments.merge(moments).m2_a.requires_grad


# --- derived values ------------------------------------------------------------------------------


def test_derived_values_are_those_of_numpy() -> None:
    a, b = samples(3, 40, 3, 3)
    moments = two_pass(a, b)
    covariance = np.cov(a.numpy(), b.numpy(), rowvar=False, bias=True)
    correlation = np.corrcoef(a.numpy(), b.numpy(), rowvar=False)
    for ours, theirs in (
        (moments.var_a, covariance.diagonal()[:3]),
        (moments.var_b, covariance.diagonal()[3:]),
        (moments.std_a, a.numpy().std(0)),
        (moments.std_b, b.numpy().std(0)),
        (moments.cov, covariance[:3, 3:]),
        (moments.corr, correlation[:3, 3:]),
        (moments.cov_diag, covariance[:3, 3:].diagonal()),
        (moments.corr_diag, correlation[:3, 3:].diagonal()),
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10, atol=0)


@given(seed=SEEDS, size=SIZES)
def test_reordering_b_reorders_the_columns_of_corr(seed, size) -> None:
    a, b = samples(seed, *size)
    p = torch.randperm(size[2], generator=torch.Generator().manual_seed(seed))
    moments = two_pass(a, b)
    assert_same(moments.permuted_b(p), two_pass(a, b[:, p]), tolerance=1e-12)
    assert_equal(moments.permuted_b(p).corr, moments.corr[:, p])
    assert_equal(moments.permuted_b(p).std_b, moments.std_b[p])
    assert_equal(moments.b.permuted(p).mean, moments.mean_b[p])


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_indices_of_any_kind_are_taken(kind) -> None:
    moments = with_values([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert moments.permuted_b(kind([2, 0, 1])).mean_b.tolist() == [3.0, 1.0, 2.0]
    without = PairedMoments(5, moments.mean_a, moments.m2_a, moments.mean_b, moments.m2_b)
    assert without.permuted_b(kind([2, 0, 1])).cross is None
    assert ChannelMoments.empty(0).permuted(kind([])).mean.shape == (0,)


def test_corr_stays_within_one_when_rounding_takes_it_beyond() -> None:
    moments = with_values([0.0], [1.0])
    beyond = PairedMoments(100, *list(vars(moments).values())[1:5], moments.m2_a[None] * 1.0001)
    assert beyond.corr.item() == beyond.corr_diag.item() == 1.0


def test_to_moves_every_tensor() -> None:
    moments = two_pass(*samples(0, 9, 2, 3))
    moved = moments.to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, Tensor)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moments.a.to("meta").m2.device.type == "meta"
    assert_same(moments.to("cpu"), moments, tolerance=0)


def test_repr_tells_size_and_place_instead_of_values() -> None:
    moments = with_values([0.0, 0.0], [1.0, 1.0], n=1000)
    assert repr(moments) == (
        "PairedMoments(n_samples=1,000, c_a=2, c_b=2, products=cross, device=cpu)"
    )
    assert repr(moments.a) == "ChannelMoments(n_samples=1,000, c=2, device=cpu)"


# --- dead channels -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "std", "dead"),
    [
        pytest.param([3.0, 0.0], [0.0, 1.0], [True, False], id="constant"),
        pytest.param([1e4, 0.0], [1e-4, 1.0], [True, False], id="below rounding of its mean"),
        pytest.param([1e4, 0.0], [1.0, 1.0], [False, False], id="mean 1e4, std 1"),
        pytest.param([0.0, 0.0], [0.0128, 1.28], [False, False], id="a hundredth of the layer"),
        pytest.param([0.0, 0.0], [1e-20, 1.0], [True, False], id="weights decayed to nothing"),
        pytest.param([0.0, 0.0], [3e-4, 3e-4], [False, False], id="a tiny layer"),
        pytest.param([0.0, 0.0], [1e-18, 1e-18], [False, False], id="a layer tinier still"),
        pytest.param([1.0, -2.0], [0.0, 0.0], [True, True], id="a constant layer"),
        pytest.param([0.0, 0.0], [0.0, 0.0], [True, True], id="a layer of zeros"),
        pytest.param([0.0, 0.0], [float("nan"), 1.0], [True, True], id="NaN is never alive"),
    ],
)
def test_dead_is_relative_to_the_channel_and_its_layer(mean, std, dead) -> None:
    moments = with_values(mean, std)
    assert moments.dead_a.tolist() == moments.dead_b.tolist() == dead


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.1, 1234.567, -3e-5])
def test_a_constant_channel_is_dead_after_any_batches(dtype: torch.dtype, value: float) -> None:
    x = torch.randn(100, 2).to(dtype)
    x[:, 0] = value
    parts = [(len(u), ops.channel_moments(u, backend="torch")) for u in x.split(33)]
    total = reduce(ChannelMoments.merge, [ChannelMoments.from_sums(n, s) for n, s in parts])
    assert total.dead.tolist() == [True, False]


def test_dead_channels_correlate_with_nothing() -> None:
    a, b = samples(4, 30, 3, 3)
    a[:, 1], b[:, 2] = 7.0, 0.0
    corr = two_pass(a, b).corr
    assert corr.isfinite().all()
    assert not corr[1].any()
    assert not corr[:, 2].any()
    assert corr[0, :2].all()
    assert two_pass(a, b).corr_diag[1:].tolist() == [0.0, 0.0]


def test_one_sample_or_none_leaves_every_channel_dead() -> None:
    one = torch.randn(1, 4, dtype=torch.float64)
    assert two_pass(one, one).dead_a.all()
    assert not two_pass(one, one).corr.any()
    assert PairedMoments.empty(2, 3).dead_b.all()
    assert PairedMoments.empty(0, 3).dead_a.shape == (0,)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["var_a", "std_b", "cov", "corr", "cov_diag", "corr_diag"])
def test_values_of_no_samples_are_refused(name: str) -> None:
    with pytest.raises(CalibrationDataError, match="need at least one sample"):
        getattr(PairedMoments.empty(2, 2), name)


@pytest.mark.parametrize("name", ["cov", "corr", "cov_diag", "corr_diag"])
def test_correlation_of_a_tap_without_cross_says_how_to_record_it(name: str) -> None:
    with pytest.raises(ArgumentError, match="Name the tap in `cross`, or give cross='all'"):
        getattr(PairedMoments.empty(2, 2, cross=False), name)


@pytest.mark.parametrize("name", ["cov_diag", "corr_diag"])
def test_a_diagonal_needs_a_square(name: str) -> None:
    with pytest.raises(ArgumentError, match="as many channels in a as in b; got 2 and 3"):
        getattr(two_pass(*samples(0, 9, 2, 3)), name)


def test_merge_refuses_other_widths() -> None:
    with pytest.raises(ArchitectureMismatchError, match="channels in `mean_b`; got 3 and 4"):
        PairedMoments.empty(2, 3).merge(PairedMoments.empty(2, 4))
    with pytest.raises(ArchitectureMismatchError, match="channels in `mean`; got 3 and 4"):
        ChannelMoments.empty(3).merge(ChannelMoments.empty(4))


def test_merge_refuses_cross_on_one_side_only() -> None:
    with pytest.raises(ArgumentError, match='the same products of deviations; got "cross" and'):
        PairedMoments.empty(2, 3).merge(PairedMoments.empty(2, 3, cross=False))


def test_merge_refuses_two_devices() -> None:
    with pytest.raises(ArgumentError, match=r"on one device; got cpu and meta.*`\.to\(device\)`"):
        ChannelMoments.empty(2).merge(ChannelMoments.empty(2, "meta"))


@pytest.mark.parametrize(
    "indices", [[0, 1], [0, 0, 1], [1, 2, 3], [[0, 1, 2]], [0.0, 1.0, 2.0], [True, False, True]]
)
def test_indices_that_are_no_permutation_are_refused(indices: list) -> None:
    with pytest.raises(ArgumentError, match="every channel from 0 to 2 exactly once"):
        ChannelMoments.empty(3).permuted(torch.tensor(indices))


@pytest.fixture
def _unchecked_annotations() -> Iterator[None]:
    """Let arguments of wrong types through to the package's own checks, as outside of the tests."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_unchecked_annotations")
@pytest.mark.parametrize("n_samples", [-1, True, 2.0, None])
def test_counts_that_are_no_counts_are_refused(n_samples) -> None:
    zeros = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ArgumentError, match=f"int of at least 0; got {n_samples}"):
        ChannelMoments(n_samples, zeros, zeros)


@pytest.mark.usefixtures("_unchecked_annotations")
def test_totals_that_are_not_float64_vectors_are_refused() -> None:
    zeros = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ArgumentError, match=r"`m2` must be a float64 tensor.*got torch.float32"):
        ChannelMoments(1, zeros, zeros.float())
    with pytest.raises(ArgumentError, match=r"`m2_b` must be .* shape \(2,\).* shape \(1,\)"):
        PairedMoments(1, zeros, zeros, zeros, zeros[:1])
    with pytest.raises(ArgumentError, match=r"`cross` must be .* \(2, 2\), a's .* shape \(2, 1\)"):
        PairedMoments(1, zeros, zeros, zeros, zeros, zeros[:, None])
