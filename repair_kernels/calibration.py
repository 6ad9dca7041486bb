"""REPAIR: give the channels of interpolated networks the interpolated mean and std.

`goals.py` has the formulas; here are the ways to apply them. Each variant returns one
`ChannelAffine` per tap, for one or several alphas; `folding.py` puts them into the weights.

Source:
    REPAIR (Jordan et al., 2023), §4.1 and §4.2.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from repair_kernels import ops
from repair_kernels.affine import ChannelAffine
from repair_kernels.batches import Batches
from repair_kernels.channel_statistics import collect_channels
from repair_kernels.endpoints import capture_pair, check_alpha, choose_device, preserved_rng
from repair_kernels.errors import ArgumentError
from repair_kernels.execution import Run, as_mapping
from repair_kernels.explicit import attach
from repair_kernels.folding import fold
from repair_kernels.goals import Affine, Goal, affine_to_goal, closed_form, goal
from repair_kernels.graph import NetworkGraph, State, state_of
from repair_kernels.interpolation import interpolate, interpolate_state
from repair_kernels.moments import ChannelMoments, PairedMoments
from repair_kernels.new_biases import give_biases
from repair_kernels.permutation import with_state
from repair_kernels.running import RunningMoments
from repair_kernels.statistics import collect
from repair_kernels.taps import Tap

VARIANTS = ("forward", "closed_form", "sequential")


@dataclass(frozen=True)
class Interpolated:
    """Interpolated weight sets, one per alpha, and what their taps should look like."""

    graph: NetworkGraph
    states: Sequence[State]
    alphas: Sequence[float]
    data: Iterable[Tensor]
    stats: Mapping[str, PairedMoments]
    """Of the aligned endpoints, at the taps to correct, in graph order."""
    backend: str | None

    @property
    def networks(self) -> list[str]:
        """What messages call them."""
        return [f"merged at alpha {alpha:g}" for alpha in self.alphas]

    def goals(self) -> list[dict[str, Goal]]:
        """Return the goal of each tap, for each alpha."""
        return [{tap: goal(m, alpha) for tap, m in self.stats.items()} for alpha in self.alphas]


def correct_closed_form(merged: Interpolated) -> list[dict[str, Affine]]:
    """Correct as §4.1: from the endpoints' statistics, with no pass over the data."""
    return [
        {tap: closed_form(moments, alpha) for tap, moments in merged.stats.items()}
        for alpha in merged.alphas
    ]


def correct_forward(merged: Interpolated) -> list[dict[str, Affine]]:
    """Correct as §4.2: one pass through the interpolated networks in training mode.

    Each tap is normalised by its batch's statistics, so that what follows sees the goal. The
    corrections are then frozen with the statistics of the whole pass.
    """
    goals = merged.goals()

    def normalise(tap: Tap, number: int, value: Tensor, moments: ChannelMoments) -> Tensor:
        affine = affine_to_goal(goals[number][tap.name], moments)
        return ChannelAffine(*affine, tap.channel_dim)(value)

    seen = collect_channels(
        merged.graph,
        merged.states,
        merged.data,
        taps=tuple(merged.stats),
        correct=normalise,
        networks=merged.networks,
        backend=merged.backend,
    )
    return [
        {tap: affine_to_goal(wanted[tap], found[tap]) for tap in wanted}
        for wanted, found in zip(goals, seen, strict=True)
    ]


def correct_sequential(merged: Interpolated) -> list[dict[str, Affine]]:
    """Correct taps in graph order, each on the already corrected network, over the whole data.

    All batches advance together from node to node, so that each node is computed once; the values
    at the frontier of the whole calibration set are held in memory, so alphas take turns.
    """
    each = zip(merged.states, merged.goals(), merged.networks, strict=True)
    return [_correct_in_order(merged, *one) for one in each]


def _correct_in_order(
    merged: Interpolated, state: State, goals: Mapping[str, Goal], network: str
) -> dict[str, Affine]:
    found: dict[str, Affine] = {}
    with torch.no_grad():
        runs = [Run(merged.graph, as_mapping(state, batch.device), batch) for batch in merged.data]
        for node, unused in merged.graph.schedule:
            for run in runs:
                run.step(node)
            tap = merged.graph.tap_of_node.get(node.name)
            if tap is not None and tap.name in goals:
                values = [run.values[node.name] for run in runs]
                pooled = _pooled(values, tap, network, merged.backend)
                found[tap.name] = affine_to_goal(goals[tap.name], pooled)
                layer = ChannelAffine(*found[tap.name], tap.channel_dim)
                for run in runs:
                    run.values[node.name] = layer(run.values[node.name])
                if len(found) == len(goals):
                    break
            for run in runs:
                run.free(unused)
    return found


def _pooled(values: list[Tensor], tap: Tap, network: str, backend: str | None) -> ChannelMoments:
    running = RunningMoments([network])
    for value in values:
        sums = ops.channel_moments(value, channel_dim=tap.channel_dim, backend=backend)
        running.add(tap.name, 0, value.numel() // value.shape[tap.channel_dim], sums)
        running.end_batch()
    return running.channels(tap.name)


_CORRECT: dict[str, Callable[[Interpolated], list[dict[str, Affine]]]] = {
    "forward": correct_forward,
    "closed_form": correct_closed_form,
    "sequential": correct_sequential,
}


def calibrate(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    *,
    alpha: float = 0.5,
    variant: str = "forward",
    stats: Mapping[str, PairedMoments] | None = None,
    taps: Sequence[str] | str | None = None,
    n_samples: int | None = None,
    device: torch.device | str | None = None,
    backend: str | None = None,
    add_bias: bool = False,
) -> nn.Module:
    """Interpolate two aligned networks and restore the statistics of the chosen taps.

    Args:
        model_a, model_b: networks of one architecture, b already permuted into a's order
        batches: calibration data; read once for the endpoints' statistics if `stats` is None, and
            once more by "forward" and "sequential"
        alpha: weight of network b, in [0, 1]; 0 and 1 give the endpoints back
        variant: "forward", "closed_form" or "sequential"
        stats: the statistics of `model_a` and `model_b` as they are given here, if they are known
        taps: what to correct; default: the outputs of all convolutions, linear maps and (but for
            "closed_form") residual blocks, except the network's output
        n_samples: how many images to use at most
        add_bias: whether a layer without a bias may get one, where nothing else holds a shift; it
            is a new name among the weights. Otherwise the shift is an explicit layer.
    Returns:
        a new network: of the class of `model_a` with corrections in its weights, and explicit
        `ChannelAffine` layers where they cannot be folded; on the device of `model_a`
    Raises:
        ArgumentError, ArchitectureMismatchError, CalibrationDataError, NonFiniteActivationError,
        GraphCaptureError
    Source:
        REPAIR (Jordan et al., 2023), §4
    """
    alpha, variant = check_alpha(alpha), check_variant(variant)
    device = choose_device(device, model_a)
    with preserved_rng(device):
        data = Batches(batches, n_samples=n_samples)
        graph = capture_pair(model_a, model_b, data)
        data.device = device
        chosen = correction_taps(graph, variant, taps)
        if alpha in (0, 1):
            return interpolate(model_a, model_b, alpha, backend=backend)
        state_a, state_b = state_of(model_a), state_of(model_b)
        if stats is None:
            # The networks are aligned: channel i of a is paired with channel i of b alone.
            paired = chosen if variant == "closed_form" else ()
            stats = collect(
                graph,
                state_a,
                state_b,
                data,
                taps=chosen,
                cross=(),
                diagonal=paired,
                backend=backend,
            )
        merged = interpolate_state(state_a, state_b, alpha, backend=backend)
        [affines] = correct(graph, [merged], data, stats, chosen, [alpha], variant, backend=backend)
        state, explicit = fold(graph, merged, affines)
        model = with_state(model_a, state)
        if add_bias:
            explicit = give_biases(model, graph, explicit)
        return attach(model, graph, explicit)


def correct(
    graph: NetworkGraph,
    states: Sequence[State],
    data: Batches,
    stats: Mapping[str, PairedMoments],
    taps: Sequence[str],
    alphas: Sequence[float],
    variant: str,
    *,
    backend: str | None = None,
) -> list[dict[str, ChannelAffine]]:
    """Return the correction of each tap, for each of some interpolated weight sets.

    "forward" reads the data once for all of them, "sequential" once for each, and "closed_form"
    not at all. The corrections at one alpha have the same bits whatever the others are.

    Args:
        states, alphas: the weight sets, and the weight of network b in each
        stats: of the aligned endpoints, at least at `taps`
    """
    _check_stats(graph, stats, taps, variant)
    held = {tap: stats[tap] if data.device is None else stats[tap].to(data.device) for tap in taps}
    found = _CORRECT[variant](Interpolated(graph, states, alphas, data, held, backend))
    return [
        {tap: ChannelAffine(*affines[tap], graph.tap(tap).channel_dim) for tap in taps}
        for affines in found
    ]


def correction_taps(
    graph: NetworkGraph, variant: str, taps: Sequence[str] | str | None
) -> tuple[str, ...]:
    """Return the taps that a variant corrects.

    The closed form predicts how a linear map's output collapses, so by default it leaves residual
    blocks' outputs alone.
    """
    default = graph.calibration_taps
    if variant == "closed_form":
        default = tuple(tap for tap in default if graph.tap(tap).kind == "layer")
    return graph.resolve(taps, default)


def check_variant(variant: str, also: Sequence[str] = ()) -> str:
    """Return the variant.

    Raises:
        ArgumentError: when there is none of this name.
    """
    known = (*VARIANTS, *also)
    if variant not in known:
        raise ArgumentError(
            f"`variant` must be one of {', '.join(map(repr, known))}; got {variant!r}"
        )
    return variant


def _check_stats(
    graph: NetworkGraph, stats: Mapping[str, PairedMoments], taps: Sequence[str], variant: str
) -> None:
    for name in taps:
        if name not in stats:
            raise ArgumentError(
                f"`stats` must hold every tap that is corrected; {name!r} is missing; compute "
                "them with `taps` that include it"
            )
        moments, channels = stats[name], graph.tap(name).channels
        if len(moments.mean_a) != channels or len(moments.mean_b) != channels:
            raise ArgumentError(
                f"`stats` must be those of these networks; tap {name!r} has {channels} channels, "
                f"but {len(moments.mean_a)} and {len(moments.mean_b)} in `stats`; compute them anew"
            )
        if variant == "closed_form" and moments.products == "none":
            raise ArgumentError(
                f"the closed form needs cov(A, B) at every tap that it corrects; {name!r} was "
                "recorded without; compute the statistics with `cross='all'`"
            )
