"""`lerp_rescale` in three voices: oracle, reference, kernel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repair_kernels import kernels, reference
from repair_kernels.kernels.devices import INTERPRETER, KNOWN
from repair_kernels.kernels.lerp_rescale import launch_config
from tests import budget, oracles

# What numpy says in the interpreter where values are not finite.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SHAPES = [(1,), (65,), (7, 63), (65, 1), (4, 5, 3, 3), (64, 64, 1, 1), (3, 257, 2), (0, 4), (4, 0)]


def check(a, b, alpha, **options):
    kernel = kernels.lerp_rescale(a, b, alpha, **options)
    truth = reference.lerp_rescale(a, b, alpha, **options)
    magnitude = {"index_out": options.get("index_out"), "index_in": options.get("index_in")}
    for name in ("scale", "shift"):
        values = options.get(name)
        magnitude[name] = None if values is None else values.abs()
    scale = oracles.lerp_rescale(a.abs(), b.abs(), alpha, **magnitude)
    oracle = oracles.lerp_rescale(a, b, alpha, **options)
    budget.within(kernel, truth, oracle, np.abs(scale), budget.LERP_FLOOR[a.dtype])
    assert kernel.dtype == a.dtype
    assert kernel.shape == a.shape


def everything(shape, device):
    options = {
        "index_out": torch.randperm(shape[0]),
        "scale": torch.randn(shape[0]),
        "shift": torch.randn(shape[0]),
    }
    if len(shape) > 1:
        options["index_in"] = torch.randint(0, max(shape[1], 1), (shape[1],))
    return {name: values.to(device) for name, values in options.items()}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_meets_the_budget_in_every_shape(shape, alpha, device):
    a, b = torch.randn(shape, device=device), torch.randn(shape, device=device)
    check(a, b, alpha, **everything(shape, device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("given_options", [(), ("index_in",), ("index_out", "scale"), ("shift",)])
def test_meets_the_budget_in_every_dtype_with_any_options(dtype, given_options, device):
    shape = (9, 33, 3)
    a, b = torch.randn(shape).to(device, dtype), torch.randn(shape).to(device, dtype)
    options = everything(shape, device)
    check(a, b, 0.7, **{name: options[name] for name in given_options})


def test_float64_weights_are_not_rounded_to_float32(device):
    a, b = torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    out = kernels.lerp_rescale(a.to(device), b.to(device), 0.1)
    assert (out - 0.9).abs().max() < 1e-14


def test_a_scalar_has_one_channel(device):
    a, b = torch.tensor(1.0, device=device), torch.tensor(3.0, device=device)
    assert kernels.lerp_rescale(a, b, 0.5).item() == 2.0
    twice = torch.tensor([2.0], device=device)
    assert kernels.lerp_rescale(a, b, 0.5, scale=twice, shift=twice).item() == 6.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=10)
@given(values=st.lists(st.floats(width=16, allow_nan=False), min_size=3, max_size=3))
def test_the_ends_are_exact_whatever_the_other_holds(dtype, values):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    a = torch.tensor([-0.0, 1.5, 3e-5], dtype=dtype, device=device)
    b = torch.tensor(values, dtype=dtype, device=device)
    index = torch.tensor([2, 0, 1], device=device)
    for backend in (kernels, reference):
        at_a = backend.lerp_rescale(a, b, 0.0, index_out=index)
        at_b = backend.lerp_rescale(b, a, 1.0, index_out=index)
        assert torch.equal(at_a, a)
        assert torch.equal(at_a.signbit(), a.signbit())
        assert torch.equal(at_b, a[index])
        assert torch.equal(at_b.signbit(), a[index].signbit())


def test_strides_of_both_are_followed(device):
    a = torch.randn(3, 8, 5, device=device).transpose(0, 1)
    b = torch.randn(16, 3, 5, device=device)[::2]
    check(a, b, 0.4, index_in=torch.tensor([2, 0, 1], device=device))


def test_channels_last_weights_are_followed(device):
    a, b = torch.randn(2, 8, 5, 3, 3, device=device)
    a = a.contiguous(memory_format=torch.channels_last)
    check(a, b, 0.4, index_in=torch.randperm(5).to(device))


def test_inputs_stay_as_they_were(device):
    a, b = torch.randn(2, 6, 4, device=device)
    before = a.clone(), b.clone()
    for backend in (kernels, reference):
        for alpha in (0.0, 0.5, 1.0):
            backend.lerp_rescale(a, b, alpha, scale=torch.full((6,), 2.0, device=device))
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


@pytest.mark.usefixtures("_filled_with_nan")
def test_every_output_is_written(device):
    a = torch.randn(9, 257, device=device)
    assert kernels.lerp_rescale(a, a, 0.5).isfinite().all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the memory must cost nothing until touched")
def test_offsets_beyond_32_bits_are_followed(device):
    # Two rows 2**31 values apart in memory of which only their pages are ever touched.
    a = torch.empty(2**31 + 8, dtype=torch.float16).as_strided((2, 8), (2**31, 1))
    a[0], a[1] = 1.0, 3.0
    out = kernels.lerp_rescale(a, a, 0.5, index_out=torch.tensor([1, 0]))
    assert out.tolist() == [[2.0] * 8] * 2


def test_launch_config_counts_in_64_bits_only_from_2_31_elements():
    for device in (*KNOWN.values(), INTERPRETER):
        assert not launch_config(2**30, 8, torch.float32, device).wide
        assert launch_config(2**31, 8, torch.float32, device).wide
