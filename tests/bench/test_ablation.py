"""The ways of the ablation differ in what they say, and the default is the package's own."""

from dataclasses import replace

import pytest
import torch

from bench.ways import PAPER, WAYS, Way, groups_for, realigned
from models.resnet import CifarResNet
from repair_kernels.alignment import AlignedPair, align
from tests.networks import lively


@pytest.fixture(scope="module")
def pair() -> AlignedPair:
    a, b = (lively(CifarResNet((1, 1), (4, 8)), seed).eval() for seed in (0, 1))
    x = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return align(a, b, [x], variants=("forward", "closed_form"))


def test_the_default_way_is_what_align_does(pair):
    again = realigned(pair, Way())
    assert again.permutations == pair.permutations
    assert all(torch.equal(again.state_b[name], value) for name, value in pair.state_b.items())
    assert replace(WAYS["distilled (default)"], redrawn=False) == Way()


def test_ways_of_matching_read_other_taps(pair):
    read = {
        matching: [len(group.match_taps) for group in groups_for(pair.graph, matching).values()]
        for matching in ("last", "stage", "layers", "all")
    }
    assert set(read["last"]) == {1}
    assert sum(read["last"]) < sum(read["stage"]) < sum(read["all"])
    assert PAPER.matching == "last"
    assert PAPER.balance == "none"


def test_a_way_that_turns_no_signs_leaves_b_as_it_is_permuted(pair):
    plain = realigned(pair, PAPER)
    assert all(plain.state_b[name] is value for name, value in plain.state_permuted.items())
