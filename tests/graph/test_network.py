"""What `trace` captures, how taps are named, and that models stay as they are."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mlp import MLP
from models.resnet import CifarResNet, imagenet_resnet18, imagenet_resnet50
from repair_kernels.errors import ArchitectureMismatchError, ArgumentError, GraphCaptureError
from repair_kernels.graph.network import NetworkGraph, check_same_architecture, state_of, trace
from tests.equivariance import Calls
from tests.networks import assert_same, lively, snapshot


class Block(nn.Module):
    """A residual block whose one ReLU module runs twice."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.conv2(self.relu(self.conv1(x))))


@pytest.fixture(scope="module")
def residual() -> NetworkGraph:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Block(), nn.Flatten(), nn.Linear(4 * 36, 5))
    return trace(model, torch.zeros(2, 3, 6, 6))


@pytest.fixture(scope="module")
def cifar() -> NetworkGraph:
    return trace(CifarResNet((2, 1), (4, 8)), torch.zeros(2, 3, 8, 8))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_the_number_of_example_images_does_not_matter(n):
    graph = trace(MLP(1, 4, in_features=3), torch.zeros(n, 3))
    assert graph.groups["fc1"].size == 4


def observed(model: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """Return all that tracing could change: the model, gradients, generator, example."""
    return snapshot(model) | {
        "rng": torch.get_rng_state(),
        "example": example.clone(),
        "grad enabled": torch.tensor(torch.is_grad_enabled()),
        **{f"grad {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    }


@pytest.mark.parametrize(
    "last", [nn.Identity, Branching], ids=["after success", "after an exception"]
)
def test_modes_weights_gradients_and_generator_are_as_before(last):
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.ReLU(inplace=True), last()
    )
    model[1].eval()
    model[0].bias.requires_grad_(False)
    example = torch.randn(2, 3)
    model(example).sum().backward()
    before = observed(model, example)
    try:
        trace(model, example)
    except GraphCaptureError:
        assert last is Branching
    assert_same(before, observed(model, example))


def test_a_module_is_named_by_its_path_and_other_operators_by_their_block(residual):
    assert residual.taps == ("0", "1.conv1", "1.relu", "1.conv2", "1.add", "1.relu_1", "3")


def test_functions_of_a_block_are_numbered_from_their_second_use(cifar):
    block = [name for name in cifar.taps if name.startswith("layer1.1.")]
    leaves = ["conv1", "bn1", "relu", "conv2", "bn2", "add", "relu_1"]
    assert block == [f"layer1.1.{leaf}" for leaf in leaves]


def test_functions_of_the_network_itself_have_no_path(cifar):
    assert cifar.taps[:3] == ("conv1", "bn1", "relu")


def test_values_without_channels_are_no_taps():
    graph = trace(nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(12, 4)), torch.zeros(2, 3, 4))
    assert graph.taps == ("2",)


@pytest.mark.parametrize(
    ("name", "kind", "module"),
    [
        ("0", "layer", "0"),
        ("1.relu", "activation", None),
        ("1.add", "other", None),
        ("1.relu_1", "block", "1"),
        ("3", "layer", "3"),
    ],
)
def test_a_tap_knows_its_kind_and_the_module_whose_output_it_is(residual, name, kind, module):
    tap = residual.tap(name)
    assert (tap.kind, tap.module) == (kind, module)


def test_a_tap_knows_where_its_channels_are():
    model = Calls(
        lambda self, x: self.head(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2))),
        conv=nn.Conv2d(3, 6, 1),
        norm=nn.LayerNorm(6),
        head=nn.Linear(6, 4),
    )
    graph = trace(model, torch.zeros(2, 3, 5, 5))
    dims = {name: (graph.tap(name).channel_dim, graph.tap(name).channels) for name in graph.taps}
    assert dims == {
        "conv": (1, 6),
        "permute": (3, 6),
        "norm": (3, 6),
        "mean": (1, 6),
        "head": (1, 4),
    }


def test_the_path_of_a_block_stands_for_the_tap_that_it_returns(cifar):
    assert cifar.tap("layer1.0").name == "layer1.0.relu_1"
    assert cifar.tap("layer1").name == "layer1.1.relu_1"


def test_the_path_of_a_module_that_runs_twice_stands_for_no_tap(residual):
    model = Calls(
        lambda self, x: self.b(self.act(self.a(self.act(x)))),
        a=nn.Linear(3, 3),
        act=nn.PReLU(),
        b=nn.Linear(3, 2),
    )
    graph = trace(model, torch.zeros(2, 3))
    assert graph.taps == ("a", "act", "b")  # The first use has no channels that are known.
    assert graph.tap("act").module is None


@pytest.mark.parametrize("name", ["layer1.7", "conv", "", "layer1.0.Relu"])
def test_an_unknown_tap_is_refused_with_names_to_choose_from(cifar, name):
    with pytest.raises(ArgumentError, match=f"'{name}' is none of them; choose from .*, such as "):
        cifar.tap(name)


def test_the_names_to_choose_from_begin_with_the_closest(cifar):
    with pytest.raises(ArgumentError, match=r"such as layer2\.0\.conv1, layer"):
        cifar.tap("layer2.9.conv1")


def test_default_taps_are_layers_blocks_and_what_matching_reads(cifar):
    blocks = {f"layer{path}.relu_1" for path in ("1.0", "1.1", "2.0")}
    convs = {f"layer{path}.conv{n}" for path in ("1.0", "1.1", "2.0") for n in (1, 2)}
    inner = {f"layer{path}.relu" for path in ("1.0", "1.1", "2.0")}
    assert set(cifar.default_taps) == {"conv1", "linear"} | blocks | convs | inner


def test_calibration_leaves_the_logits_alone(cifar):
    blocks = {f"layer{path}.relu_1" for path in ("1.0", "1.1", "2.0")}
    convs = {f"layer{path}.conv{n}" for path in ("1.0", "1.1", "2.0") for n in (1, 2)}
    assert set(cifar.calibration_taps) == {"conv1"} | blocks | convs


def test_matching_reads_one_tap_per_group_at_most(cifar):
    assert set(cifar.match_taps) == {group.match_tap for group in cifar.groups.values()}


@pytest.mark.parametrize("names", [["linear", "conv1"], ("layer1.0", "conv1", "layer1.0.relu_1")])
def test_taps_are_resolved_once_each_and_in_graph_order(cifar, names):
    resolved = cifar.resolve(names, ())
    assert len(resolved) == 2
    assert list(resolved) == sorted(resolved, key=cifar.taps.index)


def test_none_stands_for_the_default_and_all_for_all(cifar):
    assert cifar.resolve(None, ("conv1",)) == ("conv1",)
    assert cifar.resolve("all", ()) == cifar.taps
    assert cifar.resolve("layer1.0", ()) == ("layer1.0.relu_1",)


def test_the_report_lists_the_groups_and_what_cannot_move(cifar):
    lines = str(cifar.report()).splitlines()
    rows = [line.split() for line in lines]
    assert ["conv1", "4", "layer1.1.relu_1"] in rows
    assert "axes that cannot move, wholly or in part:" in lines
    assert any("linear.weight[0]" in line and "output of the network" in line for line in lines)


def test_a_network_without_parameters_has_neither_taps_nor_groups():
    graph = trace(nn.Sequential(nn.ReLU(), nn.Flatten()), torch.zeros(2, 3, 4))
    assert graph.taps == ()
    assert graph.groups == {}


def test_the_state_holds_every_tensor_of_a_model_also_non_persistent_ones():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model.register_buffer("table", torch.ones(2), persistent=False)
    assert state_of(model).keys() == {*model.state_dict(), "table"}
    assert not any(tensor.requires_grad for tensor in state_of(model).values())


def test_the_graph_holds_no_weights():
    model = lively(CifarResNet((1, 1), (4, 8)), seed=0)
    graph = trace(model, torch.zeros(2, 3, 8, 8))
    assert graph.constants == {}
    assert set(graph.sources.values()) <= state_of(model).keys()
    assert list(graph.module.parameters()) == []


def test_a_width_is_the_first_difference_of_two_architectures():
    graphs = [trace(MLP(1, width, in_features=3), torch.zeros(2, 3)) for width in (4, 5)]
    with pytest.raises(ArchitectureMismatchError, match=r"at 'p_fc1_weight'.*\(4, 3\).*\(5, 3\)"):
        check_same_architecture(*graphs)


def test_an_operator_is_the_first_difference_of_two_architectures():
    graphs = [
        trace(Calls(run, fc=nn.Linear(3, 4)), torch.zeros(2, 3))
        for run in (lambda self, x: F.relu(self.fc(x)), lambda self, x: F.gelu(self.fc(x)))
    ]
    with pytest.raises(ArchitectureMismatchError, match=r"at 'relu' .*aten\.relu.*aten\.gelu"):
        check_same_architecture(*graphs)


def test_one_more_operator_is_a_difference_of_two_architectures():
    graphs = [
        trace(Calls(run, fc=nn.Linear(3, 4)), torch.zeros(2, 3))
        for run in (lambda self, x: self.fc(x), lambda self, x: F.relu(self.fc(x)))
    ]
    with pytest.raises(ArchitectureMismatchError, match="one architecture"):
        check_same_architecture(*graphs)


def test_two_networks_of_one_architecture_pass():
    graphs = [trace(imagenet_resnet18(classes=5), torch.zeros(2, 3, 32, 32)) for _ in range(2)]
    check_same_architecture(*graphs)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("model", [{}, None, "resnet50", nn.Linear])
def test_what_is_no_module_is_refused_by_its_type(model: object) -> None:
    with pytest.raises(ArgumentError, match=f"torch.nn.Module; got {type(model).__name__}"):
        trace(model, torch.zeros(2, 3))
    with pytest.raises(ArgumentError, match="must be a torch.nn.Module"):
        state_of(model)


def test_what_is_computed_from_weights_alone_is_no_tap():
    def run(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros(x.shape[0], 4, dtype=x.dtype)
        kept[:, :] = self.fc(x)
        return self.out(kept.tanh() * self.gate.sigmoid() + self.gate.relu().exp())

    model = Calls(run, fc=nn.Linear(3, 4), gate=nn.Parameter(torch.ones(4)), out=nn.Linear(4, 2))
    graph = trace(model, torch.zeros(2, 3))
    assert graph.taps == ("fc", "copy", "tanh", "mul", "add", "out")
    assert graph.groups["fc"].match_tap == "tanh"


def test_a_resnet50_without_values_is_traced_in_three_seconds_of_one_core():
    with torch.device("meta"):
        model, example = imagenet_resnet50(), torch.zeros(2, 3, 64, 64)
    trace(nn.Linear(3, 4), torch.zeros(2, 3))  # The first use of `torch.export` imports much.
    started = time.process_time()
    graph = trace(model, example)
    assert time.process_time() - started < 3
    assert len(graph.groups) == 37
