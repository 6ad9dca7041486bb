"""Rules that users register, for an operator of their own or in place of one."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import repair_kernels as rk
from repair_kernels.errors import ArgumentError, FunctionChangedError
from repair_kernels.graph.network import state_of
from repair_kernels.rules import ACTIVATIONS, RULES, Axes, Tracker, argument, reason, reduce
from tests.equivariance import Calls, moved
from tests.networks import lively


@torch.library.custom_op("repair_tests::scaled_row_sum", mutates_args=())
def scaled_row_sum(x: Tensor, weight: Tensor) -> Tensor:
    """Scale every channel and add up the rows of the image."""
    return (x * weight[:, None, None]).sum(2)


@scaled_row_sum.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], x.shape[3])


@torch.library.custom_op("repair_tests::halves", mutates_args=())
def halves(x: Tensor) -> list[Tensor]:
    """Return two scaled copies."""
    return [0.5 * x, 2 * x]


@halves.register_fake
def _(x: Tensor) -> list[Tensor]:
    return [torch.empty_like(x), torch.empty_like(x)]


@torch.library.custom_op("repair_tests::ramp_gelu", mutates_args=())
def ramp_gelu(x: Tensor) -> Tensor:
    """Apply an activation function of one's own."""
    return nn.functional.gelu(x) + 0.1 * x


@ramp_gelu.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


ROW_SUM = torch.ops.repair_tests.scaled_row_sum
HALVES = torch.ops.repair_tests.halves
GELU = torch.ops.repair_tests.ramp_gelu
IMAGE = torch.zeros(2, 3, 4, 4, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Give the registry back as it was."""
    rules, activations = dict(RULES), set(ACTIVATIONS)
    yield
    RULES.clear()
    RULES.update(rules)
    ACTIVATIONS.clear()
    ACTIVATIONS.update(activations)


def network() -> nn.Module:
    model = Calls(
        lambda self, x: self.last(torch.ops.repair_tests.scaled_row_sum(self.first(x), self.v)),
        first=nn.Conv2d(3, 6, 1),
        v=nn.Parameter(torch.ones(6)),
        last=nn.Conv1d(6, 4, 1),
    )
    return lively(model, seed=0).double().eval()


def with_unary(operator) -> nn.Module:
    model = Calls(
        lambda self, x: self.last(operator(self.first(x))),
        first=nn.Conv2d(3, 6, 1),
        last=nn.Conv2d(6, 4, 1),
    )
    return lively(model, seed=0).double().eval()


def follow(node: torch.fx.Node, track: Tracker) -> Axes:
    x, weight = argument(node, 0), argument(node, 1)
    track.adopt(weight, 0, track.axis(x, 1), reason(node, "its input cannot move"))
    return reduce(node, track, x, dims=[2], keepdim=False)


def test_an_operator_of_ones_own_pins_until_it_has_a_rule():
    graph = rk.trace(network(), IMAGE)
    assert graph.groups == {}
    assert "repair_tests.scaled_row_sum.default" in graph.report().unknown


@pytest.mark.parametrize("operator", [ROW_SUM, ROW_SUM.default])
def test_a_registered_rule_lets_its_channels_move(operator):
    assert rk.register_rule(operator, follow) is follow
    model = network()
    graph = rk.trace(model, IMAGE)
    assert graph.report().unknown == {}
    moves = moved(graph.groups, state_of(model))
    assert moves["first.weight", 0] == moves["v", 0] == moves["last.weight", 1] == 6
    assert graph.verify(model) < 1e-12


def test_a_rule_may_be_registered_by_a_decorator():
    @rk.register_rule(ROW_SUM)
    def rule(node: torch.fx.Node, track: Tracker) -> Axes:
        return follow(node, track)

    assert rule.__name__ == "rule"
    assert [group.size for group in rk.trace(network(), IMAGE).groups.values()] == [6]


def test_an_operator_may_be_like_another_and_is_matched_like_it():
    rk.register_rule(GELU, like=torch.ops.aten.gelu)
    (group,) = rk.trace(with_unary(GELU), IMAGE).groups.values()
    assert group.size == 6
    assert group.match_tap == "ramp_gelu"


def test_a_rule_of_several_results_returns_axes_for_each():
    rk.register_rule(HALVES, lambda node, track: [track.axes(argument(node, 0))] * 2)
    model = with_unary(lambda y: torch.mul(*HALVES(y)))
    graph = rk.trace(model, IMAGE)
    assert [group.size for group in graph.groups.values()] == [6]
    assert graph.verify(model) < 1e-12


def test_a_rule_can_be_replaced_on_request_only():
    def pin(node: torch.fx.Node, track: Tracker) -> Axes:
        return track.unknown(node, reason(node, "not today"))

    with pytest.raises(ArgumentError, match=r"aten.tanh has a rule already; pass `replace=True`"):
        rk.register_rule(torch.ops.aten.tanh, pin)
    rk.register_rule(torch.ops.aten.tanh, pin, replace=True)
    graph = rk.trace(with_unary(torch.tanh), IMAGE)
    assert graph.groups == {}
    assert "not today" in str(graph.report())


def test_a_rule_that_lets_too_much_through_is_found_by_verify():
    rk.register_rule(ROW_SUM, lambda node, track: reduce(node, track, node.args[0], [2], False))
    model = network()
    with pytest.raises(FunctionChangedError):
        rk.trace(model, IMAGE).verify(model)


def test_something_that_is_no_operator_is_refused():
    with pytest.raises(ArgumentError, match="`operator` must be an operator.*custom_op` first"):
        rk.register_rule(torch.tanh, follow)
    with pytest.raises(ArgumentError, match="`like` must be an operator"):
        rk.register_rule(GELU, like="gelu")


def test_a_rule_that_is_no_function_is_refused():
    with pytest.raises(ArgumentError, match="`rule` must be a function.*got int"):
        rk.register_rule(GELU, 3)


def test_likeness_to_an_operator_without_a_rule_is_refused():
    with pytest.raises(ArgumentError, match="`like` must be an operator that has a rule"):
        rk.register_rule(GELU, like=ROW_SUM)


def test_a_rule_and_a_likeness_are_one_too_many():
    with pytest.raises(ArgumentError, match="one of `rule` and `like`.*got both"):
        rk.register_rule(GELU, follow, like=torch.ops.aten.gelu)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda axes: None, "must return a list of 3 axes, one for each dimension; got None"),
        (lambda axes: axes[:2], "must return a list of 3 axes, one for each dimension"),
        (
            lambda axes: [None, axes[1][:5], None],
            "must return an axis of 6 channels in dimension 1, or None; got 'an axis of 5'",
        ),
        (lambda axes: [None, "channels", None], "in dimension 1, or None; got 'channels'"),
    ],
)
def test_what_is_no_axes_of_the_result_is_refused_by_name(result, message):
    rk.register_rule(ROW_SUM, lambda node, track: result(follow(node, track)))
    with pytest.raises(ArgumentError, match=message) as error:
        rk.trace(network(), IMAGE)
    assert "rule of repair_tests.scaled_row_sum.default (node 'scaled_row_sum')" in str(error.value)


def test_too_few_axes_for_several_results_are_refused():
    rk.register_rule(HALVES, lambda node, track: track.axes(argument(node, 0))[:1])
    with pytest.raises(ArgumentError, match="a list of axes for each of 2 results"):
        rk.trace(with_unary(lambda y: torch.mul(*HALVES(y))), IMAGE)
