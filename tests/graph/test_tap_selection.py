"""Taps by name, pattern and kind: what is meant is found, and nothing else."""

import functools

import pytest
import torch
from torch import Tensor, nn

import repair_kernels as rk
from repair_kernels.errors import ArgumentError
from tests.goals import pair, shifted
from tests.networks import FAMILIES, PLAIN, assert_same, snapshot

pytestmark = pytest.mark.usefixtures("torch_backend")


@functools.cache
def graph(family: str = "resnet_option_a") -> rk.NetworkGraph:
    return rk.trace(FAMILIES[family].network(0), FAMILIES[family].inputs(2))


BLOCKS = ("layer1.0.relu_1", "layer2.0.relu_1", "layer3.0.relu_1")
SELECTED = {
    "conv": ("conv1", *(f"layer{i}.0.conv{j}" for i in (1, 2, 3) for j in (1, 2))),
    "block": BLOCKS,
    "layer1.*.conv2": ("layer1.0.conv2",),
    "layer?.0.conv1": tuple(f"layer{i}.0.conv1" for i in (1, 2, 3)),
    "layer[12].0": BLOCKS[:2],  # the modules whose outputs these are
    "layer2.0": BLOCKS[1:2],
    "layer2.0.add": ("layer2.0.add",),
}


@pytest.mark.parametrize("words", SELECTED)
@pytest.mark.parametrize("alone", [True, False])
def test_a_kind_a_pattern_and_a_name_select_alone_and_in_a_list(words: str, alone: bool) -> None:
    assert graph().resolve(words if alone else [words], ()) == SELECTED[words]


@pytest.mark.parametrize("kind", ["conv", "block", "norm", "activation"])
def test_a_kind_is_every_tap_of_it_but_the_networks_output(kind: str) -> None:
    named = {"conv": "layer"}.get(kind, kind)
    wanted = tuple(t for t in graph().taps if graph().tap(t).kind == named and t != "linear")
    assert wanted
    assert graph().resolve(kind, ()) == wanted


def test_all_is_all_and_the_default_is_convolutions_and_blocks() -> None:
    assert graph().resolve("all", ()) == graph().taps
    assert "linear" in graph().resolve(["all"], ())
    assert graph().resolve(["block", "conv"], ()) == graph().calibration_taps


def test_a_list_selects_each_tap_once_in_graph_order() -> None:
    words = ["layer1.0", "conv", "conv1", "layer*.conv1"]
    conv = list(SELECTED["conv"])
    conv.insert(3, BLOCKS[0])
    assert graph().resolve(words, ()) == tuple(conv)


class Named(nn.Module):
    """A network with a module that is called as a kind is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.end = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.norm(self.conv(x)).relu())


def test_a_kinds_word_means_the_kind_and_a_pattern_the_module() -> None:
    named = rk.trace(Named(), torch.zeros(2, 3))
    assert named.resolve("conv", ()) == ("conv",)
    assert named.resolve("activation", ()) == ("relu",)
    assert named.resolve("[n]orm", ()) == ("norm",)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("layer1.0.conv3", "'layer1.0.conv3' is none of them.*such as layer1.0.conv"),
        (["conv", "layr2.0.bn1"], "'layr2.0.bn1' is none of them.*such as layer2.0.bn1"),
        ("layer9.*", r"pattern 'layer9.\*' matches none.*such as layer"),
        ("convolution", "'convolution' is none of them; choose from .*such as conv1"),
    ],
)
def test_what_means_no_tap_is_refused_with_close_names(words: object, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        graph().resolve(words, ())


def test_kinds_and_patterns_select_wherever_taps_are_named() -> None:
    a, b = pair("resnet_option_a")
    x = shifted("resnet_option_a", 12)
    assert tuple(rk.compute_stats(a, b, [x], taps="block", cross=[])) == BLOCKS
    fixed = rk.calibrate(a, b, [x], taps=["layer[23].0"], variant="sequential")
    assert_same(
        snapshot(rk.calibrate(a, b, [x], taps=BLOCKS[1:], variant="sequential")), snapshot(fixed)
    )
    a, b = PLAIN.network(0), PLAIN.network(1)
    report = rk.repair(a, b, [PLAIN.inputs(12)], taps="norm", assess=False).report
    assert report.corrected == ("1", "4")
