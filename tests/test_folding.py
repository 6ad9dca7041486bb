"""Folding: corrections move into the weights, and the function stays."""

import itertools
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

import repair_kernels as rk
from repair_kernels import ChannelAffine
from repair_kernels.calibration.explicit import GraphNetwork
from repair_kernels.folding import fold_and_locate
from repair_kernels.folding.behind import as_readers_see
from repair_kernels.graph.execution import execute
from repair_kernels.graph.network import NetworkGraph, State, state_of
from repair_kernels.graph.taps import Tap
from tests.foldable import CASES, IMAGE, MEETINGS, Case, chain
from tests.folds import DOUBLE, affine, assert_equal_functions, explicitly, folded
from tests.networks import FAMILIES, assert_same, lively, snapshot

pytestmark = pytest.mark.usefixtures("torch_backend")


class Twice(nn.Module):
    """One layer that runs two times."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(self.fc(x).relu()).relu())


def drawn(case: Case, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    model = lively(case.build(), 0).eval().to(dtype)
    x = torch.randn(6, *case.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return model, x


@pytest.mark.parametrize("name", CASES)
def test_folded_equals_unfolded(name: str) -> None:
    case = CASES[name]
    model, x = drawn(case, torch.float64)
    layer = affine(case.channels)
    dim = -1 if "tokens" in name else 1
    result, explicit = folded(model, x, {case.tap: layer})
    assert_equal_functions(result, explicitly(model, case.tap, layer, dim), x, DOUBLE)
    assert tuple(explicit) == (() if case.changed else (case.tap,))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.changed])
def test_what_folds_keeps_class_and_keys_and_changes_only_what_absorbs(name: str) -> None:
    case = CASES[name]
    model, x = drawn(case, torch.float32)
    result, _ = folded(model, x, {case.tap: affine(case.channels)})
    assert type(result) is type(model)
    before, after = model.state_dict(), result.state_dict()
    assert list(after) == list(before)
    assert {n for n in before if not torch.equal(after[n], before[n])} == set(case.changed)
    assert all(after[n].dtype == before[n].dtype for n in before)


@pytest.mark.parametrize("name", ["conv, BatchNorm", "conv", "linear", "GroupNorm", "activation"])
def test_float32_folds_to_rounding(name: str) -> None:
    case = CASES[name]
    model, x = drawn(case, torch.float32)
    layer = affine(case.channels)
    result, _ = folded(model, x, {case.tap: layer})
    # Weights, statistics and sums of at most 36 terms are rounded to 2^-24 each; the correction
    # enlarges by 3 at most.
    assert_equal_functions(result, explicitly(model, case.tap, layer), x, 100 * 2.0**-23)


@pytest.mark.parametrize(
    "module", [nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(3, 4, 3, padding=1, bias=False)]
)
def test_a_layer_without_bias_absorbs_a_pure_scaling(module: nn.Module) -> None:
    model = lively(chain(module, nn.ReLU())(), 0).double()
    x = torch.randn(5, *IMAGE, dtype=torch.float64)
    layer = affine(4, shift=0)
    result, explicit = folded(model, x, {"0": layer})
    assert not explicit
    assert_equal_functions(result, explicitly(model, "0", layer), x, DOUBLE)


def test_a_huge_factor_goes_into_the_batch_norms_weight() -> None:
    model, x = drawn(CASES["conv, BatchNorm"], torch.float64)
    layer = affine(4)
    # (var + eps) / scale^2 falls below eps: no variance can say it.
    layer.scale[:2] = 1e4
    result, explicit = folded(model, x, {"0": layer})
    assert not explicit
    assert (result[1].running_var >= 0).all()
    assert torch.equal(result[1].weight[2:], model[1].weight[2:])
    torch.testing.assert_close(result[1].weight[:2], model[1].weight[:2] * 1e4)
    assert_equal_functions(result, explicitly(model, "0", layer), x, DOUBLE)


def test_a_huge_factor_goes_into_the_layer_where_the_batch_norm_has_no_weight() -> None:
    model, x = drawn(CASES["conv, BatchNorm without weights"], torch.float64)
    layer = affine(4)
    layer.scale[:2] = 1e4
    result, explicit = folded(model, x, {"0": layer})
    assert not explicit
    assert torch.equal(result[1].running_var, model[1].running_var)
    assert_equal_functions(result, explicitly(model, "0", layer), x, DOUBLE)


@pytest.mark.parametrize("factor", [0.0, -2.0])
@pytest.mark.parametrize("name", ["conv, BatchNorm", "bare conv, BatchNorm"])
def test_factors_that_are_not_positive_are_right_too(name: str, factor: float) -> None:
    model, x = drawn(CASES[name], torch.float64)
    layer = affine(4)
    layer.scale[1] = factor
    result, _ = folded(model, x, {"0": layer})
    assert_equal_functions(result, explicitly(model, "0", layer), x, DOUBLE)


def test_corrections_of_a_layer_and_its_norm_fold_together() -> None:
    model, x = drawn(CASES["conv, BatchNorm"], torch.float64)
    first, second = affine(4, seed=1), affine(4, seed=2)
    first.scale[0] = 1e4
    result, explicit = folded(model, x, {"0": first, "1": second})
    assert not explicit
    wanted = explicitly(explicitly(model, "0", first), "1", second)
    assert_equal_functions(result, wanted, x, DOUBLE)


def test_a_layer_that_runs_twice_is_corrected_at_one_run_only() -> None:
    model = lively(Twice(), 0).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    first, layer = rk.trace(model, x).taps[0], affine(4)
    result, explicit = folded(model, x, {first: layer})
    assert list(explicit) == [first]
    assert isinstance(result, GraphNetwork)
    once = (model.fc(x) * layer.scale + layer.shift).relu()
    wanted = model.out(model.fc(once).relu())
    torch.testing.assert_close(result(x), wanted, rtol=DOUBLE, atol=DOUBLE)


@pytest.mark.parametrize("family", ["vgg", "vgg_batch_norm", "mlp", "resnet_projection"])
def test_every_layer_of_a_network_folds_at_once(family: str) -> None:
    model, x = FAMILIES[family].network(0).double(), FAMILIES[family].inputs(4).double()
    graph = rk.trace(model, x)
    layers = [tap for tap in graph.calibration_taps if graph.tap(tap).kind == "layer"]
    affines = {tap: affine(graph.tap(tap).channels, seed=i) for i, tap in enumerate(layers)}
    result, explicit = folded(model, x, affines)
    assert not explicit
    assert list(result.state_dict()) == list(model.state_dict())
    wanted = model
    for tap, layer in affines.items():
        wanted = explicitly(wanted, tap, layer)
    assert_equal_functions(result, wanted, x, DOUBLE)


# Corrections that meet


def everywhere(graph: NetworkGraph, *, plain: Sequence[str] = ()) -> dict[str, ChannelAffine]:
    """Return a correction for every tap, of those in `plain` without a shift."""
    found = {}
    for seed, tap in enumerate(graph.taps):
        layer = affine(graph.tap(tap).channels, seed=seed, shift=float(tap not in plain))
        found[tap] = ChannelAffine(layer.scale, layer.shift, graph.tap(tap).channel_dim)
    return found


def assert_folds(
    model: nn.Module, graph: NetworkGraph, x: Tensor, affines: dict[str, ChannelAffine]
) -> None:
    """Assert that a folded network computes what the one with layers at its taps does."""
    result, _ = folded(model, x, affines, graph)
    layers = GraphNetwork(graph, state_of(model), affines)
    assert_equal_functions(result, layers, x, DOUBLE)


def meeting(name: str) -> tuple[nn.Module, NetworkGraph, Tensor]:
    model = lively(MEETINGS[name](), 0).eval().double()
    x = torch.randn(6, *IMAGE, generator=torch.Generator().manual_seed(1)).double()
    return model, rk.trace(model, x), x


@pytest.mark.parametrize("name", MEETINGS)
def test_any_two_corrections_fold_together(name: str) -> None:
    model, graph, x = meeting(name)
    for two in itertools.combinations(graph.taps, 2):
        for plain in ((), two[:1], two[1:]):
            affines = everywhere(graph, plain=plain)
            assert_folds(model, graph, x, {tap: affines[tap] for tap in two})


@pytest.mark.parametrize("name", MEETINGS)
def test_corrections_of_either_sign_fold_together(name: str) -> None:
    model, graph, x = meeting(name)
    affines = everywhere(graph)
    for layer in affines.values():
        layer.scale[1] *= -1
    assert_folds(model, graph, x, affines)


@pytest.mark.parametrize("family", FAMILIES)
def test_corrections_at_every_tap_fold_together(family: str) -> None:
    model, x = FAMILIES[family].network(0).double(), FAMILIES[family].inputs(3).double()
    graph = rk.trace(model, x)
    assert_folds(model, graph, x, everywhere(graph))


def test_corrections_fold_in_the_order_of_the_graph_not_of_the_mapping() -> None:
    model, graph, x = meeting("pools, linear")
    affines = everywhere(graph)
    assert_folds(model, graph, x, dict(reversed(affines.items())))


def test_a_scaling_does_not_pass_a_correction_that_stays_a_layer() -> None:
    model, graph, x = meeting("pool, padded conv")
    affines = everywhere(graph, plain=["1"])
    alone = {"1": affines["1"]}
    assert list(folded(model, x, alone)[1]) == []
    assert list(folded(model, x, alone | {"2": affines["2"]})[1]) == ["1", "2"]


@pytest.mark.parametrize("name", MEETINGS)
def test_readers_see_a_tap_as_it_is_in_the_network_with_layers(name: str) -> None:
    model, graph, x = meeting(name)
    before, affines = state_of(model), everywhere(graph)
    found = fold_and_locate(graph, before, affines)
    views = as_readers_see(graph, before, found.state, affines, found.behind)
    assert tuple(views) == found.behind
    wanted, _ = at_taps(graph, before, x, affines, {})
    _, seen = at_taps(graph, found.state, x, found.explicit, views)
    for tap in graph.taps:
        torch.testing.assert_close(seen[tap], wanted[tap], rtol=DOUBLE, atol=DOUBLE)


def at_taps(
    graph: NetworkGraph,
    state: State,
    x: Tensor,
    layers: Mapping[str, ChannelAffine],
    views: Mapping[str, ChannelAffine],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what a network with some layers computes at its taps, and how readers see that."""
    values: dict[str, Tensor] = {}
    seen: dict[str, Tensor] = {}

    def read(tap: Tap, held: list[Tensor]) -> list[Tensor]:
        value = layers[tap.name](held[0]) if tap.name in layers else held[0]
        # The next operator may write over it.
        values[tap.name] = value.clone()
        seen[tap.name] = views[tap.name](value) if tap.name in views else value.clone()
        return [value]

    with torch.no_grad():
        execute(graph, [state], x, read, graph.taps)
    return values, seen


# What is left as it was


def test_folding_leaves_the_weights_as_they_were() -> None:
    for name in ("conv, BatchNorm", "conv", "activation"):
        case = CASES[name]
        model, x = drawn(case, torch.float32)
        before = snapshot(model)
        folded(model, x, {case.tap: affine(case.channels)})
        assert_same(before, snapshot(model))


def test_no_corrections_change_nothing() -> None:
    model, x = drawn(CASES["conv, BatchNorm"], torch.float32)
    result, explicit = folded(model, x, {})
    assert explicit == {}
    assert_same(snapshot(model), snapshot(result))
