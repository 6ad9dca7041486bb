"""REPAIR: give the channels of an interpolated network the interpolated mean and std.

    E[X_alpha] = (1 - alpha) E[X_A] + alpha E[X_B]         std[X_alpha] = (1 - alpha) std[X_A] +
    alpha std[X_B]

Each variant returns one `ChannelAffine` per tap; `folding.py` puts them into the weights.

Source:
    REPAIR (Jordan et al., 2023), eqs. 3-5, §4.1 and §4.2.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from repair_kernels import ops
from repair_kernels.affine import ChannelAffine
from repair_kernels.batches import Batches
from repair_kernels.endpoints import capture_pair, check_alpha, choose_device, preserved_rng
from repair_kernels.errors import ArgumentError, CalibrationDataError
from repair_kernels.execution import Run, as_mapping
from repair_kernels.explicit import attach
from repair_kernels.folding import fold
from repair_kernels.graph import NetworkGraph, State, state_of
from repair_kernels.interpolation import interpolate, interpolate_state
from repair_kernels.moments import DEAD_STEPS, FLOAT32_EPS, ChannelMoments, PairedMoments
from repair_kernels.permutation import with_state
from repair_kernels.statistics import FiniteWatch, collect, collect_channels
from repair_kernels.taps import Tap

VARIANTS = ("forward", "closed_form", "sequential")


@dataclass(frozen=True)
class Goal:
    """The statistics that a tap's channels should have at one alpha."""

    mean: Tensor
    std: Tensor
    dead: Tensor
    """Channels that are dead in both endpoints: there is nothing to restore."""


def goal(moments: PairedMoments, alpha: float) -> Goal:
    """Return the interpolated statistics of aligned endpoints (eqs. 3 and 4)."""
    return Goal(
        mean=(1 - alpha) * moments.mean_a + alpha * moments.mean_b,
        std=(1 - alpha) * moments.std_a + alpha * moments.std_b,
        dead=moments.dead_a & moments.dead_b,
    )


def affine_to_goal(goal: Goal, moments: ChannelMoments) -> tuple[Tensor, Tensor]:
    """Return the scale and shift that give channels with these moments the goal's mean and std.

        scale = goal_std / std        shift = goal_mean - scale * mean

    Returns:
        float64; scale 1 and shift 0 for dead channels
    """
    dead = goal.dead | moments.dead
    scale = torch.where(dead, 1.0, goal.std / moments.std.where(~dead, 1.0))
    return scale, torch.where(dead, 0.0, goal.mean - scale * moments.mean)


def closed_form(moments: PairedMoments, alpha: float) -> tuple[Tensor, Tensor]:
    """Return the scale and shift that the endpoints' statistics alone predict.

        scale = goal_std / sqrt((1-α)² var_A + α² var_B + 2α(1-α) cov(A, B))
        shift = goal_mean (1 - scale)

    The root is the standard deviation of (1-α) X_A + α X_B: the interpolated tap's own where its
    input is that of both endpoints (the first layer), an approximation below. Channels are scaled
    about the goal's mean, which that tap already has.

    Args:
        moments: of aligned endpoints at this tap, with `cross`
    Returns:
        float64; scale 1 and shift 0 for channels that are dead in the endpoints or cancel out
        between them
    Source:
        REPAIR (Jordan et al., 2023), eq. 5
    """
    target = goal(moments, alpha)
    var = (
        (1 - alpha) ** 2 * moments.var_a
        + alpha**2 * moments.var_b
        + 2 * alpha * (1 - alpha) * moments.cov_diag
    )
    predicted = ChannelMoments(moments.n_samples, target.mean, var.clamp_min(0) * moments.n_samples)
    # A difference of terms known to float32: what is below their rounding is nothing.
    cancels = var <= DEAD_STEPS * FLOAT32_EPS * target.std.square()
    dead = target.dead | predicted.dead | cancels
    scale = torch.where(dead, 1.0, target.std / predicted.std.where(~dead, 1.0))
    return scale, torch.where(dead, 0.0, target.mean * (1 - scale))


@dataclass(frozen=True)
class Interpolated:
    """An interpolated weight set and what its taps should look like."""

    graph: NetworkGraph
    state: State
    data: Iterable[Tensor]
    stats: Mapping[str, PairedMoments]
    """Of the aligned endpoints, at the taps to correct, in graph order."""
    alpha: float
    backend: str | None

    def goal(self, tap: str) -> Goal:
        """Return the goal of a tap at this alpha."""
        return goal(self.stats[tap], self.alpha)


Affine = tuple[Tensor, Tensor]


def correct_closed_form(merged: Interpolated) -> dict[str, Affine]:
    """Correct as §4.1: from the endpoints' statistics, with no pass over the data."""
    return {tap: closed_form(moments, merged.alpha) for tap, moments in merged.stats.items()}


def correct_forward(merged: Interpolated) -> dict[str, Affine]:
    """Correct as §4.2: one pass through the interpolated network in training mode.

    Each tap is normalised by its batch's statistics, so that what follows sees the goal. The
    corrections are then frozen with the statistics of the whole pass.
    """
    goals = {tap: merged.goal(tap) for tap in merged.stats}

    def normalise(tap: Tap, value: Tensor, moments: ChannelMoments) -> Tensor:
        return ChannelAffine(*affine_to_goal(goals[tap.name], moments), tap.channel_dim)(value)

    seen = collect_channels(
        merged.graph,
        merged.state,
        merged.data,
        taps=tuple(goals),
        correct=normalise,
        backend=merged.backend,
    )
    return {tap: affine_to_goal(goals[tap], seen[tap]) for tap in goals}


def correct_sequential(merged: Interpolated) -> dict[str, Affine]:
    """Correct taps in graph order, each on the already corrected network, over the whole data.

    All batches advance together from node to node, so that each node is computed once; the values
    at the frontier of the whole calibration set are held in memory.
    """
    found: dict[str, Affine] = {}
    watch = FiniteWatch(("merged",))
    with torch.no_grad():
        runs = [
            Run(merged.graph, as_mapping(merged.state, batch.device), batch)
            for batch in merged.data
        ]
        for node, unused in merged.graph.schedule:
            for run in runs:
                run.step(node)
            tap = merged.graph.tap_of_node.get(node.name)
            if tap is not None and tap.name in merged.stats:
                values = [run.values[node.name] for run in runs]
                pooled = _pooled(values, tap, watch, merged.backend)
                found[tap.name] = affine_to_goal(merged.goal(tap.name), pooled)
                layer = ChannelAffine(*found[tap.name], tap.channel_dim)
                for run in runs:
                    run.values[node.name] = layer(run.values[node.name])
                if len(found) == len(merged.stats):
                    break
            for run in runs:
                run.free(unused)
    watch.check()
    return found


def _pooled(
    values: list[Tensor], tap: Tap, watch: FiniteWatch, backend: str | None
) -> ChannelMoments:
    total = None
    for value in values:
        sums = ops.channel_moments(value, channel_dim=tap.channel_dim, backend=backend)
        watch.see(tap.name, (sums.mean + sums.m2,))
        moments = ChannelMoments.from_sums(value.numel() // value.shape[tap.channel_dim], sums)
        total = moments if total is None else total.merge(moments)
    if total is None:
        raise CalibrationDataError(
            "`batches` must hold at least one batch; it is empty; check the data loader"
        )
    return total


_CORRECT: dict[str, Callable[[Interpolated], dict[str, Affine]]] = {
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
            cross = chosen if variant == "closed_form" else ()
            stats = collect(
                graph, state_a, state_b, data, taps=chosen, cross=cross, backend=backend
            )
        merged = interpolate_state(state_a, state_b, alpha, backend=backend)
        affines = correct(graph, merged, data, stats, chosen, alpha, variant, backend=backend)
        state, explicit = fold(graph, merged, affines)
        return attach(with_state(model_a, state), graph, explicit)


def correct(
    graph: NetworkGraph,
    state: State,
    data: Batches,
    stats: Mapping[str, PairedMoments],
    taps: Sequence[str],
    alpha: float,
    variant: str,
    *,
    backend: str | None = None,
) -> dict[str, ChannelAffine]:
    """Return the correction of each tap of an interpolated weight set.

    Args:
        stats: of the aligned endpoints, at least at `taps`
    """
    _check_stats(graph, stats, taps, variant)
    held = {tap: stats[tap] if data.device is None else stats[tap].to(data.device) for tap in taps}
    found = _CORRECT[variant](Interpolated(graph, state, data, held, alpha, backend))
    return {tap: ChannelAffine(*found[tap], graph.tap(tap).channel_dim) for tap in taps}


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
        if variant == "closed_form" and moments.cross is None:
            raise ArgumentError(
                f"the closed form needs cov(A, B) at every tap that it corrects; {name!r} was "
                "recorded without; compute the statistics with `cross='all'`"
            )
