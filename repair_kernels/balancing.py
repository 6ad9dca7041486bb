"""Balancing: move network b along its scale symmetries to the scales of network a.

    s_i = |w_a,i| / |w_b,i|        for channel i of a layer, or once for the whole layer

A network keeps its function when a convolution in front of a BatchNorm is scaled, or one of two
layers with a ReLU between them while the other is scaled back. Interpolation does not: where b's
weights are 2.7 times as large as a's, the middle of the path lies near b. So b is brought to a's
scales first; `scaling.py` has the symmetries. Layers are taken in graph order, each compared once
those before it have changed its columns, so that in the end the rows of all balanced layers agree
in norm. A channel whose BatchNorm weight has the other sign than its partner's is turned: the two
would cancel out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node

from repair_kernels.endpoints import check_same_parameters
from repair_kernels.errors import ArgumentError
from repair_kernels.folding.correction import put
from repair_kernels.graph.network import (
    NetworkGraph,
    State,
    check_same_architecture,
    state_of,
    trace,
)
from repair_kernels.graph.permutation import with_state
from repair_kernels.graph.taps import LAYERS
from repair_kernels.moments import DEAD_STEPS, FLOAT32_EPS
from repair_kernels.rules import packet
from repair_kernels.scaling import NOT_ITS_OWN, RunningNorm, norm_behind, rescale, row_norms

MODES = ("none", "sign", "layer", "channel")
MEASURES = ("weight", "variance")


@dataclass(frozen=True)
class LayerBalance:
    """How the scales of two networks compare at one layer.

    Attributes:
        layer: name of its tap
        ratio: geometric mean over channels of |w_b| / |w_a| before balancing; NaN if not known
        opposite: channels whose BatchNorm weights had opposite signs
        left_alone: why b's layer was not changed; "" where it could be
    """

    layer: str
    ratio: float
    opposite: int
    left_alone: str


@dataclass(frozen=True)
class BalanceReport:
    """What balancing found, layer by layer in graph order; `print` it for a table."""

    mode: str
    layers: tuple[LayerBalance, ...]

    @property
    def ratio(self) -> float:
        """Return the geometric mean of the layers' ratios."""
        logs = [math.log(layer.ratio) for layer in self.layers if layer.ratio > 0]
        return math.exp(sum(logs) / len(logs)) if logs else math.nan

    @property
    def opposite(self) -> int:
        """Return how many channels had opposite signs."""
        return sum(layer.opposite for layer in self.layers)

    def __str__(self) -> str:
        head = f"{'layer':32} {'|w_b|/|w_a|':>12} {'opposite':>9}  left alone because"
        rows = [
            f"{one.layer:32} {one.ratio:12.3f} {one.opposite:9d}  {one.left_alone}".rstrip()
            for one in self.layers
        ]
        return "\n".join([f"scales of network b against a's, mode {self.mode!r}", head, *rows])


@dataclass(frozen=True)
class BalancedState:
    """Network b's weight set at a's scales.

    Attributes:
        state: the weight set; tensors that did not change are shared
        scales: by tap, what b's channels there were multiplied by (`PairedStats.scaled_b`)
        report: layer by layer
    """

    state: State
    scales: Mapping[str, Tensor]
    report: BalanceReport


@dataclass(frozen=True)
class BalanceResult:
    """Network b at a's scales, and the report."""

    model: nn.Module
    report: BalanceReport


def balance(
    model_a: nn.Module,
    model_b: nn.Module,
    example_input: Tensor,
    *,
    mode: str = "layer",
    measure: str = "weight",
) -> BalanceResult:
    """Return network b with the scales of network a; it computes the same function.

    Args:
        model_a, model_b: networks of one architecture, b's channels already in a's order; left as
            they are
        example_input: a batch of inputs; its values do not matter
        mode: "layer": one factor per layer; "channel": one per channel; "sign": only signs are
            turned, which the first two do as well; "none": only report
        measure: what is made equal: "weight", norms of the weights (of the rows, or of the whole
            layer); "variance", BatchNorms' running standard deviations where there are any
    Raises:
        ArgumentError, ArchitectureMismatchError, GraphCaptureError
    Example:
        >>> a = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> b = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> report = balance(a, b, torch.zeros(1, 3)).report
        >>> [(one.layer, one.left_alone) for one in report.layers]
        [('0', ''), ('2', 'it is the output of the network')]
    """
    state_a, state_b = state_of(model_a), state_of(model_b)
    check_same_parameters(state_a, state_b)
    graph = trace(model_a, example_input)
    check_same_architecture(graph, trace(model_b, example_input))
    balanced = balance_state(graph, state_a, state_b, mode=mode, measure=measure)
    return BalanceResult(with_state(model_b, balanced.state), balanced.report)


def balance_state(
    graph: NetworkGraph,
    state_a: State,
    state_b: State,
    *,
    mode: str = "layer",
    measure: str = "weight",
) -> BalancedState:
    """Return network b's weight set with the scales of network a; see `balance`."""
    _check_choice("mode", mode, MODES)
    _check_choice("measure", measure, MEASURES)
    state = dict(state_b)
    scales: dict[str, Tensor] = {}
    layers = []
    for node in (node for node in graph.nodes if packet(node) in LAYERS):
        norm = norm_behind(graph, node)
        factor = _factor(graph, state_a, state, node, norm, mode, measure)
        name = graph.tap_of_node[node.name].name if node.name in graph.tap_of_node else node.name
        refused = NOT_ITS_OWN
        if factor is not None:
            found = rescale(graph, state, node, factor)
            refused = found.refused
            if mode != "none":
                put(graph, state, found.changed)
                scales |= found.scales
        layers.append(
            LayerBalance(
                layer=name,
                ratio=_ratio(graph, state_a, state_b, node),
                opposite=0 if norm is None else int(_opposite(state_a, state_b, norm).sum()),
                left_alone=refused,
            )
        )
    return BalancedState(state, scales, BalanceReport(mode, tuple(layers)))


def positive_norms(graph: NetworkGraph, state: State) -> State:
    """Return a weight set of the same function with positive BatchNorm weights, where they turn.

    A channel and one that is turned have opposite weights, and are the same: before weights are
    compared, all are brought to one sign.
    """
    norms = [norm_behind(graph, node) for node in graph.nodes if packet(node) in LAYERS]
    weights = {norm.weight for norm in norms if norm is not None}
    if all(bool((state[name] >= 0).all()) for name in weights):
        return state
    positive = {**state, **{name: state[name].abs() for name in weights}}
    return balance_state(graph, positive, state, mode="sign").state


def _factor(
    graph: NetworkGraph,
    state_a: State,
    state_b: State,
    node: Node,
    norm: RunningNorm | None,
    mode: str,
    measure: str,
) -> Tensor | None:
    """Return by what b's channels at a layer are to be multiplied."""
    sizes = [row_norms(graph, state, node) for state in (state_a, state_b)]
    if norm is not None and measure == "variance":
        sizes = [norm.std(state) for state in (state_a, state_b)]
    size_a, size_b = sizes
    if size_a is None or size_b is None:
        return None
    size_a = size_a.to(size_b.device)
    factor = torch.ones_like(size_b)
    if mode == "layer":
        factor *= _quotient(size_a.norm(), size_b.norm())
    elif mode == "channel":
        factor = torch.where(_alive(size_a) & _alive(size_b), _quotient(size_a, size_b), factor)
    return (
        factor if norm is None else torch.where(_opposite(state_a, state_b, norm), -factor, factor)
    )


def _ratio(graph: NetworkGraph, state_a: State, state_b: State, node: Node) -> float:
    """Return the geometric mean of |w_b| / |w_a| over channels that are alive in both."""
    size_a, size_b = (row_norms(graph, state, node) for state in (state_a, state_b))
    if size_a is None or size_b is None:
        return math.nan
    size_a = size_a.to(size_b.device)
    alive = _alive(size_a) & _alive(size_b)
    return float((size_b[alive].log() - size_a[alive].log()).mean().exp())


def _opposite(state_a: State, state_b: State, norm: RunningNorm) -> Tensor:
    """Return the channels whose BatchNorm weights have opposite signs."""
    weight_a, weight_b = state_a[norm.weight], state_b[norm.weight]
    return weight_a.to(weight_b.device).sign() * weight_b.sign() < 0


def _alive(size: Tensor) -> Tensor:
    """Tell which channels have weights, by the rule that tells which activations are dead."""
    return size > DEAD_STEPS * FLOAT32_EPS * size.max() if size.numel() else size > 0


def _quotient(above: Tensor, below: Tensor) -> Tensor:
    return torch.where((above > 0) & (below > 0), above / below.where(below > 0, 1.0), 1.0)


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ArgumentError(
            f"`{argument}` must be one of {', '.join(map(repr, choices))}; got {value!r}"
        )
