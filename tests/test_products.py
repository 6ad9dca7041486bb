"""Products of deviations of every kind: paired channels alone, all pairs, and within a network."""

from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from repair_kernels import ops
from repair_kernels.errors import ArgumentError
from repair_kernels.moments import PairedMoments
from repair_kernels.moments.pairs import PRODUCTS
from tests.two_pass import two_pass

SEEDS = st.integers(0, 2**31)
KINDS = st.sampled_from(list(PRODUCTS))


def rows(seed: int, n: int = 40, c_a: int = 4, c_b: int = 4) -> tuple[Tensor, Tensor]:
    """Correlated channels of very different scale, with means of a few standard deviations."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scale = 10.0 ** torch.linspace(-3, 3, c_a + c_b, dtype=torch.float64)
    both = (normal(n, 3) @ normal(3, c_a + c_b) + normal(n, c_a + c_b) + 3 * normal(1)) * scale
    return both[:, :c_a], both[:, c_a:]


def assert_same(ours: PairedMoments, theirs: PairedMoments, tolerance: float = 1e-10) -> None:
    """Compare all sums of products; errors count relative to the roots of both channels' m2."""
    assert ours.products == theirs.products
    roots = {"a": theirs.m2_a.sqrt(), "b": theirs.m2_b.sqrt()}
    scales = {
        "cross": torch.outer(roots["a"], roots["b"]),
        "within_a": torch.outer(roots["a"], roots["a"]),
        "within_b": torch.outer(roots["b"], roots["b"]),
    }
    for name in PRODUCTS[theirs.products]:
        scale = roots["a"] * roots["b"] if name == "diagonal" else scales[name]
        error = (ours.tensors[name] - theirs.tensors[name]).abs()
        assert (error <= tolerance * scale).all()


# --- merge ---------------------------------------------------------------------------------------


@given(seed=SEEDS, products=KINDS, data=st.data())
def test_any_split_of_the_samples_gives_the_products_of_all(seed, products, data) -> None:
    a, b = rows(seed)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(a) - 1), max_size=5)))
    pieces = pairwise([0, *cuts, len(a)])
    parts = [two_pass(a[start:stop], b[start:stop], products) for start, stop in pieces]
    assert_same(reduce(PairedMoments.merge, parts), two_pass(a, b, products))


@given(seed=SEEDS, size=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_products_within_a_network_stay_symmetric_to_the_bit(seed, size) -> None:
    merged = reduce(
        PairedMoments.merge, [_symmetric(two_pass(*rows(s, 9, *size), "joint")) for s in (0, seed)]
    )
    assert merged.within_a is not None
    assert merged.within_b is not None
    assert torch.equal(merged.within_a, merged.within_a.T)
    assert torch.equal(merged.within_b, merged.within_b.T)


def _symmetric(moments: PairedMoments) -> PairedMoments:
    """Return the moments with products as symmetric as the op promises; numpy's may not be."""
    held = moments.tensors
    for name in ("within_a", "within_b"):
        held[name] = held[name].triu() + held[name].triu(1).T
    return PairedMoments(moments.n_samples, **held)


def test_products_within_a_network_are_added_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repair_kernels.moments.totals.OUTER_ELEMENTS", 3 * 4)
    a, b = rows(0, 40, 7, 4)
    merged = two_pass(a[:13], b[:13], "joint").merge(two_pass(a[13:], b[13:], "joint"))
    assert_same(merged, two_pass(a, b, "joint"))


@pytest.mark.parametrize("products", list(PRODUCTS))
def test_merge_with_no_samples_is_identity(products: str) -> None:
    moments = two_pass(*rows(0), products)
    cross = {"none": False, "diagonal": "diagonal"}.get(products, True)
    nothing = PairedMoments.empty(4, 4, cross=cross, joint=products == "joint")
    assert nothing.products == products
    assert moments.merge(nothing) is moments
    assert nothing.merge(moments) is moments


def test_merge_reads_nothing_back_from_the_device() -> None:
    # A tensor on the meta device has no values: whoever reads one gets an error.
    moments = two_pass(*rows(0), "joint").to("meta")
    assert moments.merge(moments).n_samples == 80


@pytest.mark.parametrize("products", ["none", "diagonal", "cross"])
def test_merge_refuses_other_products(products: str) -> None:
    with pytest.raises(ArgumentError, match=f'same products of dev.*"{products}" and "joint"'):
        two_pass(*rows(0), products).merge(two_pass(*rows(0), "joint"))


# --- derived values ------------------------------------------------------------------------------


def test_covariances_are_those_of_numpy() -> None:
    a, b = rows(1, 40, 3, 5)
    moments = two_pass(a, b, "joint")
    covariance = np.cov(a.numpy(), b.numpy(), rowvar=False, bias=True)
    correlation = np.corrcoef(a.numpy(), b.numpy(), rowvar=False)
    for ours, theirs in (
        (moments.cov_a, covariance[:3, :3]),
        (moments.cov_b, covariance[3:, 3:]),
        (moments.joint_cov, covariance),
        (moments.corr_a, correlation[:3, :3]),
        (moments.corr_b, correlation[3:, 3:]),
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=0)


def test_the_diagonal_alone_gives_that_of_the_matrix() -> None:
    a, b = rows(2)
    a[:, 1] = 7.0
    alone, whole = two_pass(a, b, "diagonal"), two_pass(a, b)
    torch.testing.assert_close(alone.cov_diag, whole.cov_diag, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alone.corr_diag, whole.corr_diag, rtol=1e-12, atol=1e-12)
    assert alone.corr_diag[1].item() == 0.0


def test_an_alive_channel_correlates_fully_with_itself_and_a_dead_one_not_at_all() -> None:
    a, b = rows(3)
    a[:, 2], b[:, 0] = 1.0, 0.0
    moments = two_pass(a, b, "joint")
    for corr, dead in ((moments.corr_a, 2), (moments.corr_b, 0)):
        expected = torch.ones(4, dtype=torch.float64)
        expected[dead] = 0.0
        torch.testing.assert_close(corr.diagonal(), expected, rtol=1e-12, atol=0)
        assert not corr[dead].any()
        assert not corr[:, dead].any()
        assert corr.abs().max() <= 1.0


@given(seed=SEEDS)
def test_reordering_b_reorders_its_products(seed: int) -> None:
    a, b = rows(seed, c_b=5)
    p = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    permuted = two_pass(a, b, "joint").permuted_b(p)
    assert_same(permuted, two_pass(a, b[:, p], "joint"), tolerance=1e-12)
    assert torch.equal(permuted.cov_b, two_pass(a, b, "joint").cov_b[p][:, p])


def test_the_diagonal_alone_cannot_be_reordered() -> None:
    with pytest.raises(ArgumentError, match="paired when they were recorded.*whole `cross`"):
        two_pass(*rows(0), "diagonal").permuted_b([3, 2, 1, 0])


def test_to_moves_every_product() -> None:
    for products in PRODUCTS:
        moved = two_pass(*rows(0), products).to("meta")
        assert moved.products == products
        assert {value.device.type for value in moved.tensors.values()} == {"meta"}


@pytest.mark.parametrize("products", list(PRODUCTS))
def test_repr_tells_which_products_are_held(products: str) -> None:
    assert f"products={products}, device=cpu" in repr(two_pass(*rows(0), products))


def test_a_clone_has_memory_of_its_own() -> None:
    moments = two_pass(*rows(0), "joint")
    copy = moments.clone()
    for name, value in copy.tensors.items():
        assert value.data_ptr() != moments.tensors[name].data_ptr()
        assert torch.equal(value, moments.tensors[name])


def test_from_sums_takes_over_every_product() -> None:
    for products in PRODUCTS:
        expected = two_pass(*rows(0), products)
        sums = ops.PairedSums(**{"cross": None, **expected.tensors})
        assert_same(PairedMoments.from_sums(40, sums), expected, tolerance=0)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cov_a", "cov_b", "corr_a", "corr_b", "joint_cov"])
@pytest.mark.parametrize("products", ["none", "diagonal", "cross"])
def test_covariance_within_a_network_says_how_to_record_it(name: str, products: str) -> None:
    with pytest.raises(ArgumentError, match="Record them with `joint=True`"):
        getattr(two_pass(*rows(0), products), name)


@pytest.mark.parametrize("name", ["cov", "corr"])
def test_the_matrix_cannot_be_had_from_its_diagonal(name: str) -> None:
    with pytest.raises(ArgumentError, match="Name the tap in `cross`"):
        getattr(two_pass(*rows(0), "diagonal"), name)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (("cross", "diagonal"), "`cross` and `diagonal`"),
        (("within_a", "within_b"), "`within_a` and `within_b`"),
        (("cross", "within_b"), "`cross` and `within_b`"),
    ],
)
def test_products_that_no_record_holds_together_are_refused(held, words: str) -> None:
    joint, diagonal = two_pass(*rows(0), "joint"), two_pass(*rows(0), "diagonal")
    tensors = {**joint.tensors, **diagonal.tensors}
    vectors = {name: tensors[name] for name in ("mean_a", "m2_a", "mean_b", "m2_b")}
    with pytest.raises(ArgumentError, match=f"or none of them; got {words}"):
        PairedMoments(40, **vectors, **{name: tensors[name] for name in held})


def test_a_diagonal_of_unequal_widths_is_refused() -> None:
    a, b = rows(0, 9, 2, 3)
    vectors = two_pass(a, b, "none").tensors
    with pytest.raises(ArgumentError, match="as many channels in a as in b; got 2 and 3"):
        PairedMoments(9, **vectors, diagonal=torch.zeros(2, dtype=torch.float64))


@pytest.mark.usefixtures("unchecked_annotations")
def test_products_of_another_shape_are_refused() -> None:
    tensors = two_pass(*rows(0), "joint").tensors
    tensors["within_b"] = tensors["within_b"][:, :3].contiguous()
    with pytest.raises(ArgumentError, match=r"`within_b` must be .* \(4, 4\), b's.* \(4, 3\)"):
        PairedMoments(40, **tensors)
