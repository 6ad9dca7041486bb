"""Laws of the twin: execution's own activations, nothing written, nothing behind the last tap."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repair_kernels import ops
from repair_kernels.graph.execution import execute
from repair_kernels.graph.network import NetworkGraph, State, state_of, trace
from repair_kernels.graph.taps import Tap
from repair_kernels.graph.twin import Twin
from repair_kernels.library import PRODUCTS, paired_sums
from repair_kernels.ops import PairedSums
from tests.equivariance import Calls
from tests.networks import FAMILIES, lively

pytestmark = pytest.mark.usefixtures("torch_backend")

CPU = torch.device("cpu")


def sums_of(twin: Twin, taps: dict[str, str], states: list[State], x: Tensor) -> list[PairedSums]:
    results = twin.module(x, *twin.inputs(states))
    return [
        paired_sums(found, products)
        for products, (_, found) in zip(taps.values(), results, strict=True)
    ]


def executed(
    graph: NetworkGraph, taps: dict[str, str], states: list[State], x: Tensor
) -> list[PairedSums]:
    """Return the same from the networks run node by node."""
    found = {}

    def read(tap: Tap, values: list[Tensor]) -> None:
        options = PRODUCTS[taps[tap.name]]
        found[tap.name] = ops.paired_moments(*values, channel_dim=tap.channel_dim, **options)

    execute(graph, states, x, read, list(taps))
    return [found[tap] for tap in taps]


def assert_equal(ours: list[PairedSums], theirs: list[PairedSums]) -> None:
    for own, other in zip(ours, theirs, strict=True):
        for x, y in zip(own, other, strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_twin_reads_the_bits_of_both_networks(family):
    a, b = FAMILIES[family].network(0), FAMILIES[family].network(1)
    x = FAMILIES[family].inputs(3)
    graph, states = trace(a, x), [state_of(a), state_of(b)]
    taps = dict.fromkeys(graph.taps, "cross")
    twin = Twin(graph, CPU, taps)
    assert_equal(sums_of(twin, taps, states, x), executed(graph, taps, states, x))


def test_each_tap_has_its_own_products():
    model, x = FAMILIES["mlp"].network(0), FAMILIES["mlp"].inputs(9)
    graph, states = trace(model, x), [state_of(model), state_of(FAMILIES["mlp"].network(1))]
    taps = dict(zip(graph.taps, PRODUCTS, strict=False))
    assert set(taps.values()) == set(PRODUCTS)
    twin = Twin(graph, CPU, taps)
    assert_equal(sums_of(twin, taps, states, x), executed(graph, taps, states, x))


def relu_first(self: nn.Module, x: Tensor) -> Tensor:
    return self.fc(F.relu(x, inplace=True))


def doubled_weight(self: nn.Module, x: Tensor) -> Tensor:
    self.fc.weight.detach().view(-1).mul_(2)
    return self.fc(x)


def counted(self: nn.Module, x: Tensor) -> Tensor:
    self.count.add_(1)
    return self.fc(x) + self.count


def overwritten_table(self: nn.Module, x: Tensor) -> Tensor:
    return self.fc(x) + self.table.mul_(2)


def made_tensor(self: nn.Module, x: Tensor) -> Tensor:
    return self.fc(x) + torch.arange(4.0, device=x.device)


@pytest.mark.parametrize(
    "run", [relu_first, doubled_weight, counted, overwritten_table, made_tensor]
)
def test_operators_that_write_in_place_reach_no_input_and_not_the_other_network(run):
    model = Calls(run, fc=nn.Linear(6, 4))
    model.register_buffer("count", torch.zeros(()))
    model.table = torch.ones(4)  # Neither a parameter nor a buffer.
    lively(model, seed=0).eval()
    x = torch.randn(7, 6)
    graph, states = trace(model, x), [state_of(model)] * 2
    taps = dict.fromkeys(graph.taps, "cross")
    twin = Twin(graph, CPU, taps)
    before = [tensor.clone() for tensor in (x, *twin.inputs(states))]
    truth = executed(graph, taps, states, x)
    for _ in range(2):
        ours = sums_of(twin, taps, states, x)
        assert_equal(ours, truth)
        torch.testing.assert_close(ours[-1].mean_a, ours[-1].mean_b, rtol=0, atol=0)
    for tensor, kept in zip((x, *twin.inputs(states)), before, strict=True):
        torch.testing.assert_close(tensor, kept, rtol=0, atol=0)


def test_a_tap_is_read_before_an_operator_overwrites_it():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 4))
    x = torch.randn(5, 6)
    graph = trace(model, x)
    taps = {"0": "none", "1": "none"}
    linear, relu = sums_of(Twin(graph, CPU, taps), taps, [state_of(model)] * 2, x)
    with torch.no_grad():
        y = model[0](x).double()
    torch.testing.assert_close(linear.mean_a, y.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(relu.mean_a, y.relu().mean(0), rtol=1e-6, atol=1e-6)


def test_what_lies_behind_the_last_tap_is_not_in_the_twin():
    model, x = FAMILIES["vgg"].network(0), FAMILIES["vgg"].inputs(2)
    graph = trace(model, x)
    taps = dict.fromkeys(graph.taps[:2], "cross")
    twin = Twin(graph, CPU, taps)
    layers = [n for n in twin.module.graph.nodes if "conv" in str(n.target) or "lin" in n.name]
    assert len([n for n in layers if n.op == "call_function"]) == 2
    assert len(twin.inputs([state_of(model)] * 2)) == 2 * 2  # weight and bias of one layer


def test_a_twin_without_taps_is_empty():
    model, x = FAMILIES["mlp"].network(0), FAMILIES["mlp"].inputs(2)
    assert Twin(trace(model, x), CPU, {}).module(x) == ()


def test_positions_are_counted():
    model, x = FAMILIES["vgg"].network(0), FAMILIES["vgg"].inputs(2)
    graph = trace(model, x)
    twin = Twin(graph, CPU, {graph.taps[0]: "none"})
    ((numel, sums),) = twin.module(x, *twin.inputs([state_of(model)] * 2))
    assert numel == 2 * len(sums[0]) * 32 * 32


def test_a_network_of_16_bit_activations_is_known_as_such():
    model, x = FAMILIES["mlp"].network(0), FAMILIES["mlp"].inputs(2)
    taps = dict.fromkeys(trace(model, x).taps, "none")
    assert not Twin(trace(model, x), CPU, taps).is_half
    assert Twin(trace(model.bfloat16(), x.bfloat16()), CPU, taps).is_half
