"""A data set on its way through a graph: bits, memory, sharing, and work."""

import functools
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node

import repair_kernels as rk
from repair_kernels.calibration.frontier import Frontier, free_bytes
from repair_kernels.graph.execution import Run, execute
from repair_kernels.graph.network import State, state_of
from tests.goals import pair, shifted
from tests.networks import assert_same, snapshot

pytestmark = pytest.mark.usefixtures("torch_backend")

FAMILY = "resnet_option_a"
CHUNK = 6


@functools.cache
def captured() -> tuple[rk.NetworkGraph, State, tuple[Tensor, ...]]:
    model, _ = pair(FAMILY)
    pieces = shifted(FAMILY, 20).split(6)  # The last one is ragged.
    return rk.trace(model, pieces[0]), state_of(model), pieces


def to_the_end(frontier: Frontier, graph: rk.NetworkGraph, stride: int = CHUNK) -> list[Tensor]:
    """Advance by some nodes at a time; return what each piece's last node gave."""
    schedule = graph.schedule[:-1]
    for start in range(0, len(schedule), stride):
        nodes, found = schedule[start : start + stride], []
        frontier.advance(nodes, nodes[-1][0].name, found.append, None)
    return found


@pytest.mark.parametrize("budget", [None, 0, 20_000])
@pytest.mark.parametrize("stride", [1, 7, 1000])
def test_a_frontier_computes_what_each_piece_alone_does(budget: int | None, stride: int) -> None:
    graph, state, pieces = captured()
    found = to_the_end(Frontier(graph, state, pieces, budget), graph, stride)
    for piece, output in zip(pieces, found, strict=True):
        with torch.no_grad():
            assert torch.equal(execute(graph, [state], piece)[0], output)


def test_what_does_not_fit_the_budget_is_spilled_in_pieces() -> None:
    graph, state, pieces = captured()
    nodes = graph.schedule[:CHUNK]

    def held(budget: int | None) -> tuple[int, int]:
        frontier = Frontier(graph, state, pieces, budget)
        frontier.advance(nodes, nodes[-1][0].name, lambda value: None, None)
        return frontier.held, frontier.spilled

    everything, nothing = held(None)
    assert (everything > 0, nothing) == (True, 0)
    assert held(0) == (0, everything)
    for budget in (1, everything // 2, everything - 1, everything):
        kept, spilled = held(budget)
        assert kept <= budget
        assert kept + spilled == everything
    # Three pieces of 6 and one of 2 images: half of the budget holds one of 6, and the 2.
    assert held(everything // 2)[0] == everything * 8 // 20


def test_only_what_later_nodes_read_is_held() -> None:
    graph, state, pieces = captured()
    frontier = Frontier(graph, state, pieces)
    index = next(i for i, (n, _) in enumerate(graph.schedule) if n.name == graph.tap("bn1").node)
    frontier.advance(graph.schedule[: index + 1], graph.tap("bn1").node, lambda value: None, None)
    # Of the stem only the norm's output lives: 4 channels of 8 x 8 floats per image.
    assert frontier.held == 20 * 4 * 8 * 8 * 4


class Aliases(nn.Module):
    """An operator writes to memory that two values share, and to the input's."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        rows = y.view(-1, 3)
        y.add_(1)
        halves = y.split(2, dim=1)
        y.relu_()
        return (rows * 3).view_as(y) + torch.cat(halves, dim=1)


@pytest.mark.parametrize("budget", [None, 0])
def test_values_that_share_memory_share_it_after_a_spill(budget: int | None) -> None:
    model, x = Aliases(), torch.randn(8, 3)
    model.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    graph = rk.trace(model, x)
    found = to_the_end(Frontier(graph, state_of(model), x.split(5), budget), graph, stride=1)
    assert torch.equal(torch.cat(found), model(x))


def test_weights_are_neither_copied_nor_spilled() -> None:
    graph, state, pieces = captured()
    before = {name: tensor.data_ptr() for name, tensor in state.items()}
    seen = []

    def look(run: Run) -> None:
        names = [n for n in run.values if n in graph.sources]
        seen.append(all(run.values[n].data_ptr() == before[graph.sources[n]] for n in names))

    frontier = Frontier(graph, state, pieces, budget=0)
    for nodes in (graph.schedule[:5], graph.schedule[5:9]):
        frontier.advance(nodes, nodes[-1][0].name, lambda value: None, look)
    assert seen == [True] * 2 * len(pieces)


def test_a_change_acts_before_a_piece_goes_on() -> None:
    graph, state, pieces = captured()
    tap, seen = graph.tap("conv1").node, []
    index = next(i for i, (n, _) in enumerate(graph.schedule) if n.name == tap)
    frontier = Frontier(graph, state, pieces, budget=0)
    frontier.advance(graph.schedule[: index + 1], tap, lambda value: None, None)
    norm = graph.schedule[index + 1 : index + 2]

    def silence(run: Run) -> None:
        run.values[tap] = torch.zeros_like(run.values[tap])

    frontier.advance(norm, norm[0][0].name, seen.append, silence)
    assert all(bool((y == y[:1, :, :1, :1]).all()) for y in seen)


def test_a_cpus_memory_has_no_budget() -> None:
    assert free_bytes(torch.device("cpu")) is None


# The variants that stand on it


@pytest.mark.parametrize("variant", ["sequential", "reset_norm"])
def test_a_spilled_calibration_has_the_same_bits(variant: str, monkeypatch) -> None:
    a, b = pair(FAMILY)
    monkeypatch.setattr("repair_kernels.batches.PIECE_IMAGES", 4)
    x = shifted(FAMILY, 19)
    wanted = snapshot(rk.calibrate(a, b, [x], variant=variant, on_worse=None))
    monkeypatch.setattr("repair_kernels.calibration.frontier.free_bytes", lambda device: 10_000)
    assert_same(wanted, snapshot(rk.calibrate(a, b, [x], variant=variant, on_worse=None)))


@pytest.mark.parametrize("variant", ["sequential", "reset_norm"])
def test_every_node_is_computed_once_for_every_piece(variant: str, monkeypatch) -> None:
    a, b = pair(FAMILY)
    monkeypatch.setattr("repair_kernels.batches.PIECE_IMAGES", 4)
    x = shifted(FAMILY, 16)
    stats = rk.compute_stats(a, b, [x])
    computed: Counter[str] = Counter()
    step = Run.step

    def count(run: Run, node: Node) -> object:
        computed[node.name] += 1
        return step(run, node)

    monkeypatch.setattr(Run, "step", count)
    rk.calibrate(a, b, [x], variant=variant, stats=stats, on_worse=None)
    assert set(computed.values()) == {16 // 4}
