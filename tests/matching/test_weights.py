"""Weights beside activations: what they tell apart, and what a repair makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import repair_kernels as rk
from models.mlp import MLP
from repair_kernels.errors import ArchitectureMismatchError, ArgumentError
from repair_kernels.graph.network import NetworkGraph, state_of
from repair_kernels.graph.permutation import permute_state
from repair_kernels.matching import weights
from repair_kernels.matching.activations import likeness
from repair_kernels.matching.assignment import assign
from repair_kernels.matching.weights import match_with_weights, weight_likeness
from tests.networks import FAMILIES

pytestmark = pytest.mark.usefixtures("torch_backend")


def copied(family: str) -> tuple[nn.Module, nn.Module, NetworkGraph, dict, rk.PairedStats]:
    """Return a network, a copy in another order, and what brings the copy back."""
    made = FAMILIES[family]
    a, x = made.network(0), made.inputs(40)
    graph = rk.trace(a, x)
    generator = torch.Generator().manual_seed(3)
    moved = {n: rk.Permutation.random(g.size, generator) for n, g in graph.groups.items()}
    b = rk.permute(a, graph.groups, moved)
    stats = rk.compute_stats(a, b, [x], cross=list(graph.all_match_taps))
    return a, b, graph, {name: p.inverse() for name, p in moved.items()}, stats


def score(weights: np.ndarray, order: rk.Permutation) -> float:
    return float(weights[np.arange(len(weights)), order.indices.numpy()].mean())


@pytest.mark.parametrize("family", ["mlp", "vgg", "resnet_projection"])
def test_the_weights_of_a_copy_are_as_alike_as_can_be(family: str) -> None:
    a, b, graph, back, _ = copied(family)
    for name in graph.groups:
        alike = weight_likeness(graph.groups, name, state_of(a), state_of(b), back)
        assert score(alike, back[name]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("family", ["mlp", "vgg", "resnet_projection"])
def test_a_copy_is_recognised_from_wherever_the_search_starts(family: str) -> None:
    a, b, graph, back, stats = copied(family)
    start = {name: rk.Permutation.identity(g.size) for name, g in graph.groups.items()}
    found = match_with_weights(stats, graph.groups, state_of(a), state_of(b), start)
    assert found == back


def test_weights_tell_apart_what_activations_do_not() -> None:
    a, b, graph, back, stats = copied("mlp")
    first = next(iter(graph.groups))
    # Statistics that say nothing: channels of constant correlation.
    mute = {
        tap: rk.PairedMoments(
            m.n_samples, m.mean_a, torch.ones_like(m.m2_a), m.mean_b, torch.ones_like(m.m2_b),
            torch.zeros(len(m.mean_a), len(m.mean_b), dtype=torch.float64),
        )
        for tap, m in stats.items()
    }  # fmt: skip
    known = {name: order for name, order in back.items() if name != first}
    unknown = {first: rk.Permutation.identity(graph.groups[first].size)}
    found = match_with_weights(mute, graph.groups, state_of(a), state_of(b), known | unknown)
    assert found[first] == back[first]


def test_rounding_does_not_choose_between_channels_that_correlate_equally_well() -> None:
    made = FAMILIES["mlp"]
    a, b, x = made.network(0), made.network(1), made.inputs(40)
    graph, states = rk.trace(a, x), (state_of(a), state_of(b))
    stats = rk.compute_stats(a, b, [x], cross=list(graph.all_match_taps))
    start = rk.match(stats, graph.groups)

    def disturbed(seed: int) -> dict[str, rk.PairedMoments]:
        generator = torch.Generator().manual_seed(seed)
        return {
            tap: replace(
                m,
                m2_a=torch.ones_like(m.m2_a),
                m2_b=torch.ones_like(m.m2_b),
                cross=1e-6 * torch.randn(m.cross.shape, generator=generator, dtype=torch.float64),
            )
            for tap, m in stats.items()
            if m.cross is not None
        }

    seeds = range(8)
    found = [match_with_weights(disturbed(s), graph.groups, *states, start) for s in seeds]
    assert all(each == found[0] for each in found)
    assert rk.match(disturbed(0), graph.groups) != rk.match(disturbed(1), graph.groups)


def test_no_group_can_be_improved_once_they_have_settled() -> None:
    made = FAMILIES["resnet_fixup"]
    a, b, x = made.network(0), made.network(1), made.inputs(40)
    graph = rk.trace(a, x)
    groups, states = graph.groups, (state_of(a), state_of(b))
    stats = rk.compute_stats(a, b, [x], cross=list(graph.all_match_taps))
    found = match_with_weights(stats, groups, *states, rk.match(stats, groups))
    assert match_with_weights(stats, groups, *states, found) == found
    for name, group in groups.items():
        alike = weight_likeness(groups, name, *states, found)
        alike = alike + likeness(stats, group, group, "correlation")[0]
        for i in range(group.size):
            for j in range(i):
                swapped = found[name].indices.clone()
                swapped[[i, j]] = swapped[[j, i]]
                best = score(alike, found[name])
                assert score(alike, rk.Permutation(swapped)) <= best + 1e-12


def test_wide_groups_settle_where_no_other_order_gains_more_than_a_little(monkeypatch) -> None:
    a, b = (deep_mlp(seed) for seed in (0, 1))
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(2))
    groups, states = rk.trace(a, x).groups, (state_of(a), state_of(b))
    stats = rk.compute_stats(a, b, [x])
    solved: list[int] = []

    def counted(*problem: np.ndarray) -> np.ndarray:
        solved.append(len(problem[0]))
        return assign(*problem)

    monkeypatch.setattr(weights, "assign", counted)
    start = rk.match(stats, groups)
    stable = match_with_weights(stats, groups, *states, start)
    until_stable = len(solved)
    monkeypatch.setattr(weights, "WIDE", 48)
    monkeypatch.setattr(weights, "SETTLED", 1e-2)
    solved.clear()
    found = match_with_weights(stats, groups, *states, start)
    assert found != stable
    assert len(solved) < until_stable
    for name, group in groups.items():
        alike = weight_likeness(groups, name, *states, found)
        corr, dead_a, dead_b = likeness(stats, group, group, "correlation")
        best = rk.Permutation(assign(corr + alike, dead_a, dead_b))
        assert score(corr + alike, best) - score(corr + alike, found[name]) < 1e-2


def deep_mlp(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLP(4, 48, in_features=12, classes=5).eval()


def test_a_repair_matches_by_weights_and_keeps_bs_function() -> None:
    a, b, graph, back, _ = copied("vgg")
    x = FAMILIES["vgg"].inputs(40)
    result = rk.repair(a, b, [x], variant="none", match_by="weights")
    assert dict(result.permutations) == back
    wanted = permute_state(state_of(b), graph.groups, back)
    assert all(torch.equal(state_of(a)[name], value) for name, value in wanted.items())


def test_a_match_by_weights_is_that_of_a_repair() -> None:
    made = FAMILIES["resnet_projection"]
    a, b, x = made.network(0), made.network(1), made.inputs(40)
    groups = rk.trace(a, x).groups
    stats = rk.compute_stats(a, b, [x], cross=["activation", "block"])
    found = rk.match(stats, groups, by="weights", networks=(a, b))
    assert found == rk.repair(a, b, [x], variant="none").permutations
    assert found != rk.match(stats, groups)


def test_a_group_that_no_tap_sees_is_matched_by_weights_alone() -> None:
    a, b, graph, back, stats = copied("mlp")
    unseen = {
        name: replace(group, taps={}, match_taps=()) if position == 1 else group
        for position, (name, group) in enumerate(graph.groups.items())
    }
    by_activations = rk.match(stats, unseen)
    assert by_activations != back
    assert rk.match(stats, unseen, by="weights", networks=(a, b)) == back


def test_weights_are_asked_for_where_they_decide() -> None:
    _, _, graph, _, stats = copied("mlp")
    with pytest.raises(ArgumentError, match=r"needs the two networks.*pass `networks="):
        rk.match(stats, graph.groups, by="weights")


def test_networks_of_another_architecture_are_refused() -> None:
    a, _, graph, _, stats = copied("mlp")
    wrong = FAMILIES["vgg"].network(0)
    message = r"which group '.*' moves, has the shapes \(.*\) in a and None in b; pass the networks"
    with pytest.raises(ArchitectureMismatchError, match=message):
        rk.match(stats, graph.groups, by="weights", networks=(a, wrong))


def test_what_a_repair_matches_by_is_one_of_three_things() -> None:
    a, b, *_ = copied("mlp")
    with pytest.raises(ArgumentError, match="'weights' or 'correlation' or 'covariance'; got 'w'"):
        rk.repair(a, b, [FAMILIES["mlp"].inputs(4)], match_by="w")
