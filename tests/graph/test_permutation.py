"""Permutations of channels, and networks that compute the same in another order."""

import functools
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import repair_kernels as rk
from repair_kernels.errors import ArchitectureMismatchError, ArgumentError
from tests.networks import FAMILIES, assert_same, snapshot

SIZES = st.integers(0, 20)


def several(count: int) -> st.SearchStrategy[list[list[int]]]:
    """Draw the indices of `count` permutations of one size."""
    return SIZES.flatmap(lambda n: st.tuples(*[st.permutations(range(n))] * count))


@functools.cache
def traced(family: str) -> rk.NetworkGraph:
    return rk.trace(FAMILIES[family].network(0), FAMILIES[family].inputs(2))


def shuffled(groups: dict[str, rk.PermutationGroup], seed: int = 1) -> dict[str, rk.Permutation]:
    generator = torch.Generator().manual_seed(seed)
    return {name: rk.Permutation.random(g.size, generator) for name, g in groups.items()}


@given(several(1))
def test_channel_i_of_the_result_is_channel_indices_i_of_the_input(drawn: list) -> None:
    (p,) = map(rk.Permutation, drawn)
    x = np.arange(len(p)) * 10
    assert [x[j] for j in p.indices.tolist()] == x[p.indices.numpy()].tolist()
    assert sorted(p.indices.tolist()) == list(range(len(p)))


@given(several(1))
def test_the_inverse_undoes(drawn: list) -> None:
    (p,) = map(rk.Permutation, drawn)
    identity = rk.Permutation.identity(len(p))
    assert p.compose(p.inverse()) == identity == p.inverse().compose(p)
    assert p.inverse().inverse() == p


@given(several(2))
def test_compose_applies_the_other_first(drawn: list) -> None:
    p, q = map(rk.Permutation, drawn)
    x = torch.arange(len(p)) + 100
    assert torch.equal(x[p.compose(q).indices], x[q.indices][p.indices])


@given(several(3))
def test_compose_is_associative(drawn: list) -> None:
    p, q, r = map(rk.Permutation, drawn)
    assert p.compose(q).compose(r) == p.compose(q.compose(r))


@given(several(2))
def test_the_inverse_of_a_product_is_the_product_of_inverses_in_reverse(drawn: list) -> None:
    p, q = map(rk.Permutation, drawn)
    assert p.compose(q).inverse() == q.inverse().compose(p.inverse())


@given(several(1))
def test_the_identity_is_neutral(drawn: list) -> None:
    (p,) = map(rk.Permutation, drawn)
    identity = rk.Permutation.identity(len(p))
    assert p.compose(identity) == p == identity.compose(p)


@given(several(2))
def test_equal_permutations_have_equal_indices_and_hashes(drawn: list) -> None:
    p, q = map(rk.Permutation, drawn)
    assert (p == q) == (p.indices.tolist() == q.indices.tolist())
    assert hash(p) == hash(rk.Permutation(p.indices.tolist()))


def test_a_permutation_equals_no_other_kind_of_thing() -> None:
    assert rk.Permutation([0, 1]) != [0, 1]


def test_random_is_reproducible_with_a_generator_and_draws_from_it_alone() -> None:
    before = torch.get_rng_state()
    drawn = [rk.Permutation.random(50, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert drawn[0] == drawn[1] != rk.Permutation.identity(50)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("make", [list, np.array, torch.tensor, lambda x: torch.tensor(x).short()])
def test_indices_may_be_a_list_an_array_or_a_tensor(make: Callable) -> None:
    assert rk.Permutation(make([2, 0, 1])).indices.tolist() == [2, 0, 1]


def test_a_permutation_does_not_change_with_the_indices_it_was_made_of() -> None:
    indices = torch.tensor([1, 0])
    permutation = rk.Permutation(indices)
    indices[:] = 7
    assert permutation.indices.tolist() == [1, 0]


@pytest.mark.parametrize(
    "indices",
    [[0, 0], [1, 2], [-1, 0], [[0, 1]], 0, [0.0, 1.0], [True, False], list(range(1, 30))],
)
@pytest.mark.usefixtures("unchecked_annotations")
def test_indices_must_be_a_bijection(indices: object) -> None:
    with pytest.raises(ArgumentError, match="every number from 0 to n-1 exactly once; got"):
        rk.Permutation(indices)


def test_permutations_of_different_sizes_do_not_compose() -> None:
    with pytest.raises(ArgumentError, match="one size compose; got 2 and 3 channels"):
        rk.Permutation.identity(2).compose(rk.Permutation.identity(3))


# Permuted networks


@pytest.mark.parametrize("family", FAMILIES)
def test_a_permuted_network_computes_the_same_function(family: str) -> None:
    model, groups = FAMILIES[family].network(1).double(), traced(family).groups
    x = FAMILIES[family].inputs(3).double()
    permuted = rk.permute(model, groups, shuffled(groups))
    with torch.no_grad():
        before, after = model(x), permuted(x)
    # Sums of at most some thousand terms in another order, layer by layer.
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10 * before.abs().max().item())
    moved = [
        name
        for name, tensor in permuted.named_parameters()
        if not torch.equal(tensor, model.get_parameter(name))
    ]
    assert len(moved) >= len(groups)


@pytest.mark.parametrize("family", ["mlp", "vgg_batch_norm", "resnet_option_a"])
def test_permuting_back_restores_every_bit(family: str) -> None:
    model, groups = FAMILIES[family].network(1), traced(family).groups
    perms = shuffled(groups)
    there = rk.permute(model, groups, perms)
    back = rk.permute(there, groups, {name: p.inverse() for name, p in perms.items()})
    assert_same(snapshot(model), snapshot(back))


def test_permuting_twice_is_permuting_by_the_composition() -> None:
    model, groups = FAMILIES["vgg_batch_norm"].network(1), traced("vgg_batch_norm").groups
    first, then = shuffled(groups, 1), shuffled(groups, 2)
    twice = rk.permute(rk.permute(model, groups, first), groups, then)
    once = rk.permute(model, groups, {name: then[name].compose(first[name]) for name in groups})
    assert_same(snapshot(twice), snapshot(once))


def test_weights_biases_and_running_statistics_follow_by_gathering() -> None:
    model, groups = FAMILIES["vgg_batch_norm"].network(1), traced("vgg_batch_norm").groups
    order = torch.tensor([2, 0, 3, 1])
    permuted = rk.permute(model, groups, {"features.0": rk.Permutation(order)})
    before, after = model.state_dict(), permuted.state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert torch.equal(after[f"features.{name}"], before[f"features.{name}"][order]), name
    assert torch.equal(after["features.4.weight"], before["features.4.weight"][:, order])


def test_a_group_without_an_entry_stays() -> None:
    model, groups = FAMILIES["mlp"].network(1), traced("mlp").groups
    permuted = rk.permute(model, groups, {"fc2": rk.Permutation(list(range(8))[::-1])})
    assert torch.equal(permuted.fc1.weight, model.fc1.weight)
    assert torch.equal(permuted.fc1.bias, model.fc1.bias)
    assert torch.equal(permuted.fc2.bias, model.fc2.bias.flip(0))


def test_no_permutations_give_a_copy() -> None:
    model = FAMILIES["mlp"].network(1)
    permuted = rk.permute(model, traced("mlp").groups, {})
    assert_same(snapshot(model), snapshot(permuted))
    assert permuted.fc1.weight.data_ptr() != model.fc1.weight.data_ptr()


def test_permute_leaves_its_input_as_it_was() -> None:
    model, groups = FAMILIES["resnet_option_a"].network(1), traced("resnet_option_a").groups
    before = snapshot(model)
    rk.permute(model, groups, shuffled(groups))
    assert_same(before, snapshot(model))


def test_permute_keeps_class_modes_dtype_and_what_needs_a_gradient() -> None:
    model, groups = FAMILIES["vgg_batch_norm"].network(1).half(), traced("vgg_batch_norm").groups
    model.train()
    model.features[1].eval()
    model.classifier.weight.requires_grad_(False)
    permuted = rk.permute(model, groups, shuffled(groups))
    assert type(permuted) is type(model)
    before, after = snapshot(model), snapshot(permuted)
    assert torch.equal(after["modes"], before["modes"])
    assert torch.equal(after["requires_grad"], before["requires_grad"])
    assert {t.dtype for t in permuted.parameters()} == {torch.float16}


class Versioned(nn.Module):
    """A layer that refuses a state dict without its version, as torchvision's MNASNet does."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(x).relu())

    def _load_from_state_dict(self, state, prefix, metadata, *rest) -> None:
        if metadata.get("version") != 2:
            raise ValueError("no version 2")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_the_state_dicts_version_metadata_is_kept() -> None:
    model = Versioned()
    groups = rk.trace(model, torch.zeros(2, 3)).groups
    permuted = rk.permute(model, groups, shuffled(groups))
    assert permuted.state_dict()._metadata == model.state_dict()._metadata
    Versioned().load_state_dict(permuted.state_dict())


class Tied(nn.Module):
    """One matrix under two names, on two layers between equal widths."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.inner, self.out = nn.Linear(5, 6), nn.Linear(6, 2)
        self.twin = nn.Linear(5, 6)
        self.twin.weight = self.inner.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.out(self.inner(x).relu() + self.twin(x).tanh())


def test_tied_parameters_stay_tied_and_the_function_the_same() -> None:
    model = Tied().double()
    groups = rk.trace(model, torch.zeros(2, 5, dtype=torch.float64)).groups
    permuted = rk.permute(model, groups, shuffled(groups))
    x = torch.randn(4, 5, dtype=torch.float64)
    assert permuted.twin.weight is permuted.inner.weight
    assert not torch.equal(permuted.inner.weight, model.inner.weight)
    torch.testing.assert_close(permuted(x), model(x), rtol=0, atol=1e-12)


# Bad input


def test_an_unknown_group_is_named() -> None:
    with pytest.raises(ArgumentError, match="'fc9' is none; the groups are fc1, fc2"):
        rk.permute(
            FAMILIES["mlp"].network(0), traced("mlp").groups, {"fc9": rk.Permutation.identity(8)}
        )


@pytest.mark.parametrize(
    ("entry", "came"), [(rk.Permutation.identity(7), "7 channels"), ([0, 1], "list")]
)
@pytest.mark.usefixtures("unchecked_annotations")
def test_a_permutation_of_another_size_or_kind_is_refused(entry: object, came: str) -> None:
    groups = traced("mlp").groups
    with pytest.raises(ArgumentError, match=f"'fc1' must be a `Permutation` of 8.*got {came}"):
        rk.permute(FAMILIES["mlp"].network(0), groups, {"fc1": entry})


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.Linear(12, 8)), FAMILIES["mlp_without_bias"].build()],
    ids=["other names", "other widths"],
)
def test_groups_of_another_architecture_are_refused(model: nn.Module) -> None:
    groups = traced("mlp").groups
    with pytest.raises(ArchitectureMismatchError, match="groups must be those of this arch.*fc"):
        rk.permute(model, groups, shuffled(groups))


def test_groups_of_a_wider_network_are_refused() -> None:
    groups = traced("mlp").groups
    narrow = FAMILIES["mlp"].build()
    narrow.fc1, narrow.fc2 = nn.Linear(12, 6), nn.Linear(6, 6)
    with pytest.raises(ArchitectureMismatchError, match="group 'fc1'.*fc1.weight"):
        rk.permute(narrow, groups, shuffled(groups))


class Caching(nn.Module):
    """A network that keeps what it computed from its weights until its mode is switched."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.kept: list[Tensor] = []

    def train(self, mode: bool = True) -> "Caching":
        self.kept = []
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.kept or [self.a.weight.detach().clone()]
        return self.b(F.linear(x, self.kept[0], self.a.bias).relu())


@pytest.mark.parametrize("training", [False, True])
def test_what_a_network_computed_from_its_weights_is_not_carried_over(training):
    model, x = Caching().train(training), torch.randn(5, 3)
    expected = model(x)
    layers = {"a": nn.Linear(3, 4), "relu": nn.ReLU(), "b": nn.Linear(4, 2)}
    groups = rk.trace(nn.Sequential(OrderedDict(layers)), x).groups
    permuted = rk.permute(model, groups, {"a": rk.Permutation([1, 2, 3, 0])})
    torch.testing.assert_close(permuted(x), expected)
    assert permuted.training is training
