"""The ops: what they refuse, in which words, and which backend they choose."""

import sys

import pytest
import torch

from repair_kernels import kernels, ops, reference
from repair_kernels.errors import ArgumentError, RepairKernelsError
from repair_kernels.ops import Lerp

ROWS = torch.randn(6, 4)


def test_argument_errors_are_of_the_family_and_value_errors():
    assert issubclass(ArgumentError, RepairKernelsError)
    assert issubclass(ArgumentError, ValueError)


@pytest.mark.parametrize("op", [ops.channel_moments, lambda x, **o: ops.paired_moments(x, x, **o)])
def test_moments_refuse_a_channel_dim_that_is_not_there(op):
    with pytest.raises(ArgumentError, match=r"`channel_dim` must be a dimension of `[xa]`, got 2"):
        op(ROWS, channel_dim=2)


def test_a_scalar_has_no_channel_dim():
    with pytest.raises(ArgumentError, match=r"`channel_dim` must be a dimension of `x`, got -1"):
        ops.channel_moments(torch.tensor(1.0), channel_dim=-1)


@pytest.mark.parametrize("x", [torch.ones(2, 3, dtype=torch.int64), torch.eye(3).to_sparse()])
def test_moments_refuse_what_is_not_dense_floats(x):
    with pytest.raises(ArgumentError, match=r"`x` must be a dense tensor of float32, float16"):
        ops.channel_moments(x)


def test_paired_moments_refuse_two_dtypes():
    message = "`a` and `b` must have one dtype and one device, but are torch.float32 on cpu and "
    with pytest.raises(ArgumentError, match=message + "torch.float16"):
        ops.paired_moments(ROWS, ROWS.half())


def test_paired_moments_refuse_two_devices():
    with pytest.raises(ArgumentError, match="torch.float32 on meta; convert one of them"):
        ops.paired_moments(ROWS, ROWS.to("meta"))


@pytest.mark.parametrize("shape", [(5, 4), (6,), (6, 4, 1)])
def test_paired_moments_refuse_shapes_that_differ_beyond_channels(shape):
    with pytest.raises(ArgumentError, match=r"equal shapes except along `channel_dim`=-1, but"):
        ops.paired_moments(ROWS, torch.ones(shape), channel_dim=-1)


def test_paired_moments_refuse_an_unknown_precision():
    with pytest.raises(ArgumentError, match='`precision` must be "tf32x3" or "tf32" or "ieee"'):
        ops.paired_moments(ROWS, ROWS, precision="fp8")


@pytest.mark.usefixtures("unchecked_annotations")
def test_paired_moments_refuse_an_unknown_cross():
    with pytest.raises(ArgumentError, match='`cross` must be True, False or "diagonal", got \'all'):
        ops.paired_moments(ROWS, ROWS, cross="all")


def test_the_diagonal_needs_as_many_channels_in_both():
    with pytest.raises(ArgumentError, match="needs as many channels in `a` as in `b`, but they ha"):
        ops.paired_moments(ROWS, ROWS[:, :3], channel_dim=-1, cross="diagonal")


@pytest.mark.parametrize("cross", [False, "diagonal"])
def test_joint_sums_need_cross_sums(cross):
    with pytest.raises(ArgumentError, match="`joint=True` needs `cross=True`, got `cross="):
        ops.paired_moments(ROWS, ROWS, cross=cross, joint=True)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_cross_sums_are_added_onto_others(backend):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = torch.randn(2, 9, 3, device=device)
    onto = torch.randn(3, 3, dtype=torch.float64, device=device)
    alone = ops.paired_moments(a, b, backend=backend)
    expected = onto + alone.cross
    sums = ops.paired_moments(a, b, onto=onto, backend=backend)
    assert sums.cross is onto
    torch.testing.assert_close(onto, expected)
    assert all(torch.equal(x, y) for x, y in zip(sums[:2], alone[:2], strict=True))


@pytest.mark.parametrize("onto", [torch.zeros(4, 4), torch.zeros(4, 3, dtype=torch.float64)])
def test_what_sums_are_added_onto_must_fit(onto):
    with pytest.raises(ArgumentError, match=r"`onto` must be float64 of shape \(4, 4\) on"):
        ops.paired_moments(ROWS, ROWS, onto=onto)
    with pytest.raises(ArgumentError, match="`onto` needs `cross=True`, got `cross=False`"):
        ops.paired_moments(ROWS, ROWS, onto=onto, cross=False)


def test_moments_that_are_given_must_fit():
    given = ops.channel_moments(ROWS), ops.channel_moments(ROWS[:, :3])
    with pytest.raises(ArgumentError, match="`moments` must hold those of `a` and of `b`, for 4"):
        ops.paired_moments(ROWS, ROWS, moments=given)


def test_lerp_rescale_refuses_two_shapes():
    with pytest.raises(ArgumentError, match=r"but have \(6, 4\) and \(4, 6\); give the same param"):
        ops.lerp_rescale(Lerp(ROWS, ROWS.t()), 0.5)


def test_lerp_rescale_refuses_two_dtypes():
    with pytest.raises(ArgumentError, match="`a` and `b` must have one dtype and one device"):
        ops.lerp_rescale(Lerp(ROWS, ROWS.half()), 0.5)


def test_lerp_rescale_refuses_integers():
    counts = torch.ones(3, dtype=torch.int64)
    with pytest.raises(ArgumentError, match="`a` must be a dense tensor of float32, float16"):
        ops.lerp_rescale(Lerp(counts, counts), 0.5)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf"), None])
def test_lerp_rescale_refuses_an_alpha_outside_0_to_1(alpha):
    for alphas in (alpha, [0.5, alpha]):
        with pytest.raises(
            ArgumentError, match=r"`alpha`, the weight of `b`, must lie in \[0, 1\]"
        ):
            ops.lerp_rescale(Lerp(ROWS, ROWS), alphas)


@pytest.mark.parametrize(
    ("name", "index", "message"),
    [
        ("index_out", torch.arange(4), r"int64 of shape \(6,\) for the shape \(6, 4\), got torch"),
        ("index_in", torch.arange(6), r"`index_in` must be int64 of shape \(4,\)"),
        ("index_out", torch.arange(6.0), r"got torch.float32 of shape \(6,\)"),
        ("index_out", torch.arange(6, device="meta"), "`index_out` must be on cpu like `a`"),
        ("index_out", torch.arange(1, 7), r"channels of `b`, in \[0, 6\), but some are out of"),
        ("index_in", torch.arange(-1, 3), r"channels of `b`, in \[0, 4\), but some are out of"),
    ],
)
def test_lerp_rescale_refuses_an_index_that_does_not_fit(name, index, message):
    with pytest.raises(ArgumentError, match=message):
        ops.lerp_rescale(Lerp(ROWS, ROWS, **{name: index}), 0.5)


@pytest.mark.gpu
def test_an_index_may_be_on_either_device_and_its_range_is_checked_on_the_cpu():
    x, index = ROWS.cuda(), torch.arange(6).flip(0)
    outs = ops.lerp_rescale([Lerp(x, x, index_out=i) for i in (index, index.cuda())], 0.5)
    assert torch.equal(*outs)
    with pytest.raises(ArgumentError, match=r"channels of `b`, in \[0, 6\), but some are out of"):
        ops.lerp_rescale(Lerp(x, x, index_out=index + 1), 0.5)


def test_a_vector_has_one_input_channel():
    vector = torch.ones(3)
    with pytest.raises(ArgumentError, match=r"`index_in` must be int64 of shape \(1,\)"):
        ops.lerp_rescale(Lerp(vector, vector, index_in=torch.arange(3)), 0.5)


@pytest.mark.parametrize(("x", "segment"), [(ROWS, 3), (ROWS, 0), (ROWS, -2), (ROWS[:, 0], 2)])
def test_lerp_rescale_refuses_segments_that_do_not_fit(x, segment):
    with pytest.raises(
        ArgumentError, match=f"`segment` must divide .* got {segment}; give the pos"
    ):
        ops.lerp_rescale(Lerp(x, x, segment=segment), 0.5)


def test_an_index_of_segments_counts_channels():
    with pytest.raises(ArgumentError, match=r"`index_in` must be int64 of shape \(2,\)"):
        ops.lerp_rescale(Lerp(ROWS, ROWS, index_in=torch.arange(4), segment=2), 0.5)


@pytest.mark.parametrize("name", ["scale", "shift"])
@pytest.mark.parametrize("values", [torch.ones(4), torch.ones(6, device="meta"), torch.ones(3, 6)])
def test_lerp_rescale_refuses_values_that_are_not_one_per_channel(name, values):
    message = rf"`{name}` must have one value per output channel, shape \(6,\) or \(2, 6\) on cpu"
    with pytest.raises(ArgumentError, match=message):
        ops.lerp_rescale(Lerp(ROWS, ROWS, **{name: values}), [0.25, 0.5])


@pytest.mark.usefixtures("unchecked_annotations")
def test_lerp_rescale_names_the_item_that_does_not_fit():
    with pytest.raises(ArgumentError, match="item 1: `a` and `b` must have equal shapes"):
        ops.lerp_rescale([Lerp(ROWS, ROWS), Lerp(ROWS, ROWS.t())], 0.5)
    with pytest.raises(ArgumentError, match="item 0: `items` must hold `Lerp`s, got Tensor"):
        ops.lerp_rescale([ROWS], 0.5)


def test_lerp_rescale_refuses_two_devices():
    there = ROWS.to("meta")
    with pytest.raises(
        ArgumentError, match="`items` must be on one device, but are on cpu and meta"
    ):
        ops.lerp_rescale([Lerp(ROWS, ROWS), Lerp(there, there)], 0.5)


def test_lerp_rescale_nests_results_as_its_arguments():
    item = Lerp(torch.zeros(2), torch.ones(2))
    half = torch.full((2,), 0.5)
    assert torch.equal(ops.lerp_rescale(item, 0.5), half)
    assert torch.equal(ops.lerp_rescale([item], 0.5)[0], half)
    assert torch.equal(ops.lerp_rescale(item, [0.0, 0.5])[1], half)
    assert torch.equal(ops.lerp_rescale([item, item], [0.0, 0.5])[1][1], half)
    assert ops.lerp_rescale([], [0.1, 0.5]) == [[], []]
    assert ops.lerp_rescale([item], []) == []


def test_an_unknown_backend_is_refused():
    with pytest.raises(ArgumentError, match='`backend` must be None, "triton" or "torch", got'):
        ops.channel_moments(ROWS, backend="cuda")


def test_the_backend_follows_the_device_and_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert ops._backend(ROWS, backend=None) is reference
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert ops._backend(ROWS, backend=None) is kernels
    assert ops._backend(ROWS, backend="torch") is reference


@pytest.mark.gpu
def test_a_gpu_takes_triton(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert ops._backend(ROWS.cuda(), backend=None) is kernels
    assert ops._backend(ROWS.cuda(), backend="torch") is reference


def test_triton_is_refused_on_a_cpu_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ArgumentError, match='but these are on "cpu"; move them, or pass backend='):
        ops.channel_moments(ROWS, backend="triton")


@pytest.mark.parametrize("backend", [None, "triton"])
def test_a_device_that_triton_does_not_know_is_refused(backend):
    with pytest.raises(ArgumentError, match='but these are on "meta"'):
        ops.channel_moments(ROWS.to("meta"), backend=backend)


def test_without_triton_its_backend_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delattr("repair_kernels.kernels", raising=False)
    for name in [name for name in sys.modules if name.startswith("repair_kernels.kernels")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ArgumentError, match="need the package `triton`, which cannot be imported"):
        ops.channel_moments(ROWS, backend="triton")


@pytest.mark.parametrize("backend", ["torch", None])
def test_every_op_runs_on_every_backend(backend):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = ROWS.to(device)
    mean = ops.channel_moments(x, backend=backend).mean
    sums = ops.paired_moments(x, x[:, :3], channel_dim=-1, backend=backend)
    mixed = ops.lerp_rescale(Lerp(x, x + 1), 0.25, backend=backend)
    torch.testing.assert_close(mean, x.double().mean(0))
    assert sums.cross.shape == (4, 3)
    torch.testing.assert_close(mixed, x + 0.25)
