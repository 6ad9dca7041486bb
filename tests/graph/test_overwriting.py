"""Laws of writing over inputs: the same bits, in less memory, and only where nobody looks again."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repair_kernels.graph.execution import execute
from repair_kernels.graph.network import state_of, trace
from repair_kernels.graph.overwriting import OVERWRITING
from tests.equivariance import Calls
from tests.networks import FAMILIES, lively

aten = torch.ops.aten
SHAPES = [(4, 6), (3, 6, 7), (4, 6, 5, 5), (1, 6, 1, 1), (2, 6, 3, 3, 3), (0, 6, 2, 2)]


def outputs(model: nn.Module, x: Tensor, *, overwrite: bool) -> Tensor:
    with torch.no_grad():
        return execute(trace(model, x), [state_of(model)], x, overwrite=overwrite)[0]


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_computes_the_same_bits(family):
    model, x = FAMILIES[family].network(0), FAMILIES[family].inputs(3)
    before = x.clone(), {name: tensor.clone() for name, tensor in state_of(model).items()}
    assert_equal(outputs(model, x, overwrite=True), outputs(model, x, overwrite=False))
    assert_equal(x, before[0])
    for name, tensor in state_of(model).items():
        assert_equal(tensor, before[1][name])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtypes", [("float32",) * 2, ("bfloat16",) * 2, ("bfloat16", "float32")])
@torch.no_grad()
def test_a_batch_norm_computes_the_same_bits_in_any_shape_and_dtype(shape, dtypes):
    of_values, of_weights = (getattr(torch, name) for name in dtypes)
    x = torch.randn(shape).to(of_values)
    weights = [torch.rand(6).add(0.5).to(of_weights) for _ in range(4)]
    expected = torch.batch_norm(x, *weights, False, 0.1, 1e-5, True)
    found = OVERWRITING[aten.batch_norm.default](x.clone(), *weights, False, 0.1, 1e-5, True)
    assert_equal(found, expected)


@torch.no_grad()
def test_a_batch_norm_by_the_batch_leaves_its_input():
    x = torch.randn(4, 6)
    before = x.clone()
    options = (None, None, None, None, True, 0.1, 1e-5, True)
    assert_equal(
        OVERWRITING[aten.batch_norm.default](x, *options), torch.batch_norm(before, *options)
    )
    assert_equal(x, before)


@pytest.mark.parametrize(
    "other",
    [2.5, torch.randn(5), torch.randn(5, 4).t(), torch.randn(4, 5, dtype=torch.float64)],
    ids=["number", "row", "transposed", "float64"],
)
def test_a_sum_of_another_shape_dtype_or_order_leaves_its_input(other):
    x = torch.randn(4, 5)
    before = x.clone()
    expected = torch.add(x, other, alpha=2)
    assert_equal(OVERWRITING[aten.add.Tensor](x, other, alpha=2), expected)
    assert_equal(x, before)


def in_one_chain(self: nn.Module, x: Tensor) -> Tensor:
    return self.two(F.relu(self.norm(self.one(x)) + x))


def read_again(self: nn.Module, x: Tensor) -> Tensor:
    y = self.one(x)
    return self.two(F.relu(y) + y)


def seen_by_a_view(self: nn.Module, x: Tensor) -> Tensor:
    y = self.one(x)
    view = y.view(-1, 2, 3)
    return self.two(F.relu(y) + view.flatten(1))


def of_the_input(self: nn.Module, x: Tensor) -> Tensor:
    return self.two(F.relu(x))


def of_a_part(self: nn.Module, x: Tensor) -> Tensor:
    y = self.one(x)
    first, second = y.chunk(2, dim=1)
    return self.two(torch.cat([F.relu(first), second, y[:, :3]], dim=1)[:, :6])


@pytest.mark.parametrize(
    ("forward", "written_over"),
    [
        (in_one_chain, ["batch_norm", "add", "relu"]),
        (read_again, ["add"]),
        (seen_by_a_view, ["add"]),
        (of_the_input, []),
        (of_a_part, []),
    ],
)
def test_only_new_memory_that_nothing_else_reads_is_written_over(forward, written_over):
    layers = {"one": nn.Linear(6, 6), "norm": nn.BatchNorm1d(6), "two": nn.Linear(6, 4)}
    model = lively(Calls(forward, **layers), seed=0).eval()
    x = torch.randn(3, 6)
    assert list(trace(model, x).overwriting) == written_over
    assert_equal(outputs(model, x, overwrite=True), outputs(model, x, overwrite=False))


def test_a_result_lies_where_its_input_lay():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3))
    graph = trace(model.eval(), x := torch.randn(2, 3, 8, 8))
    places: list[int] = []
    with torch.no_grad():
        execute(
            graph,
            [state_of(model)],
            x,
            on_each=lambda _tap, _network, value: places.append(value.data_ptr()),
            each=["0", "1", "2"],
            overwrite=True,
        )
    assert places == [places[0]] * 3
