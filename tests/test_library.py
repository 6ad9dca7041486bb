"""Laws of the operators that a compiler sees: sound registrations, the ops' own sums."""

import pytest
import torch

from repair_kernels import library, ops

pytestmark = pytest.mark.usefixtures("torch_backend")


def activations(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.randn(2, 3, 5, 2, 2).to(dtype)
    return a, b[:, :4]


@pytest.mark.parametrize("channel_dim", [1, -1])
def test_the_operator_of_one_network_is_registered_soundly(channel_dim):
    x = torch.randn(3, 5, 4)
    torch.library.opcheck(library.channel_moments, (x,), {"channel_dim": channel_dim})


@pytest.mark.parametrize("products", ["none", "diagonal", "cross", "joint"])
def test_the_operator_of_two_networks_is_registered_soundly(products):
    a, b = activations()
    b = a.flip(0) if products == "diagonal" else b
    torch.library.opcheck(library.paired_moments, (a, b), {"products": products})


@pytest.mark.parametrize("products", ["none", "diagonal", "cross", "joint"])
def test_the_operator_returns_what_the_op_does_under_its_names(products):
    a, b = activations(torch.bfloat16)
    b = a.flip(0) if products == "diagonal" else b
    truth = ops.paired_moments(a, b, **library.PRODUCTS[products])
    ours = library.paired_sums(library.paired_moments(a, b, products=products), products)
    for field, expected, found in zip(truth._fields, truth, ours, strict=True):
        assert (expected is None) == (found is None), field
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_an_error_of_the_op_passes_through():
    a, b = activations()
    with pytest.raises(ops.ArgumentError, match="`precision` must be"):
        library.paired_moments(a, b, precision="tf16")


def test_interpreted_kernels_return_no_memory_that_two_results_share(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton")
    found = library.paired_moments(*activations(), backend="triton")
    assert len({tensor.untyped_storage().data_ptr() for tensor in found}) == len(found)


def test_a_users_compiled_code_takes_the_operators_into_one_graph():
    @torch.compile(backend="aot_eager", fullgraph=True)
    def normed(x: torch.Tensor) -> torch.Tensor:
        mean, m2 = library.channel_moments(x)
        return (x - mean) / (m2 / len(x)).sqrt()

    y = normed(torch.randn(9, 4))
    torch.testing.assert_close(y.mean(0), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(4, dtype=torch.float64))
