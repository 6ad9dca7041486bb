"""A permuted network that computes something else is found, and rounding is not taken for it."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from repair_kernels import permute
from repair_kernels.errors import ArgumentError, FunctionChangedError
from repair_kernels.graph.network import NetworkGraph, trace
from repair_kernels.graph.permutation import Permutation
from tests.equivariance import Calls, deranged
from tests.networks import FAMILIES, assert_same, lively, snapshot


def traced(name: str) -> tuple[nn.Module, NetworkGraph]:
    family = FAMILIES[name]
    model = family.network(0)
    return model, trace(model, family.inputs(2))


def mistaken(graph: NetworkGraph, group: str, part: int) -> NetworkGraph:
    """Leave one axis of one parameter out of a group."""
    right = graph.groups[group]
    slices = right.slices[:part] + right.slices[part + 1 :]
    graph.symmetry.groups[group] = dataclasses.replace(right, slices=slices)
    return graph


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_passes_with_a_deviation_of_rounding(name):
    model, graph = traced(name)
    assert graph.verify(model) < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_permutations_are_drawn_from_the_seed_or_given(seed):
    model, graph = traced("mlp")
    permutations = deranged(graph.groups, seed)
    assert graph.verify(model, seed=seed) == graph.verify(model, seed=seed)
    assert graph.verify(model, permutations=permutations) < 1e-12


def test_the_identity_deviates_by_nothing():
    model, graph = traced("vgg")
    identity = {name: Permutation.identity(g.size) for name, g in graph.groups.items()}
    assert graph.verify(model, permutations=identity) == 0


@pytest.mark.parametrize("name", ["mlp", "vgg_batch_norm", "resnet_option_a", "resnet_layer_norm"])
def test_a_group_that_lacks_any_of_its_axes_is_found(name):
    model, graph = traced(name)
    for group in list(graph.groups):
        right = graph.groups[group]
        for part in range(len(right.slices)):
            with pytest.raises(FunctionChangedError, match="a permutation group .* is wrong") as e:
                mistaken(graph, group, part).verify(model)
            assert e.value.deviation > 1e-4
            graph.symmetry.groups[group] = right


def test_the_first_tap_that_differs_is_named():
    model, graph = traced("vgg")
    group = graph.groups["features.3"]
    part = next(i for i, s in enumerate(group.slices) if s.parameter == "features.3.bias")
    with pytest.raises(FunctionChangedError, match=r"tap 'features\.3' is the first") as error:
        mistaken(graph, "features.3", part).verify(model)
    assert error.value.tap == "features.3"


def test_a_tap_whose_channels_are_said_to_stand_elsewhere_is_found():
    model, graph = traced("mlp")
    group = graph.groups["fc1"]
    taps = {**group.taps, "relu": group.taps["relu"].flip(0)}
    graph.symmetry.groups["fc1"] = dataclasses.replace(group, taps=taps)
    with pytest.raises(FunctionChangedError) as error:
        graph.verify(model)
    assert error.value.tap == "relu"


def test_a_network_that_amplifies_rounding_is_no_mistake():
    model = Calls(
        lambda self, x: torch.sin(1e6 * self.b(self.a(x).relu())),
        a=nn.Linear(3, 40),
        b=nn.Linear(40, 2),
    )
    lively(model, 0)
    assert 1e-12 < trace(model, torch.zeros(2, 3)).verify(model) < 1e-7


def test_of_a_network_whose_output_is_rounding_nothing_can_be_said():
    model = Calls(
        lambda self, x: torch.sin(1e16 * self.b(self.a(x).relu())),
        a=nn.Linear(3, 40),
        b=nn.Linear(40, 2),
    )
    lively(model, 0)
    with pytest.raises(FunctionChangedError, match="nothing can be said on these inputs"):
        trace(model, torch.zeros(2, 3)).verify(model)


def test_infinite_values_that_agree_are_no_difference():
    model = Calls(
        lambda self, x: self.b((self.a(x) / 0.0).clamp(-1, 1)), a=nn.Linear(3, 4), b=nn.Linear(4, 2)
    )
    lively(model, 0)
    assert trace(model, torch.zeros(2, 3)).verify(model) < 1e-12


def test_a_network_in_half_precision_is_run_in_double():
    model, graph = traced("resnet_option_a")
    assert graph.verify(model.bfloat16()) < 1e-12


def test_the_network_is_left_as_it_is():
    model, graph = traced("resnet_projection")
    model.train()
    before = snapshot(model)
    graph.verify(model)
    assert_same(before, snapshot(model))


def test_an_empty_batch_says_nothing():
    model, graph = traced("mlp")
    assert graph.verify(model, torch.zeros(0, 12)) == 0


def test_weights_without_values_are_refused():
    with torch.device("meta"):
        model = FAMILIES["mlp"].build()
        graph = trace(model, torch.zeros(2, 12))
    with pytest.raises(ArgumentError, match=r"'fc1\.weight' is on the meta device; load a check"):
        graph.verify(model)


def test_inputs_that_cannot_be_drawn_are_asked_for():
    model = Calls(lambda self, x: self.fc(x.to(torch.float64)).sum(1), fc=nn.Linear(3, 4).double())
    whole = torch.zeros(2, 3, dtype=torch.long)
    graph = trace(model, whole)
    with pytest.raises(ArgumentError, match=r"inputs of torch\.int64, .*; pass a `batch`"):
        graph.verify(model)
    assert graph.verify(model, whole + 1) < 1e-12


def test_permute_verifies_on_request():
    model, graph = traced("mlp")
    permutations = deranged(graph.groups)
    permuted = permute(model, graph, permutations, verify=True)
    assert_same(snapshot(permuted), snapshot(permute(model, graph.groups, permutations)))
    with pytest.raises(FunctionChangedError):
        permute(model, mistaken(graph, "fc1", 0), permutations, verify=True)


def test_permute_needs_the_graph_to_verify():
    model, graph = traced("mlp")
    with pytest.raises(ArgumentError, match="pass the graph that `trace` returned in their place"):
        permute(model, graph.groups, {}, verify=True)


@pytest.mark.parametrize("shape", [(4, 12), (1, 12)])
def test_a_batch_may_be_given(shape: tuple[int, int]) -> None:
    model, graph = traced("mlp")
    batch: Tensor = torch.rand(shape)
    assert graph.verify(model, batch) < 1e-12
