"""Balancing: b moves along its scale symmetries to a's scales, and computes what it did."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import repair_kernels as rk
from models.resnet import CifarResNet
from repair_kernels.balancing import BalanceResult, balance, balance_state, positive_norms
from repair_kernels.errors import ArchitectureMismatchError, ArgumentError
from repair_kernels.graph.network import state_of
from repair_kernels.graph.permutation import with_state
from repair_kernels.scaling import row_norms
from tests.networks import FAMILIES, assert_same, lively, snapshot
from tests.scales import (
    BALANCED,
    EXACT,
    IMAGE,
    NETWORKS,
    REFUSED,
    assert_same_weights,
    balanced,
    deviation,
    drawn,
    factors,
    graph_of,
    inputs,
    network,
    rescaled,
    row_of,
)

pytestmark = pytest.mark.usefixtures("torch_backend")

# The function stays


@pytest.mark.parametrize("mode", ["sign", "layer", "channel"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_stays(name: str, mode: str) -> None:
    a, b, x = network(name, 0), network(name, 1), inputs(name)
    for measure in ("weight", "variance"):
        assert deviation(b, balanced(name, a, b, mode=mode, measure=measure).model, x) < EXACT


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**20),
    name=st.sampled_from(["mlp", "vgg", "resnet_option_a", "grouped", "norms"]),
)
def test_any_factors_leave_the_function_and_balancing_takes_them_back(seed: int, name: str) -> None:
    a, x = network(name, 0), inputs(name)
    b = rescaled(name, a, factors(seed))
    assert deviation(a, b, x) < EXACT
    back = balanced(name, a, b, mode="channel").model
    assert deviation(a, back, x) < EXACT
    assert_same_weights(back, a, 1e-9)


def test_16_and_32_bit_weights_keep_their_dtype_and_the_function_to_rounding() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        a, b = network("vgg_batch_norm", 0).to(dtype), network("vgg_batch_norm", 1).to(dtype)
        result = balanced("vgg_batch_norm", a, b, mode="channel").model
        assert {t.dtype for t in state_of(result).values()} == {dtype, torch.int64}
        # Run in float64: only the weights are rounded, at nine layers one after the other.
        x = inputs("vgg_batch_norm")
        limit = 16 * torch.finfo(dtype).eps
        assert deviation(b.double(), result.double(), x) < limit


def test_none_only_reports() -> None:
    a, b = network("grouped", 0), network("grouped", 1)
    result = balanced("grouped", a, b, mode="none")
    assert_same(snapshot(b), snapshot(result.model))
    assert result.report.layers == balanced("grouped", a, b, mode="channel").report.layers


# Scales


@pytest.mark.parametrize("mode", ["layer", "channel"])
@pytest.mark.parametrize("name", BALANCED)
def test_rows_of_balanced_layers_agree_in_norm(name: str, mode: str) -> None:
    a, b = network(name, 0), network(name, 1)
    result, graph = balanced(name, a, b, mode=mode), graph_of(name)
    exact = {layer.layer for layer in result.report.layers if not layer.left_alone}
    assert exact
    for layer in exact:
        node = next(n for n in graph.nodes if n.name == graph.tap(layer).node)
        wanted, found = (row_norms(graph, state_of(m), node) for m in (a, result.model))
        assert wanted is not None
        assert found is not None
        if mode == "layer":
            wanted, found = wanted.norm(), found.norm()
        torch.testing.assert_close(found, wanted, rtol=EXACT, atol=0)


def test_variances_agree_where_they_are_the_measure() -> None:
    a, b = network("vgg_batch_norm", 0), network("vgg_batch_norm", 1)
    result = balanced("vgg_batch_norm", a, b, mode="channel", measure="variance").model
    for name, tensor in state_of(a).items():
        if name.endswith("running_var"):
            torch.testing.assert_close(state_of(result)[name], tensor, rtol=EXACT, atol=0)


@pytest.mark.parametrize("mode", ["layer", "channel"])
@pytest.mark.parametrize("name", ["vgg", "mlp", "vgg_batch_norm", "resnet_option_a", "grouped"])
def test_the_midpoint_with_a_copy_of_other_scales_is_the_network_itself(
    name: str, mode: str
) -> None:
    a, x = network(name, 0), inputs(name)
    b = rescaled(name, a, lambda channels: torch.full((channels,), 2.7, dtype=torch.float64))
    assert deviation(a, b, x) < EXACT
    result = balanced(name, a, b, mode=mode)
    assert_same_weights(rk.interpolate(a, result.model, 0.5), a, EXACT)
    ratios = [layer.ratio for layer in result.report.layers]
    assert max(ratios) == pytest.approx(2.7)


def test_the_ratio_is_that_of_the_networks_as_they_were_given() -> None:
    a = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    b = copy.deepcopy(a)
    with torch.no_grad():
        b[0].weight.mul_(torch.tensor([2.0, 8.0, 2.0, 8.0]).unsqueeze(1))
        b[2].weight.mul_(3)
    x = torch.zeros(1, 3, dtype=torch.float64)
    report = balance(a, b, x, mode="channel").report
    assert [layer.ratio for layer in report.layers] == pytest.approx([4, 3])
    assert report.ratio == pytest.approx(12**0.5)


def test_rows_without_weights_stay() -> None:
    a, b = network("vgg_batch_norm", 0), network("vgg_batch_norm", 1)
    with torch.no_grad():
        a.features[0].weight[0] = 0
        b.features[0].weight[1] = 0
    before = b.features[0].weight.detach().clone()
    result = balanced("vgg_batch_norm", a, b, mode="channel").model
    assert torch.equal(result.features[0].weight[:2].abs(), before[:2].abs())
    assert all(t.isfinite().all() for t in state_of(result).values())


# Signs


def turned(model: nn.Sequential, channels: int) -> nn.Sequential:
    """Return a copy that says the first channels of its convolution with the other sign."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (model[0].weight, model[1].running_mean, model[1].weight):
            tensor[:channels] *= -1
    return model


def test_channels_of_opposite_signs_cancel_out_unless_one_is_turned() -> None:
    torch.manual_seed(3)
    conv = nn.Conv2d(3, 8, 3, bias=False)
    head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    a = lively(nn.Sequential(conv, nn.BatchNorm2d(8), *head), 0).eval()
    b, x = turned(a, 4), torch.randn(64, 3, 9, 9)
    assert deviation(a, b, x) < 1e-6
    data = list(x.split(32))
    cancelled = rk.calibrate(a, b, data, alpha=0.5)
    assert (cancelled[1].weight[:4] == 0).all()
    assert deviation(a, cancelled, x) > 0.1
    result = balance(a, b, x, mode="sign")
    assert [layer.opposite for layer in result.report.layers] == [4, 0]
    assert_same_weights(result.model, a, 0)
    assert deviation(a, rk.calibrate(a, result.model, data, alpha=0.5), x) < 1e-5


@pytest.mark.parametrize("match_by", ["weights", "correlation", "covariance"])
def test_turned_channels_are_matched_with_what_they_are(match_by: str) -> None:
    a, x = FAMILIES["vgg_batch_norm"].network(0), FAMILIES["vgg_batch_norm"].inputs(60)
    b = copy.deepcopy(a)
    pairs = zip(*(list(b.modules())[start:] for start in (0, 1)), strict=False)
    with torch.no_grad():
        for layer, norm in pairs:
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                for tensor in (layer.weight, layer.bias, norm.running_mean, norm.weight):
                    tensor[::2] *= -1
    assert deviation(a, b, x) < 1e-4
    result = rk.repair(a, b, [x], variant="none", match_by=match_by)
    for order in result.permutations.values():
        assert order == rk.Permutation.identity(len(order.indices))
    assert result.report.balance.opposite > 0
    assert deviation(a, result.model, x) < 1e-4


def test_networks_without_negative_norm_weights_are_left_alone() -> None:
    a = FAMILIES["vgg_batch_norm"].network(0)
    for module in a.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.5)
    state = state_of(a)
    assert positive_norms(rk.trace(a, FAMILIES["vgg_batch_norm"].inputs(4)), state) is state


@pytest.mark.parametrize("mode", ["sign", "layer", "channel"])
def test_no_signs_are_opposite_afterwards(mode: str) -> None:
    name = "resnet_option_a"
    a, b = network(name, 0), network(name, 1)
    result = balanced(name, a, b, mode=mode)
    assert result.report.opposite > 0
    assert balanced(name, a, result.model, mode="none").report.opposite == 0


def test_signs_alone_change_no_magnitude() -> None:
    name = "resnet_option_a"
    a, b = network(name, 0), network(name, 1)
    result = balanced(name, a, b, mode="sign").model
    for key, tensor in state_of(b).items():
        assert torch.equal(state_of(result)[key].abs(), tensor.abs())


# What is left alone


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_exact_is_left_alone_and_named(name: str) -> None:
    build, shape, layer, why = REFUSED[name]
    a, b = drawn(build, 0), drawn(build, 1)
    x = torch.randn(3, *shape, dtype=torch.float64)
    result = balance(a, b, x, mode="channel")
    found = next(one for one in result.report.layers if one.layer == layer)
    assert why in found.left_alone
    assert why in str(result.report)
    assert deviation(b, result.model, x) < EXACT
    weight = f"{layer}.weight"
    assert torch.equal(state_of(result.model)[weight], state_of(b)[weight])


def test_a_scale_beyond_the_dtype_is_refused() -> None:
    build = row_of(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    a, b = drawn(build, 0).half(), drawn(build, 1).half()
    with torch.no_grad():
        a[0].weight.mul_(2000)
    result = balance(a, b, torch.zeros(1, *IMAGE).half())
    assert "can hold" in result.report.layers[0].left_alone
    assert torch.equal(result.model[0].weight, b[0].weight)


def test_networks_and_weight_sets_stay_as_they_were() -> None:
    for name in ("grouped", "norms", "resnet_projection"):
        a, b = network(name, 0), network(name, 1)
        before = snapshot(a), snapshot(b)
        balanced(name, a, b, mode="channel")
        assert_same(before[0], snapshot(a))
        assert_same(before[1], snapshot(b))


def test_equal_networks_stay_equal() -> None:
    for name in BALANCED:
        a = network(name, 0)
        assert_same_weights(balanced(name, a, copy.deepcopy(a), mode="channel").model, a, EXACT)


class Averaged(nn.Module):
    """A convolution whose ReLU is averaged over dimensions."""

    def __init__(self, dims: tuple[int, ...], *, keepdim: bool = False) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 6), nn.Linear(4, 2)
        self.dims, self.keepdim = dims, keepdim

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).relu().mean(self.dims, self.keepdim).flatten(1))


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: Averaged((2, 3)), ""),
        (lambda: Averaged((-1, -2), keepdim=True), ""),
        (lambda: Averaged((1, 2)), "aten.mean.dim (mean) cannot undo a scale"),
    ],
)
def test_a_scale_passes_a_mean_over_space_only(build: Callable[[], nn.Module], why: str) -> None:
    a, b, x = drawn(build, 0), drawn(build, 1), torch.randn(3, *IMAGE, dtype=torch.float64)
    result = balance(a, b, x, mode="channel")
    assert result.report.layers[0].left_alone == why
    assert deviation(b, result.model, x) < EXACT


# Statistics


@pytest.mark.parametrize("name", ["grouped", "vgg_batch_norm"])
def test_statistics_follow_without_another_pass(name: str) -> None:
    a, b, x = network(name, 0), network(name, 1), inputs(name, 6)
    a, b, x = a.float(), b.float(), x.float()
    found = balance_state(graph_of(name), state_of(a), state_of(b), mode="channel")
    before = rk.compute_stats(a, b, [x], taps="all", joint=True)
    wanted = rk.compute_stats(a, with_state(b, found.state), [x], taps="all", joint=True)
    followed = before.scaled_b(found.scales)
    for tap in wanted:
        for kind, tensor in wanted[tap].tensors.items():
            largest = float(tensor.abs().max())
            got = followed[tap].tensors[kind]
            torch.testing.assert_close(got, tensor, rtol=0, atol=1e-4 * largest, msg=tap + kind)


def test_scaling_statistics_refuses_unknown_taps_and_wrong_widths() -> None:
    stats = rk.PairedStats({"conv": rk.PairedMoments.empty(2, 3)}, n_images=0)
    with pytest.raises(KeyError, match="no tap 'norm'"):
        stats.scaled_b({"norm": torch.ones(3)})
    with pytest.raises(ArgumentError, match=r"`scale` must be a float64 tensor of shape \(3,\)"):
        stats.scaled_b({"conv": torch.ones(2)})


# Arguments


def test_unknown_modes_and_measures_are_refused() -> None:
    model, x = network("mlp", 0), inputs("mlp")
    with pytest.raises(ArgumentError, match="`mode` must be one of 'none', 'sign', 'layer', 'chan"):
        balance(model, model, x, mode="rows")
    with pytest.raises(ArgumentError, match="`measure` must be one of 'weight', 'variance'; got"):
        balance(model, model, x, measure="std")


def test_networks_of_two_architectures_are_refused() -> None:
    with pytest.raises(ArchitectureMismatchError, match="same"):
        balance(network("mlp", 0), network("mlp_without_bias", 0), inputs("mlp"))


def test_the_report_is_a_table() -> None:
    result: BalanceResult = balance(network("mlp", 0), network("mlp", 1), inputs("mlp"))
    lines = str(result.report).splitlines()
    assert lines[0] == "scales of network b against a's, mode 'layer'"
    assert lines[-1].startswith("fc3")
    assert lines[-1].endswith("it is the output of the network")


def test_repair_turns_signs_and_says_how_scales_compare() -> None:
    a = drawn(lambda: CifarResNet((1,), (4,)), 0).float()
    b = drawn(lambda: CifarResNet((1,), (4,)), 1).float()
    with torch.no_grad():
        for module in b.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(3)
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"variant": "forward", "on_worse": "warn", "assess": False}
    merged = {mode: rk.repair(a, b, [x], balance=mode, **options) for mode in ("none", "sign")}
    layered = rk.repair(a, b, [x], balance="layer", **options)
    report = merged["sign"].report
    assert report.balance.opposite > 0
    assert report.balance.ratio > 1.5
    assert "opposite signs" in str(report)
    assert any("nearer to b than it says" in warning for warning in report.warnings)
    assert not any("nearer" in warning for warning in layered.report.warnings)
    gammas = [result.model.bn1.weight for result in merged.values()]
    assert not torch.allclose(*gammas)
    end = rk.repair(a, b, [x], alpha=1.0, **options)
    permuted = rk.permute(b, rk.trace(a, x).groups, end.permutations)
    assert_same_weights(end.model, permuted, 0)
