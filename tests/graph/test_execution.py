"""Laws of lockstep execution: the module's own bits, untouched inputs, values freed in time."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repair_kernels.graph.execution import as_mapping, execute
from repair_kernels.graph.network import NetworkGraph, State, state_of, trace
from repair_kernels.graph.taps import Tap
from tests.equivariance import Calls
from tests.networks import FAMILIES, lively

SHAPE = (3, 6)


def as_module(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(x.clone())


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_computes_the_bits_of_both_modules(family):
    a, b = FAMILIES[family].network(0), FAMILIES[family].network(1)
    x = FAMILIES[family].inputs(3)
    of_a, of_b = execute(trace(a, x), [state_of(a), state_of(b)], x)
    assert_equal(of_a, as_module(a, x))
    assert_equal(of_b, as_module(b, x))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_one_graph_takes_batches_of_any_size(n):
    model = FAMILIES["resnet_option_a"].network(0)
    graph = trace(model, FAMILIES["resnet_option_a"].inputs(4))
    x = FAMILIES["resnet_option_a"].inputs(n)
    assert_equal(execute(graph, [state_of(model)], x)[0], as_module(model, x))


def relu_first(self: nn.Module, x: Tensor) -> Tensor:
    return self.fc(F.relu(x, inplace=True))


def relu_of_a_view(self: nn.Module, x: Tensor) -> Tensor:
    x.view(-1, 2, 3).transpose(1, 2)[:, 0].relu_()
    return self.fc(x)


def relu_of_a_part(self: nn.Module, x: Tensor) -> Tensor:
    x.chunk(2, dim=1)[0].relu_()
    return self.fc(x)


def relu_of_the_same_type(self: nn.Module, x: Tensor) -> Tensor:
    x.type_as(self.fc.weight).relu_()
    return self.fc(x)


def write_to_a_slice(self: nn.Module, x: Tensor) -> Tensor:
    x[:, :2] = 1
    return self.fc(x)


def doubled_weight(self: nn.Module, x: Tensor) -> Tensor:
    weight = self.fc.weight.detach().view(-1)
    weight.mul_(2)
    return self.fc(x)


def part_of_a_weight(self: nn.Module, x: Tensor) -> Tensor:
    self.fc.weight.detach().split([1, 3])[1].mul_(2)
    return self.fc(x)


def counted(self: nn.Module, x: Tensor) -> Tensor:
    self.count.add_(1)
    return self.fc(x) + self.count


def scaled_constant(self: nn.Module, x: Tensor) -> Tensor:
    return self.fc(x) + torch.tensor([1.0, 2.0, 3.0, 4.0]).mul_(2)


OVERWRITING = [
    relu_first,
    relu_of_a_view,
    relu_of_a_part,
    relu_of_the_same_type,
    write_to_a_slice,
    doubled_weight,
    part_of_a_weight,
    counted,
    scaled_constant,
]


@pytest.fixture(params=OVERWRITING, ids=lambda run: run.__name__)
def overwriting(request: pytest.FixtureRequest) -> nn.Module:
    """A network that writes into its input or into its own weights."""
    model = Calls(request.param, fc=nn.Linear(6, 4))
    model.register_buffer("count", torch.zeros(()))
    return lively(model, seed=0).eval()


def copied(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


def test_in_place_operators_change_neither_the_batch_nor_the_weights(overwriting):
    x = torch.randn(SHAPE)
    graph, state = trace(overwriting, x), state_of(overwriting)
    x_before, state_before = x.clone(), copied(state)
    execute(graph, [state, state], x)
    assert_equal(x, x_before)
    for name, tensor in state.items():
        assert_equal(tensor, state_before[name])


def test_in_place_operators_of_one_weight_set_do_not_reach_the_other(overwriting):
    x = torch.randn(SHAPE)
    graph, state = trace(overwriting, x), copied(state_of(overwriting))
    alone = execute(graph, [state], x)[0]
    first, second, third = execute(graph, [state] * 3, x)
    assert_equal(first, alone)
    assert_equal(second, alone)
    assert_equal(third, alone)
    assert_equal(alone, as_module(overwriting, x))


def test_a_constant_that_the_forward_overwrites_is_the_same_in_every_run():
    model = Calls(lambda self, x: self.fc(x) + self.table.mul_(2), fc=nn.Linear(6, 4))
    model.table = torch.ones(4)  # Neither a parameter nor a buffer.
    x = torch.randn(SHAPE)
    graph, state = trace(model, x), state_of(model)
    first, second = execute(graph, [state, state], x)
    assert_equal(first, second)
    assert_equal(execute(graph, [state], x)[0], first)


def test_a_tap_is_read_before_an_operator_overwrites_it():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 4))
    x = torch.randn(SHAPE)
    seen = {}

    def read(tap: Tap, values: list[Tensor]) -> None:
        seen[tap.name] = values[0].clone()

    graph = trace(model, x)
    execute(graph, [state_of(model)], x, read, graph.taps)
    with torch.no_grad():
        assert_equal(seen["0"], model[0](x))
        assert_equal(seen["1"], model[0](x).relu())


def chain(depth: int) -> nn.Sequential:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(6, 6), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(6, 4))


def test_both_weight_sets_are_at_the_same_tap_at_the_same_time():
    a, b = chain(3), chain(3)
    x = torch.randn(SHAPE)
    graph = trace(a, x)
    seen = []

    def read(tap: Tap, values: list[Tensor]) -> None:
        seen.append(tap.name)
        assert len(values) == 2
        prefix_a, prefix_b = (m[: int(tap.name) + 1] for m in (a, b))
        assert_equal(values[0], as_module(prefix_a, x))
        assert_equal(values[1], as_module(prefix_b, x))

    execute(graph, [state_of(a), state_of(b)], x, read, graph.taps)
    assert seen == list(graph.taps)


def test_only_the_taps_that_were_asked_for_are_called():
    model = chain(3)
    x = torch.randn(SHAPE)
    seen = []
    execute(trace(model, x), [state_of(model)], x, lambda tap, _: seen.append(tap.name), ["4", "1"])
    assert seen == ["1", "4"]


def most_alive(graph: NetworkGraph, states: list[State], x: Tensor) -> int:
    """Return how many tapped values were alive at one moment at most."""
    alive: list[weakref.ref] = []
    most = 0

    def count(tap: Tap, values: list[Tensor]) -> None:
        nonlocal most
        alive.extend(weakref.ref(value) for value in values)
        most = max(most, sum(value() is not None for value in alive))

    execute(graph, states, x, count, graph.taps)
    return most


@pytest.mark.parametrize("depth", [2, 12])
def test_a_chain_keeps_two_values_of_each_network_alive_whatever_its_depth(depth):
    model = chain(depth)
    x = torch.randn(SHAPE)
    assert most_alive(trace(model, x), [state_of(model)] * 2, x) == 2 * 2


def test_a_shortcut_is_kept_until_its_sum_and_no_longer():
    block = Calls(
        lambda self, x: x + self.two(self.one(x)), one=nn.Linear(6, 6), two=nn.Linear(6, 6)
    )
    model = nn.Sequential(nn.Linear(6, 6), block, block, block, nn.Linear(6, 4))
    x = torch.randn(SHAPE)
    # The shortcut, the operator's input and its output.
    assert most_alive(trace(model, x), [state_of(model)], x) == 3


def test_a_value_that_nothing_reads_is_freed_at_once():
    def run(self: nn.Module, x: Tensor) -> Tensor:
        y = self.a(x)
        for _ in range(5):
            self.a(x)
        return self.b(y)

    model = Calls(run, a=nn.Linear(6, 6), b=nn.Linear(6, 4))
    x = torch.randn(SHAPE)
    graph = trace(model, x)
    assert len(graph.taps) == 7
    assert most_alive(graph, [state_of(model)], x) == 2


def test_values_that_a_tap_returns_replace_the_networks_own():
    model = chain(2)
    x = torch.randn(SHAPE)
    graph = trace(model, x)
    replaced = execute(
        graph, [state_of(model)], x, lambda _, values: [2 * v + 1 for v in values], ["1"]
    )
    with torch.no_grad():
        assert_equal(replaced[0], model[2:](2 * model[:2](x) + 1))


def test_replacing_the_last_value_replaces_the_output():
    model = chain(1)
    x = torch.randn(SHAPE)
    zero = execute(trace(model, x), [state_of(model)], x, lambda _, v: [0 * v[0]], ["2"])
    assert_equal(zero[0], torch.zeros(3, 4))


def test_each_weight_set_goes_on_with_its_own_replacement():
    model = chain(1)
    x = torch.randn(SHAPE)
    outputs = execute(
        trace(model, x), [state_of(model)] * 2, x, lambda _, v: [v[0] + 1, v[1] + 2], ["2"]
    )
    assert_equal(outputs[0], as_module(model, x) + 1)
    assert_equal(outputs[1], as_module(model, x) + 2)


def test_a_network_of_several_outputs_returns_them_in_order():
    model = Calls(lambda self, x: (self.fc(x), x.sum()), fc=nn.Linear(6, 4))
    x = torch.randn(SHAPE)
    ((logits, total),) = execute(trace(model, x), [state_of(model)], x)
    assert_equal(logits, as_module(model.fc, x))
    assert_equal(total, x.sum())


def test_operators_that_draw_or_make_tensors_do_so_on_the_batchs_device():
    model = Calls(lambda self, x: self.fc(x) + torch.ones(4, device=x.device), fc=nn.Linear(6, 4))
    x = torch.randn(SHAPE)
    graph = trace(model, x)
    on_meta = as_mapping(state_of(model), torch.device("meta"))
    assert execute(graph, [on_meta], x.to("meta"))[0].device.type == "meta"


def test_a_weight_set_that_is_on_the_device_is_not_copied():
    state = state_of(nn.Linear(3, 4))
    moved = as_mapping(state, torch.device("cpu"))
    assert all(moved[name] is tensor for name, tensor in state.items())
