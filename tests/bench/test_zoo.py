"""The list of networks is what it says, the bench sees mistakes, the results keep the promise."""

import collections
import importlib.util
import itertools
import json

import pytest
import torch
from torch import nn

from bench import zoo
from bench.tables.zoo import is_whole
from bench.zoo_names import FAMILIES
from models.resnet import CifarResNet
from repair_kernels.graph.network import trace
from repair_kernels.graph.permutation import permute

ROWS = json.loads(zoo.RESULTS.read_text())["rows"]
NAMES = [name for family in FAMILIES.values() for name in family.names]
needs_libraries = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torchvision", "timm")),
    reason="the extra `vision` is not installed",
)


@pytest.fixture(scope="module")
def cifar() -> tuple[nn.Module, torch.Tensor]:
    model = zoo.lively(CifarResNet((1, 1), (4, 8)).double().eval())
    return model, torch.randn(2, 3, 8, 8).double()


def test_a_network_stands_once_and_in_one_family():
    assert len(NAMES) == len(set(NAMES)) >= 300


def test_every_network_of_the_list_has_a_row():
    assert sorted(row["name"] for row in ROWS) == sorted(NAMES)


def test_no_network_changes_its_function():
    assert [row["name"] for row in ROWS if row["captured"] and not row["same"]] == []


def test_nearly_all_networks_are_captured():
    assert sum(row["captured"] for row in ROWS) >= 0.95 * len(ROWS)


def test_the_control_is_seen_in_every_network():
    assert [
        row["name"] for row in ROWS if row.get("control", 1) < 1e3 * row.get("rounding", 0)
    ] == []


def test_speed_is_as_promised():
    seconds = {row["name"]: row["seconds"] for row in ROWS if row["captured"]}
    assert seconds.get("tv:resnet50", 0) < 3
    assert max(seconds.values()) < 30


def test_every_inner_channel_of_a_classic_network_moves():
    classic = {name for family in FAMILIES.values() if family.classic for name in family.names}
    rows = [row for row in ROWS if row["name"] in classic and row["captured"]]
    assert {row["name"]: row["pins"] for row in rows if not is_whole(row)} == {}


def test_what_is_found_of_a_network(cifar):
    model, x = cifar
    row = zoo.found(model, trace(model, x))
    assert (row["widths"], row["pins"], row["unknown"]) == (1, [], [])
    assert 0.9 < row["movable"] <= 1


def test_an_axis_that_is_left_out_is_seen(cifar):
    model, x = cifar
    graph = trace(model, x)
    permutations = zoo.drawn(graph)
    with torch.no_grad():
        expected = model(x)
        right = permute(model, graph.groups, permutations)(x)
        wrong = permute(model, zoo.without_one_axis(graph), permutations)(x)
    assert zoo.deviation(expected, right) < 1e-13
    assert zoo.deviation(expected, wrong) > 1e-3


def test_a_network_that_fails_has_a_row_that_says_why():
    rows = dict(zoo.run_all(["no_such_network"], jobs=1))
    assert rows["no_such_network"]["captured"] is False
    assert rows["no_such_network"]["why"]


def test_a_network_that_takes_too_long_has_a_row_that_says_so(monkeypatch):
    monkeypatch.setattr(zoo, "SECONDS", 1)
    monkeypatch.setattr(zoo, "examine", lambda name: collections.deque(itertools.count(), 0))
    [(_, row)] = zoo.run_all(["endless"], jobs=1)
    assert row == {"captured": False, "why": "took more than 1 s of a core"}


@needs_libraries
def test_torchvision_is_imported_beside_any_torch():
    zoo.import_libraries()
    model, x = zoo.network("tv:squeezenet1_1")
    assert model(x).shape == (2, 1000)
