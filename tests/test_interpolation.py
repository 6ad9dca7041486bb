"""Interpolation: the ends are the networks to the bit, what lies between is the formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import repair_kernels as rk
from repair_kernels.errors import ArchitectureMismatchError, ArgumentError
from tests.budget import LERP_FLOOR
from tests.networks import FAMILIES, assert_same, lively, snapshot

pytestmark = pytest.mark.usefixtures("torch_backend")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def pair(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    family = FAMILIES["vgg_batch_norm"]
    a, b = family.network(0).to(dtype), family.network(1).to(dtype)
    for model, count in ((a, 100), (b, 37)):
        for name, buffer in model.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(count)
    return a, b


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", [0, 1, 0.0, 1.0])
def test_the_ends_are_the_networks_bit_for_bit(dtype: torch.dtype, alpha: float) -> None:
    a, b = pair(dtype)
    end = rk.interpolate(a, b, alpha)
    assert_same(snapshot(end), snapshot(b if alpha else a))


@pytest.mark.parametrize("alpha", [0, 1])
def test_the_ends_keep_zeros_of_either_sign_and_huge_values(alpha: float) -> None:
    models = [nn.Linear(2, 2) for _ in range(2)]
    values = [[[-0.0, 3e38], [1e-45, -3e38]], [[0.0, -3e38], [-1e-45, 3e38]]]
    for model, rows in zip(models, values, strict=True):
        model.weight.data = torch.tensor(rows)
    end, wanted = rk.interpolate(*models, alpha).weight, models[alpha].weight
    assert torch.equal(end.view(torch.int32), wanted.view(torch.int32))


@settings(max_examples=25)
@given(st.floats(0, 1), st.sampled_from(DTYPES))
def test_what_lies_between_is_the_formula(alpha: float, dtype: torch.dtype) -> None:
    a, b = (lively(nn.Linear(7, 5), seed).to(dtype) for seed in (0, 1))
    between = rk.interpolate(a, b, alpha, backend="torch")
    for name, tensor in between.named_parameters():
        x, y = a.get_parameter(name).double(), b.get_parameter(name).double()
        wanted = (1 - alpha) * x + alpha * y
        allowed = LERP_FLOOR[dtype] * (x.abs() + y.abs())
        assert ((tensor.double() - wanted).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_middle_is_within_one_rounding(dtype: torch.dtype) -> None:
    a, b = pair(dtype)
    for name, tensor in rk.interpolate(a, b).named_parameters():
        x, y = a.get_parameter(name).double(), b.get_parameter(name).double()
        # Halves are exact, so that only the sum is rounded: to the nearest, or its neighbour where
        # float32 in between rounds first.
        wanted = ((x + y) / 2).to(dtype)
        step = torch.finfo(dtype).eps * wanted.abs()
        assert ((tensor.double() - wanted.double()).abs() <= step.double()).all(), name


@given(st.floats(0, 1))
@settings(max_examples=20)
def test_a_network_with_itself_is_itself(alpha: float) -> None:
    model = lively(nn.Linear(7, 5), 0).double()
    between = rk.interpolate(model, model, alpha, backend="torch")
    torch.testing.assert_close(between.weight, model.weight, rtol=4 * 2.0**-52, atol=0)


def test_swapping_the_networks_mirrors_alpha() -> None:
    a, b = pair(torch.float64)
    there, back = rk.interpolate(a, b, 0.25), rk.interpolate(b, a, 0.75)
    for name, tensor in there.named_parameters():
        torch.testing.assert_close(tensor, back.get_parameter(name), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("alpha", "count"), [(0, 100), (0.25, 84), (0.75, 53), (1, 37)])
def test_integer_buffers_are_rounded(alpha: float, count: int) -> None:
    between = rk.interpolate(*pair(), alpha)
    tracked = between.features[1].num_batches_tracked
    assert tracked.dtype == torch.int64
    assert tracked.item() == count


def test_running_statistics_are_interpolated_too() -> None:
    a, b = pair(torch.float64)
    between = rk.interpolate(a, b, 0.3)
    for name, tensor in between.named_buffers():
        if tensor.is_floating_point():
            wanted = 0.7 * a.get_buffer(name) + 0.3 * b.get_buffer(name)
            torch.testing.assert_close(tensor, wanted, rtol=1e-14, atol=1e-15)


def test_interpolate_leaves_both_networks_as_they_were() -> None:
    a, b = pair()
    before = snapshot(a), snapshot(b)
    rk.interpolate(a, b, 0.5)
    assert_same(before[0], snapshot(a))
    assert_same(before[1], snapshot(b))


def test_the_result_shares_no_memory_with_the_networks() -> None:
    a, b = pair()
    for alpha in (0, 1):
        end = rk.interpolate(a, b, alpha)
        held = {t.data_ptr() for model in (a, b) for t in model.state_dict().values()}
        assert not held & {t.data_ptr() for t in end.state_dict().values()}


def test_class_modes_and_what_needs_a_gradient_are_those_of_a() -> None:
    a, b = pair()
    a.train()
    a.features[1].eval()
    a.classifier.weight.requires_grad_(False)
    between = rk.interpolate(a, b, 0.5)
    assert type(between) is type(a)
    before, after = snapshot(a), snapshot(between)
    assert torch.equal(after["modes"], before["modes"])
    assert torch.equal(after["requires_grad"], before["requires_grad"])


def test_tied_parameters_stay_tied() -> None:
    models = []
    for seed in (0, 1):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        models.append(lively(model, seed))
    between = rk.interpolate(*models, 0.5)
    assert between[1].weight is between[0].weight
    wanted = (models[0][0].weight + models[1][0].weight) / 2
    torch.testing.assert_close(between[0].weight, wanted, rtol=1e-6, atol=1e-7)


# Bad input


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf"), True, "0.5", None])
def test_alpha_must_be_a_number_between_0_and_1(alpha: object) -> None:
    with pytest.raises(
        ArgumentError, match=rf"`alpha` must be a number in \[0, 1\].*got {alpha!r}"
    ):
        rk.interpolate(*pair(), alpha)


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(ArchitectureMismatchError, match="only in a: 0.bias"):
        rk.interpolate(
            nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2, bias=False)), 0.5
        )


def test_a_parameter_of_another_shape_is_named() -> None:
    with pytest.raises(ArchitectureMismatchError, match=r"'weight' is \(3, 2\).*\(4, 2\)"):
        rk.interpolate(nn.Linear(2, 3), nn.Linear(2, 4), 0.5)


def test_networks_of_two_dtypes_are_refused() -> None:
    a, b = nn.Linear(2, 2).half(), nn.Linear(2, 2)
    with pytest.raises(
        ArchitectureMismatchError, match="'weight' is torch.float16 .* torch.float32"
    ):
        rk.interpolate(a, b, 0.5)


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ArgumentError, match="`backend` must be None.*got 'cuda'"):
        rk.interpolate(nn.Linear(2, 2), nn.Linear(2, 2), 0.5, backend="cuda")
