"""Laws of permutation groups, groups written by hand, and every network of models/."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from models.mlp import MLP
from models.resnet import (
    NORMS,
    SHORTCUTS,
    Bottleneck,
    CifarResNet,
    ImageNetResNet,
    cifar_resnet,
    cifar_resnet18,
    imagenet_resnet18,
    imagenet_resnet50,
    resnet20,
)
from models.vgg import VGG
from repair_kernels.graph.network import NetworkGraph, state_of, trace
from repair_kernels.graph.permutation import Permutation, permute
from tests.equivariance import ROUNDING, Calls, deranged, deviation, moved, shuffled
from tests.networks import lively
from tests.random_networks import HIDDEN, networks

Where = dict[tuple[str, int], list[int]]
"""On which axes of which parameters a group sits, and where: positions in rising order."""


def placed(graph: NetworkGraph) -> dict[str, Where]:
    return {
        name: {(s.parameter, s.axis): sorted(s.positions.ravel().tolist()) for s in group.slices}
        for name, group in graph.groups.items()
    }


def between(before: str, after: str, size: int, *vectors: str) -> Where:
    """Describe channels that one layer writes, vectors follow, and another layer reads."""
    axes = {(f"{before}.weight", 0), (f"{after}.weight", 1), *((v, 0) for v in vectors)}
    return {axis: list(range(size)) for axis in axes}


def batch_norm(name: str) -> list[str]:
    return [f"{name}.{v}" for v in ("weight", "bias", "running_mean", "running_var")]


@settings(
    max_examples=3 * settings().max_examples // 10, suppress_health_check=[HealthCheck.too_slow]
)
@given(networks(), st.integers(0, 2**31))
def test_any_network_of_known_blocks_keeps_its_function_in_another_order(network, seed):
    model = lively(network, seed).double().eval()
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    graph = trace(model, x)
    assert deviation(model, shuffled(model, graph.groups, seed), x) <= ROUNDING
    assert HIDDEN in [group.size for group in graph.groups.values()]


def test_the_groups_of_a_multilayer_perceptron_are_its_hidden_layers():
    graph = trace(MLP(widths=(8, 7, 6), in_features=5), torch.zeros(2, 5))
    assert placed(graph) == {
        "fc1": between("fc1", "fc2", 8, "fc1.bias"),
        "fc2": between("fc2", "fc3", 7, "fc2.bias"),
        "fc3": between("fc3", "fc4", 6, "fc3.bias"),
    }


def test_the_groups_of_a_vgg11_are_its_convolutions():
    graph = trace(VGG(11, width=1 / 8, batch_norm=True), torch.zeros(2, 3, 32, 32))
    layers = {0: 8, 4: 16, 8: 32, 11: 32, 15: 64, 18: 64, 22: 64, 25: 64}
    after = [f"features.{n}" for n in layers][1:] + ["classifier"]
    assert placed(graph) == {
        f"features.{n}": between(
            f"features.{n}", reader, c, f"features.{n}.bias", *batch_norm(f"features.{n + 1}")
        )
        for (n, c), reader in zip(layers.items(), after, strict=True)
    }


def test_flattened_channels_take_their_positions_with_them():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    (group,) = trace(model, torch.zeros(2, 3, 4, 4)).groups.values()
    (columns,) = (part for part in group.slices if part.parameter == "2.weight")
    rows = columns.positions.sort(dim=1).values.sort(dim=0).values
    assert rows.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]


def option_a_groups() -> dict[str, Where]:
    """Write the groups of a ResNet20 with option-A shortcuts down by hand.

    A stage's first 8 (16) and last 8 (16) channels are padded in, those between are the stage's
    before it: 16 channels of stage 1 are 8..23 of stage 2 and 24..39 of stage 3.
    """
    stage_1 = [range(16), range(8, 24), range(24, 40)]
    stage_2 = [None, [*range(8), *range(24, 32)], [*range(16, 24), *range(40, 48)]]
    stage_3 = [None, None, [*range(16), *range(48, 64)]]
    names = {"conv1": stage_1, "layer2.0.conv2": stage_2, "layer3.0.conv2": stage_3}
    groups: dict[str, Where] = {}
    for name, places in names.items():
        axes: Where = {}
        for stage, place in enumerate(places, start=1):
            if place is None:
                continue
            writers = [f"layer{stage}.{block}.conv2" for block in range(3)]
            readers = [f"layer{stage}.{block}.conv1" for block in range(3)]
            norms = [f"layer{stage}.{block}.bn2" for block in range(3)]
            # The first block of a later stage still reads the stage before it.
            readers = readers if stage == 1 else readers[1:]
            readers.append("linear" if stage == 3 else f"layer{stage + 1}.0.conv1")
            if stage == 1:
                writers, norms = ["conv1", *writers], ["bn1", *norms]
            vectors = [vector for norm in norms for vector in batch_norm(norm)]
            for axis in (
                *((f"{writer}.weight", 0) for writer in writers),
                *((f"{reader}.weight", 1) for reader in readers),
                *((vector, 0) for vector in vectors),
            ):
                axes[axis] = list(place)
        groups[name] = axes
    for stage, size in ((1, 16), (2, 32), (3, 64)):
        for block in range(3):
            path = f"layer{stage}.{block}"
            groups[f"{path}.conv1"] = between(
                f"{path}.conv1", f"{path}.conv2", size, *batch_norm(f"{path}.bn1")
            )
    return groups


@pytest.fixture(scope="module")
def resnet20_graph() -> NetworkGraph:
    return trace(resnet20(), torch.zeros(2, 3, 32, 32))


def test_the_outer_channels_of_an_option_a_stage_are_free_and_the_inner_ones_follow(resnet20_graph):
    assert placed(resnet20_graph) == option_a_groups()


def test_the_groups_of_an_option_a_network_have_the_sizes_of_what_is_free(resnet20_graph):
    outer = [resnet20_graph.groups[n].size for n in ("conv1", "layer2.0.conv2", "layer3.0.conv2")]
    assert outer == [16, 16, 32]


def test_inner_channels_keep_their_member_in_every_stage(resnet20_graph):
    where = {part.parameter: part.positions for part in resnet20_graph.groups["conv1"].slices}
    first = where["conv1.weight"]
    assert torch.equal(where["layer2.0.conv2.weight"], first + 8)
    assert torch.equal(where["layer3.2.bn2.running_var"], first + 24)
    assert torch.equal(where["linear.weight"], first + 24)


def test_a_stage_is_matched_at_its_own_last_activation(resnet20_graph):
    groups = resnet20_graph.groups
    assert groups["conv1"].match_tap == "layer1.2.relu_1"
    assert groups["layer2.0.conv2"].match_tap == "layer2.2.relu_1"
    assert groups["layer3.0.conv2"].match_tap == "layer3.2.relu_1"
    assert groups["layer1.0.conv1"].match_tap == "layer1.0.relu"


def test_taps_see_the_channels_of_a_group_where_they_stand(resnet20_graph):
    taps = resnet20_graph.groups["conv1"].taps
    assert taps["layer1.2.relu_1"].ravel().sort().values.tolist() == list(range(16))
    assert taps["layer2.0.shortcut.pad"].ravel().sort().values.tolist() == list(range(8, 24))


def test_the_stages_of_a_projection_network_move_on_their_own():
    model = CifarResNet((1, 1), (4, 6), shortcut="projection")
    graph = trace(model, torch.zeros(2, 3, 8, 8))
    projection = between("layer2.0.conv2", "linear", 6, *batch_norm("layer2.0.bn2"))
    projection |= {("layer2.0.shortcut.0.weight", 0): list(range(6))}
    projection |= {(vector, 0): list(range(6)) for vector in batch_norm("layer2.0.shortcut.1")}
    stem = between("conv1", "layer1.0.conv1", 4, *batch_norm("bn1"), *batch_norm("layer1.0.bn2"))
    stem |= {("layer1.0.conv2.weight", 0): list(range(4))}
    stem |= {(f"layer2.0.{name}.weight", 1): list(range(4)) for name in ("conv1", "shortcut.0")}
    inner = {
        f"layer{n}.0.conv1": between(
            f"layer{n}.0.conv1", f"layer{n}.0.conv2", c, *batch_norm(f"layer{n}.0.bn1")
        )
        for n, c in ((1, 4), (2, 6))
    }
    assert placed(graph) == {"conv1": stem, "layer2.0.conv2": projection} | inner


def test_the_stages_of_a_fixup_network_move_and_its_numbers_do_not():
    model = CifarResNet((1, 1), (4, 6), norm="fixup", shortcut="projection")
    stem = between("conv1", "layer1.0.conv1", 4)
    stem |= {("layer1.0.conv2.weight", 0): list(range(4))}
    stem |= {(f"layer2.0.{name}.weight", 1): list(range(4)) for name in ("conv1", "shortcut.0")}
    last = between("layer2.0.conv2", "linear", 6) | {
        ("layer2.0.shortcut.0.weight", 0): list(range(6))
    }
    assert placed(trace(model, torch.zeros(2, 3, 8, 8))) == {
        "conv1": stem,
        "layer1.0.conv1": between("layer1.0.conv1", "layer1.0.conv2", 4),
        "layer2.0.conv1": between("layer2.0.conv1", "layer2.0.conv2", 6),
        "layer2.0.conv2": last,
    }


def test_an_inverted_bottleneck_with_squeeze_and_excite_follows_its_gates():
    def run(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(self.expand(self.stem(x)).relu()).relu()
        seen = self.squeeze(y.mean((2, 3), keepdim=True)).relu()
        return self.head(self.project(y * self.excite(seen).sigmoid()))

    layers = {
        "stem": nn.Conv2d(3, 4, 1, bias=False),
        "expand": nn.Conv2d(4, 8, 1, bias=False),
        "depthwise": nn.Conv2d(8, 8, 3, groups=8, bias=False),
        "squeeze": nn.Conv2d(8, 2, 1),
        "excite": nn.Conv2d(2, 8, 1),
        "project": nn.Conv2d(8, 5, 1, bias=False),
        "head": nn.Conv2d(5, 2, 1),
    }
    wide = between("expand", "project", 8, "depthwise.weight", "excite.weight", "excite.bias")
    wide |= {("squeeze.weight", 1): list(range(8))}
    assert placed(trace(Calls(run, **layers), torch.zeros(2, 3, 6, 6))) == {
        "stem": between("stem", "expand", 4),
        "expand": wide,
        "squeeze": between("squeeze", "excite", 2, "squeeze.bias"),
        "project": between("project", "head", 5),
    }


def test_a_group_norm_keeps_channels_within_their_group_and_its_groups_change_places():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.Conv2d(6, 4, 1))
    axes = [("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("1.bias", 0), ("2.weight", 1)]
    graph = trace(model, torch.zeros(2, 3, 4, 4))
    assert placed(graph) == {
        "0[0]": dict.fromkeys(axes, [0, 1, 2]),
        "0[1]": dict.fromkeys(axes, [3, 4, 5]),
        "0": dict.fromkeys(axes, [0, 1, 2, 3, 4, 5]),
    }
    assert graph.groups["0"].inner == (("0[0]",), ("0[1]",))


def test_inputs_and_outputs_are_pinned_and_nothing_else(resnet20_graph):
    assert resnet20_graph.symmetry.pins == {
        "conv1.weight[1]": "aten.conv2d.default (conv2d): its input cannot move",
        "linear.weight[0]": "output of the network",
        "linear.bias[0]": "output of the network",
    }


@pytest.fixture
def tied() -> nn.Module:
    """A network that holds one layer under two names."""
    model = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model.append(nn.Linear(6, 4))
    model[3].weight = model[1].weight
    return lively(model, seed=0).double().eval()


def test_all_names_of_a_tied_parameter_move(tied):
    (group,) = trace(tied, torch.zeros(2, 3, dtype=torch.float64)).groups.values()
    axes = {(part.parameter, part.axis) for part in group.slices}
    assert {("1.weight", 0), ("1.weight", 1), ("3.weight", 0), ("3.weight", 1)} <= axes


def test_a_permuted_network_with_tied_parameters_computes_the_same_and_keeps_the_tie(tied):
    x = torch.randn(3, 3, dtype=torch.float64)
    permuted = shuffled(tied, trace(tied, x).groups)
    assert permuted[3].weight is permuted[1].weight
    assert deviation(tied, permuted, x) <= ROUNDING


def test_permutations_of_two_groups_may_be_applied_in_any_order():
    model = lively(CifarResNet((1, 1), (4, 8)), seed=0).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    groups = trace(model, x).groups
    permutations = deranged(groups)
    one_by_one = model
    for name in reversed(permutations):
        one_by_one = permute(one_by_one, groups, {name: permutations[name]})
    at_once = state_of(permute(model, groups, permutations))
    for name, tensor in state_of(one_by_one).items():
        assert torch.equal(tensor, at_once[name]), name


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: MLP(3, 12, in_features=16), (1, 4, 4)),
    "mlp without bias": (lambda: MLP(widths=(9, 5), in_features=16, bias=False), (1, 4, 4)),
    **{
        f"vgg{depth}{' with batch norm' * norm}": (
            lambda depth=depth, norm=norm: VGG(depth, width=1 / 16, batch_norm=norm),
            (3, 32, 32),
        )
        for depth in (11, 13, 16, 19)
        for norm in (False, True)
    },
    **{
        f"resnet{depth} with {norm} and {shortcut}": (
            lambda depth=depth, norm=norm, shortcut=shortcut: cifar_resnet(
                depth, norm=norm, shortcut=shortcut
            ),
            (3, 16, 16),
        )
        for depth, norm, shortcut in (
            (20, "batch", "option_a"),
            (20, "batch", "projection"),
            *((8, norm, shortcut) for norm in NORMS for shortcut in SHORTCUTS),
        )
    },
    **{
        f"resnet8, twice as wide, with {norm} and {shortcut}": (
            lambda norm=norm, shortcut=shortcut: cifar_resnet(
                8, width=2, norm=norm, shortcut=shortcut
            ),
            (3, 16, 16),
        )
        for norm in NORMS
        for shortcut in SHORTCUTS
    },
    "resnet8, four times as wide": (lambda: cifar_resnet(8, width=4), (3, 16, 16)),
    "resnet8 of grey images": (lambda: cifar_resnet(8, in_channels=1), (1, 16, 16)),
    "cifar resnet18": (cifar_resnet18, (3, 8, 8)),
    "imagenet resnet18": (lambda: imagenet_resnet18(classes=10), (3, 32, 32)),
    "imagenet resnet50": (lambda: imagenet_resnet50(classes=10), (3, 32, 32)),
    "imagenet bottlenecks 2x": (
        lambda: ImageNetResNet(Bottleneck, (1, 1, 1, 1), width=2, classes=10),
        (3, 64, 64),
    ),
    "imagenet bottlenecks, wide inside": (
        lambda: ImageNetResNet(Bottleneck, (1, 1, 1, 1), width_per_group=128),
        (3, 32, 32),
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, NetworkGraph, torch.Tensor]:
    build, shape = NETWORKS[request.param]
    model = lively(build(), seed=0).double().eval()
    x = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return model, trace(model, x), x


def test_every_network_of_models_keeps_its_function_in_another_order(network):
    model, graph, x = network
    assert deviation(model, shuffled(model, graph.groups), x) <= ROUNDING


def test_every_channel_of_every_network_of_models_moves_but_inputs_and_logits(network):
    model, graph, _ = network
    weights = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    stem, classifier = next(iter(weights)), next(reversed(weights))
    expected = {(n, axis): p.shape[axis] for n, p in weights.items() for axis in (0, 1)}
    del expected[stem, 1], expected[classifier, 0]
    moves = moved(graph.groups, state_of(model))
    assert {axis: moves.get(axis, 0) for axis in expected} == expected


def test_a_group_without_a_permutation_stays(network):
    model, graph, _ = network
    name = next(iter(graph.groups))
    size = graph.groups[name].size
    left = permute(model, graph.groups, {name: Permutation.identity(size)})
    for key, tensor in state_of(left).items():
        assert torch.equal(tensor, state_of(model)[key])
