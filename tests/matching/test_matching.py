"""Matching: the assignment is the best one, dead channels come last, a copy is recognised."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor, nn

import repair_kernels as rk
from models.resnet import CifarResNet, resnet20
from models.vgg import VGG
from repair_kernels.errors import ArchitectureMismatchError, ArgumentError
from repair_kernels.matching.matching import matched_correlation
from tests import oracles
from tests.networks import FAMILIES, lively

CORRELATIONS = st.floats(-1, 1, width=32)


def moments_of(corr: np.ndarray, dead_a: Sequence[int] = (), dead_b: Sequence[int] = ()):
    """Return moments with unit variances and this correlation matrix, but for dead channels."""
    ones = [torch.ones(len(corr), dtype=torch.float64) for _ in range(2)]
    for m2, dead in zip(ones, (dead_a, dead_b), strict=True):
        m2[list(dead)] = 0
    zeros = torch.zeros(len(corr), dtype=torch.float64)
    return rk.PairedMoments(1, zeros, ones[0], zeros, ones[1], torch.from_numpy(corr.copy()))


def group_of(positions: Tensor | int, tap: str = "tap", **others: Tensor) -> rk.PermutationGroup:
    if isinstance(positions, int):
        positions = torch.arange(positions)[:, None]
    return rk.PermutationGroup("group", len(positions), (), {**others, tap: positions}, tap)


def matched(moments: rk.PairedMoments, positions: Tensor | int | None = None) -> list[int]:
    group = group_of(len(moments.mean_a) if positions is None else positions)
    return rk.match({"tap": moments}, {"group": group})["group"].indices.tolist()


def total(corr: np.ndarray, order: Sequence[int]) -> float:
    return float(corr[np.arange(len(order)), list(order)].sum())


@given(st.integers(1, 6).flatmap(lambda n: arrays.arrays(float, (n, n), elements=CORRELATIONS)))
def test_no_other_order_correlates_better(corr: np.ndarray) -> None:
    best = max(total(corr, order) for order in itertools.permutations(range(len(corr))))
    assert total(corr, matched(moments_of(corr))) == pytest.approx(best, abs=1e-12)


@given(st.integers(0, 2**16), st.integers(1, 5))
def test_covariances_bring_activations_closest(seed: int, c: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=(9, c)) * rng.lognormal(0, 2, c) + 1 for _ in "ab")
    d_a, d_b = a - a.mean(0), b - b.mean(0)
    sums = (a.mean(0), (d_a**2).sum(0), b.mean(0), (d_b**2).sum(0), d_a.T @ d_b)
    moments = rk.PairedMoments(len(a), *map(torch.from_numpy, sums))
    found = rk.match({"tap": moments}, {"group": group_of(c)}, by="covariance")["group"].indices
    distances = [((d_a - d_b[:, p]) ** 2).sum() for p in itertools.permutations(range(c))]
    assert ((d_a - d_b[:, found.numpy()]) ** 2).sum() == pytest.approx(min(distances), rel=1e-9)


def test_a_tap_without_variance_does_no_harm_to_covariances() -> None:
    still = moments_of(np.zeros((3, 3)), dead_a=range(3), dead_b=range(3))
    found = rk.match({"tap": still}, {"group": group_of(3)}, by="covariance")["group"]
    assert found.indices.tolist() == [0, 1, 2]


def test_what_channels_are_matched_by_is_one_of_three_things() -> None:
    with pytest.raises(ArgumentError, match="'weights' or 'correlation' or 'covariance'; got 'w'"):
        rk.match({}, {}, by="w")


@given(st.integers(1, 6).flatmap(lambda n: arrays.arrays(float, (n, n), elements=CORRELATIONS)))
def test_negative_correlations_are_matched_all_the_same(corr: np.ndarray) -> None:
    corr = -np.abs(corr)
    best = max(total(corr, order) for order in itertools.permutations(range(len(corr))))
    assert total(corr, matched(moments_of(corr))) == pytest.approx(best, abs=1e-12)


@given(st.permutations(range(9)))
def test_a_permutation_matrix_is_matched_with_itself(order: list[int]) -> None:
    assert matched(moments_of(np.eye(9)[order])) == order


@given(st.sets(st.integers(0, 6)), st.sets(st.integers(0, 6)), st.integers(0, 100))
def test_dead_channels_are_matched_last(dead_a: set[int], dead_b: set[int], seed: int) -> None:
    corr = np.random.default_rng(seed).uniform(-1, 1, (7, 7))
    order = matched(moments_of(corr, list(dead_a), list(dead_b)))
    live_a, live_b = sorted({*range(7)} - dead_a), sorted({*range(7)} - dead_b)
    both = [(i, order[i]) for i in live_a if order[i] in live_b]
    assert len(both) == min(len(live_a), len(live_b))
    best = oracles.best_assignment(corr[np.ix_(live_a, live_b)])
    assert sum(corr[i, j] for i, j in both) == pytest.approx(best, abs=1e-12)


def test_what_is_left_to_dead_channels_is_taken_in_order() -> None:
    corr = np.eye(5)[[4, 0, 1, 2, 3]]
    assert matched(moments_of(corr, dead_a=[1, 3], dead_b=[0, 2])) == [4, 0, 1, 2, 3]


def test_all_dead_channels_stay_in_order() -> None:
    assert matched(moments_of(np.zeros((4, 4)), range(4), range(4))) == [0, 1, 2, 3]


@given(st.integers(0, 1000))
def test_members_of_several_positions_are_matched_by_their_mean_correlation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corr = rng.uniform(-1, 1, (8, 8))
    positions = rng.permutation(8).reshape(4, 2)
    members = np.array(
        [
            [np.mean([corr[i, j] for i, j in zip(x, y, strict=True)]) for y in positions]
            for x in positions
        ]
    )
    order = matched(moments_of(corr), torch.from_numpy(positions))
    assert total(members, order) == pytest.approx(oracles.best_assignment(members), abs=1e-12)


def test_a_group_reads_its_own_positions_of_a_wider_tap() -> None:
    corr = np.eye(6)
    corr[np.ix_([1, 4, 5], [1, 4, 5])] = np.eye(3)[[2, 0, 1]]
    assert matched(moments_of(corr), torch.tensor([[1], [4], [5]])) == [2, 0, 1]


def test_a_group_whose_match_tap_has_no_matrix_is_matched_at_another_tap() -> None:
    corr = np.eye(3)[[1, 2, 0]]
    full = moments_of(corr)
    without = rk.PairedMoments(1, full.mean_a, full.m2_a, full.mean_b, full.m2_b)
    group = group_of(3, before=torch.arange(3)[:, None])
    perms = rk.match({"before": full, "tap": without}, {"group": group})
    assert perms["group"].indices.tolist() == [1, 2, 0]


@given(st.integers(0, 1000))
def test_the_mean_of_all_matching_taps_at_hand_decides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    at_taps = {name: rng.uniform(-1, 1, (5, 5)) for name in ("early", "other", "tap")}
    positions = torch.arange(5)[:, None]
    group = replace(
        group_of(5, early=positions, other=positions), match_taps=("early", "absent", "tap")
    )
    stats = {name: moments_of(corr) for name, corr in at_taps.items()}
    order = rk.match(stats, {"group": group})["group"].indices.tolist()
    mean = (at_taps["early"] + at_taps["tap"]) / 2
    best = max(total(mean, held) for held in itertools.permutations(range(5)))
    assert total(mean, order) == pytest.approx(best, abs=1e-12)


def test_a_stream_is_matched_at_all_blocks_that_it_reaches() -> None:
    model = CifarResNet((2, 2), (4, 8))
    group = rk.trace(model, torch.zeros(2, 3, 8, 8)).groups["conv1"]
    blocks = [f"layer{path}.relu_1" for path in ("1.0", "1.1", "2.0", "2.1")]
    assert group.match_taps == ("relu", *blocks)
    assert group.match_tap == "layer1.1.relu_1"


def test_matched_correlation_is_the_mean_over_the_matched_pairs() -> None:
    corr = np.random.default_rng(0).uniform(-1, 1, (5, 5))
    order = [3, 1, 0, 4, 2]
    found = matched_correlation(
        {"tap": moments_of(corr)}, {"g": group_of(5)}, {"g": rk.Permutation(order)}
    )
    assert found["g"] == pytest.approx(total(corr, order) / 5, abs=1e-12)


# Networks


class Grouped(nn.Module):
    """A convolution in groups: whole groups of its channels change places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.last = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.grouped(self.first(x).relu()).relu())


NETWORKS = {
    "mlp": (FAMILIES["mlp"].build, (12,)),
    "vgg": (lambda: VGG(11, width=1 / 16, batch_norm=True), (3, 32, 32)),
    "option_a": (resnet20, (3, 12, 12)),
    "projection": (
        lambda: CifarResNet((1, 1, 1), (8, 16, 24), shortcut="projection"),
        (3, 12, 12),
    ),
    "grouped": (Grouped, (3, 8, 8)),
}


@pytest.mark.usefixtures("torch_backend")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_recognises_its_permuted_copy(name: str) -> None:
    build, shape = NETWORKS[name]
    model = lively(build(), 0).eval()
    x = torch.randn(48, *shape, generator=torch.Generator().manual_seed(1))
    graph = rk.trace(model, x)
    generator = torch.Generator().manual_seed(2)
    perms = {n: rk.Permutation.random(g.size, generator) for n, g in graph.groups.items()}
    stats = rk.compute_stats(model, rk.permute(model, graph.groups, perms), [x])
    found = rk.match(stats, graph.groups)
    assert found.keys() == perms.keys() != set()
    for group, permutation in perms.items():
        moments = stats[graph.groups[group].match_tap]
        rows = graph.groups[group].taps[graph.groups[group].match_tap]
        # Which of two dead channels is which cannot be told.
        live = ~moments.dead_a[rows].all(dim=1)
        assert live.float().mean() > 0.7
        undone = found[group].compose(permutation).indices
        assert torch.equal(undone[live], torch.arange(len(undone))[live]), group


@pytest.mark.usefixtures("torch_backend")
def test_a_network_is_matched_with_itself_by_the_identity() -> None:
    family = FAMILIES["vgg_batch_norm"]
    model, x = family.network(0), family.inputs(32)
    graph = rk.trace(model, x)
    stats = rk.compute_stats(model, model, [x])
    for name, permutation in rk.match(stats, graph.groups).items():
        assert permutation == rk.Permutation.identity(graph.groups[name].size)


# Bad input


def test_a_group_without_a_correlation_matrix_is_named() -> None:
    full = moments_of(np.eye(3))
    without = rk.PairedMoments(1, full.mean_a, full.m2_a, full.mean_b, full.m2_b)
    for stats in ({"tap": without}, {}):
        with pytest.raises(ArgumentError, match=r"group 'group' has none of tap.*cross=\['tap'\]"):
            rk.match(stats, {"group": group_of(3)})


def test_statistics_of_a_narrower_network_are_refused() -> None:
    with pytest.raises(ArchitectureMismatchError, match="tap 'tap' has 3 and 3 .* channel 4"):
        rk.match({"tap": moments_of(np.eye(3))}, {"group": group_of(5)})
