"""Laws of every operator's rule: channels in another order, the same function; and they do move."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from repair_kernels.graph.network import NetworkGraph, trace
from repair_kernels.graph.permutation import permute
from tests.equivariance import ROUNDING, deranged, deviation, shuffled
from tests.networks import lively
from tests.rules import (
    attention,
    elementwise,
    layers,
    norms,
    parameters,
    reductions,
    reshapes,
    segments,
    spatial,
)
from tests.rules.case import Case

TABLES = (
    attention,
    elementwise,
    layers,
    norms,
    parameters,
    reductions,
    reshapes,
    segments,
    spatial,
)
MOVING = {name: case for table in TABLES for name, case in table.MOVING.items()}
PINNED = {name: case for table in TABLES for name, case in table.PINNED.items()}


@cache
def traced(case: Case) -> tuple[nn.Module, NetworkGraph, Tensor]:
    model = lively(case.build(), seed=0).double().eval()
    x = torch.randn(3, *case.shape, dtype=torch.float64)
    return model, trace(model, x), x


@pytest.fixture(scope="module", params=MOVING)
def moving(request: pytest.FixtureRequest) -> Case:
    return MOVING[request.param]


@settings(max_examples=settings().max_examples // 50)
@given(seed=st.integers(0, 2**31))
def test_channels_in_another_order_compute_the_same_function(moving, seed):
    model, graph, x = traced(moving)
    model = lively(copy.deepcopy(model), seed)
    assert deviation(model, shuffled(model, graph.groups, seed), x) <= ROUNDING


def test_the_groups_have_the_sizes_that_the_operators_allow(moving):
    _, graph, _ = traced(moving)
    assert tuple(group.size for group in graph.groups.values()) == moving.sizes


def test_no_slice_of_a_group_can_be_left_where_it_stands(moving):
    model, graph, x = traced(moving)
    for group in graph.groups.values():
        permutations = deranged({group.name: group})
        for left in group.slices:
            others = tuple(part for part in group.slices if part is not left)
            torn = permute(model, {group.name: replace(group, slices=others)}, permutations)
            assert deviation(model, torn, x) > 1e-6, left


@pytest.mark.parametrize("name", PINNED)
def test_an_operator_that_knows_its_channels_by_place_pins_them_and_is_named(name):
    _, graph, _ = traced(PINNED[name])
    assert graph.groups == {}
    assert PINNED[name].pinned_by in str(graph.report())


def test_an_operator_without_a_rule_is_named_so():
    _, graph, _ = traced(PINNED["an operator without a rule"])
    no_rule = "aten.renorm.default (renorm): no rule for this operator"
    assert graph.symmetry.pins["first.weight[0]"] == no_rule


def test_positions_of_a_computed_kernel_are_pinned_for_their_order():
    _, graph, _ = traced(MOVING["conv, weight times mask"])
    assert graph.symmetry.pins["mask[3]"].endswith("positions of a kernel are ordered")


def test_every_case_has_a_name_of_its_own():
    assert len(MOVING | PINNED) == sum(len(t.MOVING) + len(t.PINNED) for t in TABLES)
