"""The ways to repair interpolated networks: what each changes, for one or several alphas.

`goals.py` has the formulas, `folding/` puts corrections into the weights. The corrections at one
alpha have the same bits whatever the others are.

Source:
    REPAIR (Jordan et al., 2023), §4.1 and §4.2.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from repair_kernels.affine import ChannelAffine
from repair_kernels.batches import Batches
from repair_kernels.calibration.answers import endpoint_answers
from repair_kernels.calibration.channel_statistics import collect_channels
from repair_kernels.calibration.distillation import distil
from repair_kernels.calibration.goals import (
    Affine,
    Goal,
    affine_to_goal,
    cancelling,
    closed_form,
    goal,
)
from repair_kernels.calibration.norm_reset import reset_statistics
from repair_kernels.calibration.rank_pieces import RankPieces
from repair_kernels.calibration.sequential import correct_in_order
from repair_kernels.errors import ArgumentError, CalibrationDataError
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.graph.taps import Tap
from repair_kernels.moments import ChannelMoments, PairedMoments
from repair_kernels.ranks import ALONE, Ranks

VARIANTS = ("forward", "closed_form", "sequential", "distilled", "reset_norm")
READS_DATA = ("forward", "sequential", "distilled", "reset_norm")
"""Variants that read the data again after the endpoints' statistics."""


@dataclass(frozen=True)
class Interpolated:
    """Interpolated weight sets, one per alpha, and what their taps should look like.

    Attributes:
        graph, states, alphas: the weight sets, and the weight of network b in each
        ends: weights of both endpoints, aligned
        data: calibration data
        stats: of the aligned endpoints, at the taps to correct, in graph order
        restore: see `goals.RESTORE`
        batch_mean: whether `stats` are averages over batches, and those to come shall be
        backend: see `ops`
        ranks: whose data it is
    """

    graph: NetworkGraph
    states: Sequence[State]
    alphas: Sequence[float]
    ends: tuple[State, State]
    data: Batches
    stats: Mapping[str, PairedMoments]
    restore: str = "both"
    batch_mean: bool = False
    backend: str | None = None
    ranks: Ranks = ALONE

    @property
    def networks(self) -> list[str]:
        """What messages call them."""
        return [f"merged at alpha {alpha:g}" for alpha in self.alphas]

    def goals(self) -> list[dict[str, Goal]]:
        """Return the goal of each tap, for each alpha."""
        return [{tap: goal(m, alpha) for tap, m in self.stats.items()} for alpha in self.alphas]

    def readings(self) -> Iterator[Iterable[Tensor]]:
        """Yield the data in pieces for each weight set in turn.

        The data is read once: what several weight sets read is kept in host memory.
        """
        if len(self.states) == 1:
            yield self.data.pieces()
            return
        held = [piece.cpu() for piece in self.data.pieces()]
        for _ in self.states:
            yield (piece.to(self.data.device or "cpu", non_blocking=True) for piece in held)

    def with_affines(self, affines: Mapping[str, Affine]) -> "Corrections":
        """Return what gives each tap its scale and shift."""
        layers = {
            tap: ChannelAffine(*affines[tap], self.graph.tap(tap).channel_dim) for tap in self.stats
        }
        return Corrections(layers)


@dataclass(frozen=True)
class Corrections:
    """What a variant changes in one interpolated network.

    Attributes:
        affines: by tap
        statistics: new running statistics of BatchNorms, by name
        cancelled: by tap, how many channels the closed form left alone because it predicts no
            variance for them; taps without such channels are left out
    """

    affines: dict[str, ChannelAffine] = field(default_factory=dict)
    statistics: State = field(default_factory=dict)
    cancelled: dict[str, int] = field(default_factory=dict)


def correct_closed_form(merged: Interpolated) -> list[Corrections]:
    """Correct as §4.1: from the endpoints' statistics, with no pass over the data."""
    found = []
    for alpha in merged.alphas:
        affines = {tap: closed_form(m, alpha, merged.restore) for tap, m in merged.stats.items()}
        lost = {tap: int(cancelling(m, alpha).sum()) for tap, m in merged.stats.items()}
        cancelled = {tap: count for tap, count in lost.items() if count}
        found.append(Corrections(merged.with_affines(affines).affines, cancelled=cancelled))
    return found


def correct_forward(merged: Interpolated) -> list[Corrections]:
    """Correct as §4.2: one pass through the interpolated networks in training mode.

    Each tap is normalised by its batch's statistics, so that what follows sees the goal. The
    corrections are then frozen with the statistics of the whole pass. Batches are pieces of one
    size, as the statistics of small ones are poor, and the same ones whatever the processes (see
    `rank_pieces.py`); with `batch_mean` they are the data's own, as in the published code.
    """
    goals = merged.goals()
    pieces = RankPieces(merged.data, merged.ranks, meetings=len(merged.states) * len(merged.stats))

    def normalise(tap: Tap, number: int, value: Tensor, own: ChannelMoments) -> Tensor:
        moments = own if merged.batch_mean else pieces.moments(own)
        affine = affine_to_goal(goals[number][tap.name], moments, merged.restore)
        return ChannelAffine(*affine, tap.channel_dim)(value)

    seen = collect_channels(
        merged.graph,
        merged.states,
        merged.data if merged.batch_mean else pieces,
        taps=tuple(merged.stats),
        correct=normalise,
        networks=merged.networks,
        batch_mean=merged.batch_mean,
        backend=merged.backend,
        ranks=merged.ranks,
    )
    return [
        merged.with_affines(
            {tap: affine_to_goal(wanted[tap], found[tap], merged.restore) for tap in wanted}
        )
        for wanted, found in zip(goals, seen, strict=True)
    ]


def correct_sequential(merged: Interpolated) -> list[Corrections]:
    """Correct taps in graph order, each on the already corrected network, over the whole data.

    The whole calibration set is in memory, so alphas take turns; see `sequential.py`.
    """
    each = zip(merged.states, merged.goals(), merged.networks, merged.readings(), strict=True)
    return [
        merged.with_affines(
            correct_in_order(
                merged.graph,
                state,
                pieces,
                goals,
                restore=merged.restore,
                network=network,
                backend=merged.backend,
                ranks=merged.ranks,
            )
        )
        for state, goals, network, pieces in each
    ]


def correct_distilled(merged: Interpolated) -> list[Corrections]:
    """Correct as "forward", then fit the same corrections to the endpoints' answers.

    See `distillation.py`. All images are held in memory, and alphas take turns.
    """
    starts = correct_forward(merged)
    example = merged.data.example[:1].to(merged.data.device)
    answers = endpoint_answers(merged.graph, merged.ends, merged.data.pieces(), example)
    each = zip(merged.states, merged.alphas, merged.goals(), starts, strict=True)
    return [
        Corrections(
            distil(
                merged.graph,
                state,
                start.affines,
                goals,
                answers.at(alpha, merged.ranks),
                restore=merged.restore,
                ranks=merged.ranks,
            )
        )
        for state, alpha, goals, start in each
    ]


def reset_norms(merged: Interpolated) -> list[Corrections]:
    """Give every BatchNorm the statistics of its input on the data; see `norm_reset.py`."""
    each = zip(merged.states, merged.networks, merged.readings(), strict=True)
    return [
        Corrections(
            statistics=reset_statistics(
                merged.graph,
                state,
                pieces,
                restore=merged.restore,
                network=network,
                backend=merged.backend,
                ranks=merged.ranks,
            )
        )
        for state, network, pieces in each
    ]


_CORRECT: dict[str, Callable[[Interpolated], list[Corrections]]] = {
    "forward": correct_forward,
    "closed_form": correct_closed_form,
    "sequential": correct_sequential,
    "distilled": correct_distilled,
    "reset_norm": reset_norms,
}


def correct(
    graph: NetworkGraph,
    states: Sequence[State],
    ends: tuple[State, State],
    data: Batches,
    stats: Mapping[str, PairedMoments],
    taps: Sequence[str],
    alphas: Sequence[float],
    variant: str,
    *,
    restore: str = "both",
    batch_mean: bool = False,
    backend: str | None = None,
    ranks: Ranks = ALONE,
) -> list[Corrections]:
    """Return what a variant changes, for each of some interpolated weight sets.

    "forward", "sequential" and "reset_norm" read the data once for all of them, "distilled" twice,
    and "closed_form" not at all.

    Args:
        states, alphas: the weight sets, and the weight of network b in each
        ends: the weights of both endpoints, aligned
        stats: of the aligned endpoints, at least at `taps`
        restore: see `goals.RESTORE`
        batch_mean: whether `stats` are averages over batches, and "forward" shall average so
        ranks: whose data it is; the corrections have the same bits on each
    """
    _check_stats(graph, stats, taps, variant)
    held = {tap: stats[tap] if data.device is None else stats[tap].to(data.device) for tap in taps}
    return _CORRECT[variant](
        Interpolated(graph, states, alphas, ends, data, held, restore, batch_mean, backend, ranks)
    )


def correction_taps(
    graph: NetworkGraph, variant: str, taps: Sequence[str] | str | None
) -> tuple[str, ...]:
    """Return the taps that a variant corrects.

    The closed form predicts how a linear map's output collapses, so by default it leaves residual
    blocks' outputs alone; distillation has no need of them, and without them all corrections are in
    weights. A reset of BatchNorms corrects no taps.
    """
    if variant == "reset_norm":
        return ()
    default = graph.calibration_taps
    if variant in ("closed_form", "distilled"):
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


def check_batch_mean(batch_mean: bool, variants: Sequence[str], ranks: Ranks = ALONE) -> None:
    """Check that averages over batches are asked for where there are any.

    Raises:
        ArgumentError: when "forward" is none of the variants, or batches are several processes'.
    """
    if batch_mean and ranks.size > 1:
        raise ArgumentError(
            "`batch_mean` averages over the batches of one process, for comparisons with published "
            f"code; got a `process_group` of {ranks.size}; leave one of the two out"
        )
    if batch_mean and "forward" not in variants:
        raise ArgumentError(
            "`batch_mean` is the published averaging of variant 'forward'; got "
            f"{', '.join(map(repr, variants))}; leave it out"
        )


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
        if moments.n_samples < 2:
            raise CalibrationDataError(
                f"a standard deviation needs two samples at least; tap {name!r} saw "
                f"{moments.n_samples}; calibrate with more images"
            )
        if variant == "closed_form" and moments.products == "none":
            raise ArgumentError(
                f"the closed form needs cov(A, B) at every tap that it corrects; {name!r} was "
                "recorded without; compute the statistics with `cross='all'`"
            )
