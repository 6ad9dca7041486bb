"""Nested groups: heads as blocks and channels within, written by hand; they match and compose."""

import functools
from dataclasses import replace

import pytest
import torch
from torch import nn

import repair_kernels as rk
from repair_kernels.graph.permutation import Permutation, compose, inverse, permute
from repair_kernels.matching.matching import matched_correlation
from tests.equivariance import ROUNDING, deviation, shuffled
from tests.networks import lively
from tests.transformers import (
    HEADS,
    HIDDEN,
    WIDTH,
    C,
    Gated,
    Mixer,
    ShiftedWindows,
    Shuffled,
    VisionTransformer,
)

pytestmark = pytest.mark.usefixtures("torch_backend")
IMAGE = (3, 8, 8)
NETWORKS = {
    "vision transformer": (VisionTransformer, IMAGE),
    "shifted windows": (ShiftedWindows, IMAGE),
    "mixer": (Mixer, IMAGE),
    "gated": (Gated, (3,)),
    "shuffled": (Shuffled, IMAGE),
    "encoder": (lambda: nn.TransformerEncoderLayer(C, HEADS, HIDDEN, batch_first=True), (5, C)),
}
Where = dict[tuple[str, int], list[int]]


@functools.cache
def traced(name: str) -> tuple[nn.Module, rk.NetworkGraph, torch.Tensor]:
    build, shape = NETWORKS[name]
    model = lively(build(), 0).double().eval()
    x = torch.randn(64, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return model, rk.trace(model, x), x


def placed(graph: rk.NetworkGraph) -> dict[str, Where]:
    return {
        name: {(s.parameter, s.axis): sorted(s.positions.ravel().tolist()) for s in group.slices}
        for name, group in graph.groups.items()
    }


def on(places: range | list[int], *axes: str) -> Where:
    """Describe places on axes, given as "weight[0]"."""
    return {(axis[:-3], int(axis[-2])): list(places) for axis in axes}


def vectors(*layers: str) -> list[str]:
    return [f"{layer}.{vector}[0]" for layer in layers for vector in ("weight", "bias")]


def head_groups(first: str, path: str, *, heads: str = "") -> dict[str, Where]:
    """Write down the groups of an attention whose one map `qkv` holds q, k and v one after another.

    A head's channels of q and k move in pairs, those of v with the columns that read them.
    """
    rows = vectors(f"{path}qkv")
    groups: dict[str, Where] = {}
    for head in range(HEADS):
        q, k, v = ([*range(p * C + head * WIDTH, p * C + (head + 1) * WIDTH)] for p in range(3))
        columns = on(range(head * WIDTH, (head + 1) * WIDTH), f"{path}proj.weight[1]")
        groups[f"{first}[{head}]"] = on(q + k, *rows)
        groups[f"{first}[{head}]#2"] = on(v, *rows) | columns
    outer = on(range(3 * C), *rows) | on(range(C), f"{path}proj.weight[1]")
    groups[first] = outer | (on(range(HEADS), heads) if heads else {})
    return groups


def test_the_groups_of_a_vision_transformer():
    _, graph, _ = traced("vision transformer")
    stream = [
        *vectors("patch", "norm1", "norm2", "norm", "attention.proj", "fc2"),
        *("attention.qkv.weight[1]", "fc1.weight[1]", "head.weight[1]"),
        *("token[2]", "positions[2]", "scale[0]"),
    ]
    assert placed(graph) == {
        "patch": on(range(C), *stream),
        **head_groups("attention.qkv", "attention."),
        "fc1": on(range(HIDDEN), *vectors("fc1"), "fc2.weight[1]"),
    }


def test_the_groups_of_shifted_windows_with_a_table_of_biases():
    _, graph, _ = traced("shifted windows")
    stream = [*vectors("patch", "norm", "attention.proj"), "attention.qkv.weight[1]"]
    assert placed(graph) == {
        "patch": on(range(C), *stream, "head.weight[1]"),
        **head_groups("attention.qkv", "attention.", heads="attention.table[1]"),
    }


def test_the_groups_of_a_mixer_are_its_stream_and_both_hidden_layers():
    _, graph, _ = traced("mixer")
    stream = [*vectors("patch", "norm1", "norm2", "fc2"), "fc1.weight[1]", "head.weight[1]"]
    assert placed(graph) == {
        "patch": on(range(C), *stream),
        "fc1": on(range(HIDDEN), *vectors("fc1"), "fc2.weight[1]"),
        "token1.weight[0]": on(range(7), *vectors("token1"), "token2.weight[1]"),
    }
    assert graph.groups["token1.weight[0]"].match_tap == ""


def test_halves_of_a_gated_unit_move_in_pairs():
    _, graph, _ = traced("gated")
    (group,) = graph.groups.values()
    rows = group.slices[0].positions.sort(dim=1).values.sort(dim=0).values
    assert rows.tolist() == [[i, i + HIDDEN] for i in range(HIDDEN)]


def test_a_shuffle_is_followed_channel_by_channel():
    _, graph, _ = traced("shuffled")
    (group,) = graph.groups.values()
    where = {part.parameter: part.positions.ravel() for part in group.slices}
    order = torch.arange(6).view(2, 3).t().reshape(-1)
    assert torch.equal(order[where["last.weight"]], where["first.weight"])


def test_the_heads_of_a_module_of_torch_are_blocks():
    _, graph, _ = traced("encoder")
    sizes = [group.size for group in graph.groups.values()]
    assert sorted(sizes) == sorted([WIDTH] * 2 * HEADS + [HEADS, HIDDEN])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_group_and_all_together_keep_the_function(name: str):
    model, graph, x = traced(name)
    assert deviation(model, shuffled(model, graph.groups), x) <= ROUNDING
    for group in graph.groups.values():
        assert deviation(model, shuffled(model, {group.name: group}), x) <= ROUNDING


def drawn(graph: rk.NetworkGraph, seed: int) -> dict[str, Permutation]:
    generator = torch.Generator().manual_seed(seed)
    return {n: Permutation.random(group.size, generator) for n, group in graph.groups.items()}


def same(model: nn.Module, other: nn.Module) -> bool:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_permuting_twice_is_permuting_by_the_composition():
    model, graph, _ = traced("vision transformer")
    first, then = drawn(graph, 1), drawn(graph, 2)
    twice = permute(permute(model, graph.groups, first), graph.groups, then)
    assert same(twice, permute(model, graph.groups, compose(graph.groups, then, first)))


def test_the_inverse_restores_every_bit():
    model, graph, _ = traced("vision transformer")
    permutations = drawn(graph, 1)
    there = permute(model, graph.groups, permutations)
    back = permute(there, graph.groups, inverse(graph.groups, permutations))
    assert same(model, back)
    assert not same(model, there)


def test_permutations_of_some_groups_compose_too():
    model, graph, _ = traced("vision transformer")
    heads = {"attention.qkv": Permutation([1, 2, 0])}
    channels = {"attention.qkv[0]": Permutation([1, 0, 2, 3])}
    twice = permute(permute(model, graph.groups, heads), graph.groups, channels)
    composed = compose(graph.groups, channels, heads)
    # Head 1 stands first when its channels are permuted.
    assert composed == {"attention.qkv[1]": Permutation([1, 0, 2, 3]), **heads}
    assert same(twice, permute(model, graph.groups, composed))


@pytest.mark.parametrize("name", ["vision transformer", "shifted windows", "encoder"])
def test_matching_recovers_a_random_nested_permutation(name: str):
    model, graph, x = traced(name)
    permutations = drawn(graph, 3)
    stats = rk.compute_stats(model, permute(model, graph.groups, permutations), [x])
    found = rk.match(stats, graph.groups)
    undone = compose(graph.groups, found, permutations)
    assert undone == {n: Permutation.identity(g.size) for n, g in graph.groups.items()}
    correlations = matched_correlation(stats, graph.groups, found)
    assert correlations.keys() == graph.groups.keys()
    assert min(correlations.values()) > 1 - 1e-6


class Tokens(nn.Module):
    """An encoder of tokens whose channels no tap tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Linear(6, 4 * C)
        self.encoder = nn.TransformerEncoderLayer(C, HEADS, HIDDEN, batch_first=True)
        self.head = nn.Linear(4 * C, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.cut(x).unflatten(1, (4, C))).flatten(1))


@pytest.mark.parametrize("by", ["weights", "correlation"])
def test_heads_that_no_tap_sees_stay_as_they_are_with_all_inside(by: str):
    a, b = (lively(Tokens(), seed).eval() for seed in (0, 1))
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    graph = rk.trace(a, x)
    [heads] = [group for group in graph.groups.values() if group.inner]
    names = [heads.name, *(one for held in heads.inner for one in held)]
    assert not any(graph.groups[name].taps for name in names)
    found = rk.match(rk.compute_stats(a, b, [x]), graph.groups, by=by, networks=(a, b))
    assert found.keys() == graph.groups.keys()
    assert all(found[n] == Permutation.identity(graph.groups[n].size) for n in names)


def test_heads_that_no_tap_sees_are_matched_by_the_channels_inside():
    model, graph, x = traced("vision transformer")
    permutations = drawn(graph, 3)
    stats = rk.compute_stats(model, permute(model, graph.groups, permutations), [x])
    unseen = {
        name: replace(group, taps={}, match_tap="", match_taps=()) if group.inner else group
        for name, group in graph.groups.items()
    }
    assert rk.match(stats, unseen) == rk.match(stats, graph.groups)
