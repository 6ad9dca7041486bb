"""Two endpoints brought into one order, ready to be merged at any alpha and in any variant."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from repair_kernels.balancing import BalanceReport, balance_state, positive_norms
from repair_kernels.batches import Batches, open_batches
from repair_kernels.calibration.assembly import MergedNetwork, assemble
from repair_kernels.calibration.assessment import Assessment, assess
from repair_kernels.calibration.channel_statistics import collect_channels, paired_averages
from repair_kernels.calibration.folded_function import FoldedDeviation, folded_deviation
from repair_kernels.calibration.goals import check_restore, goal
from repair_kernels.calibration.norm_reset import check_has_norms
from repair_kernels.calibration.variants import (
    READS_DATA,
    VARIANTS,
    Corrections,
    check_batch_mean,
    correct,
    correction_taps,
)
from repair_kernels.endpoints import capture_pair, choose_device
from repair_kernels.errors import CalibrationDataError, CalibrationWarning
from repair_kernels.graph.network import NetworkGraph, State, state_of
from repair_kernels.graph.permutation import Permutation, permute_state, tap_indices
from repair_kernels.graph.verification import function_deviation
from repair_kernels.interpolation import interpolate_states
from repair_kernels.matching.matching import check_match_by, match_states
from repair_kernels.moments import ChannelMoments, PairedMoments
from repair_kernels.ranks import ALONE, Ranks
from repair_kernels.statistics.all_reduce import merged_stats
from repair_kernels.statistics.collecting import collect
from repair_kernels.statistics.paired_stats import PairedStats

VERIFIED_IMAGES = 8
# Weight sets that share a pass over the data: 20 of a ResNet50's, in float32.
WEIGHT_BYTES_PER_PASS = 2 * 2**30


@dataclass(frozen=True)
class AlignedPair:
    """Two endpoints on one graph, b's channels in a's order, ready to be merged at any alpha.

    Attributes:
        model_a: network a, as it was given
        graph: the graph of both
        state_a, state_b: the weight sets; b's is permuted and balanced
        state_plain: b's weight set as it was given
        state_permuted: b's weight set, permuted alone
        stats: the endpoints' statistics, b as it was given
        aligned_stats: the same with b's channels in a's order and at a's scales
        permutations: by group
        balance: how b's scales and signs compared to a's
        deviation: largest difference that the permutation made to b's output, relative to its
            largest output; None if that was not asked for
        data: the calibration data
        taps: what to correct, as the caller said
        backend: see `ops`
        restore: what corrections restore, see `goals.RESTORE`
        averages: the endpoints' averages over batches at the taps to correct, in place of
            `aligned_stats` for "forward"; None: statistics are pooled
        corrections: those found so far, by alpha and variant
        ranks: whose data it is; all hold the same pair
    """

    model_a: nn.Module
    graph: NetworkGraph
    state_a: State
    state_b: State
    state_plain: State
    state_permuted: State
    stats: PairedStats
    aligned_stats: PairedStats
    permutations: Mapping[str, Permutation]
    balance: BalanceReport
    deviation: float | None
    data: Batches
    taps: Sequence[str] | str | None
    backend: str | None
    restore: str = "both"
    averages: Mapping[str, PairedMoments] | None = None
    corrections: dict[tuple[float, str], Corrections] = field(default_factory=dict)
    ranks: Ranks = ALONE

    def correct(self, alphas: Sequence[float], variant: str) -> list[tuple[State, Corrections]]:
        """Return for each alpha the interpolated weight set, and what the variant changes in it."""
        state_b = self.state_plain if variant == "plain" else self.state_b
        states = interpolate_states(self.state_a, state_b, alphas, backend=self.backend)
        if variant != "plain":  # At the end the permuted b as it is, to the bit.
            states = [
                self.state_permuted if alpha == 1 else state
                for state, alpha in zip(states, alphas, strict=True)
            ]
        if variant in VARIANTS:
            self._find_corrections(states, alphas, variant)
        found = [self.corrections.get((alpha, variant), Corrections()) for alpha in alphas]
        return list(zip(states, found, strict=True))

    def _find_corrections(
        self, states: Sequence[State], alphas: Sequence[float], variant: str
    ) -> None:
        missing = {
            alpha: state
            for alpha, state in zip(alphas, states, strict=True)
            if alpha not in (0, 1) and (alpha, variant) not in self.corrections
        }
        if not missing:
            return
        found = correct(
            self.graph,
            list(missing.values()),
            (self.state_a, self.state_b),
            self.data,
            self.goal_stats(variant),
            correction_taps(self.graph, variant, self.taps),
            list(missing),
            variant,
            restore=self.restore,
            batch_mean=variant == "forward" and self.averages is not None,
            backend=self.backend,
            ranks=self.ranks,
        )
        for alpha, corrections in zip(missing, found, strict=True):
            self.corrections[alpha, variant] = corrections

    def goal_stats(self, variant: str) -> Mapping[str, PairedMoments]:
        """Return the endpoints' statistics from which a variant takes its goals."""
        averaged = variant == "forward" and self.averages is not None
        return self.averages if averaged and self.averages is not None else self.aligned_stats

    def merge(self, alpha: float, variant: str, *, add_bias: bool = False) -> MergedNetwork:
        """Return the network at alpha, corrected, with the corrections in its weights."""
        return next(self.merge_each([alpha], variant, add_bias=add_bias))

    def merge_each(
        self, alphas: Sequence[float], variant: str, *, add_bias: bool = False
    ) -> Iterator[MergedNetwork]:
        """Yield the network at each alpha, with the same bits as one alpha alone.

        As many weight sets as fit into `WEIGHT_BYTES_PER_PASS` are held at a time, and share one
        pass over the data.
        """
        for share in self._shares(alphas):
            for state, corrections in self.correct(share, variant):
                yield assemble(self.model_a, self.graph, state, corrections, add_bias=add_bias)

    def _shares(self, alphas: Sequence[float]) -> Iterator[Sequence[float]]:
        size = sum(tensor.nbytes for tensor in self.state_a.values())
        per_pass = max(1, WEIGHT_BYTES_PER_PASS // max(1, size))
        for start in range(0, len(alphas), per_pass):
            yield alphas[start : start + per_pass]

    def assess(self, alpha: float, merged: MergedNetwork) -> Assessment | None:
        """Measure a network that was merged so; None if it is as aligned, or data are spent."""
        if not merged.is_changed or not self.data.is_repeatable:
            return None
        goals = {tap: goal(self.aligned_stats[tap], alpha) for tap in merged.corrected}
        ends = (self.state_a, self.state_b)
        return assess(
            self.graph,
            merged,
            ends,
            goals,
            self.data,
            alpha,
            backend=self.backend,
            ranks=self.ranks,
        )

    def folded_deviation(self, merged: MergedNetwork) -> FoldedDeviation | None:
        """Compare a merged network with one whose corrections are explicit layers, if any."""
        if not merged.corrected:
            return None
        return folded_deviation(self.graph, merged, self.data.example[:VERIFIED_IMAGES])

    def measured_each(
        self, alphas: Sequence[float], variant: str
    ) -> Iterator[dict[str, ChannelMoments]]:
        """Yield the merged network's moments at every tap of `stats`, at each alpha.

        As many as `merge_each` has share a pass over the data.
        """
        for share in self._shares(alphas):
            merged = self.correct(share, variant)
            yield from collect_channels(
                self.graph,
                [{**state, **corrections.statistics} for state, corrections in merged],
                self.data,
                taps=tuple(self.stats),
                affines=[corrections.affines for _, corrections in merged],
                networks=[f"merged at alpha {alpha:g}" for alpha in share],
                backend=self.backend,
                stage="variances",
                ranks=self.ranks,
            )


def align(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    *,
    variants: Sequence[str] = ("forward",),
    taps: Sequence[str] | str | None = None,
    restore: str = "both",
    batch_mean: bool = False,
    match_by: str = "weights",
    balance: str = "sign",
    n_samples: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "tf32x3",
    backend: str | None = None,
    verify: bool = True,
    ranks: Ranks = ALONE,
) -> AlignedPair:
    """Collect the statistics in one pass, match, and carry b's channels into a's order and scales.

    Args:
        variants: what the pair will be merged with; decides which statistics are kept
        ranks: whose data it is
        the rest: see `repair`
    """
    restore = check_restore(restore)
    check_match_by(match_by)
    check_batch_mean(batch_mean, variants, ranks)
    device = choose_device(device, model_a)
    data = _open(batches, n_samples, variants, ranks)
    graph = capture_pair(model_a, model_b, data, ranks)
    if "reset_norm" in variants:
        check_has_norms(graph)
    data.device = device
    corrected = {tap for v in variants if v in VARIANTS for tap in correction_taps(graph, v, taps)}
    crossed = set(graph.all_match_taps)
    if "closed_form" in variants:
        crossed |= set(correction_taps(graph, "closed_form", taps))
    wanted = graph.resolve([*corrected, *crossed], ())
    state_a, state_b = state_of(model_a), state_of(model_b)
    own = collect(
        graph,
        state_a,
        state_b,
        data,
        taps=wanted,
        cross=tuple(crossed),
        precision=precision,
        backend=backend,
    )
    stats = merged_stats(own, ranks, overwrite=True)
    _warn_of_few_samples(graph, stats)
    turned = positive_norms(graph, state_a), positive_norms(graph, state_b)
    permutations = match_states(stats, graph.groups, match_by, turned)
    permuted = permute_state(state_b, graph.groups, permutations)
    widths = {tap: graph.tap(tap).channels for tap in stats}
    deviation = None
    if verify:
        few = data.example[:VERIFIED_IMAGES]
        deviation = function_deviation(graph, state_b, permuted, permutations, few)
    balanced = balance_state(graph, state_a, permuted, mode=balance)
    averages = None
    if batch_mean:
        forward = correction_taps(graph, "forward", taps)
        averages = paired_averages(
            graph, state_a, balanced.state, data, taps=forward, backend=backend
        )
    in_order = stats.permuted_b(tap_indices(graph.groups, permutations, widths))
    scales = {tap: scale for tap, scale in balanced.scales.items() if tap in stats}
    return AlignedPair(
        model_a=model_a,
        graph=graph,
        state_a=state_a,
        state_b=balanced.state,
        state_plain=state_b,
        state_permuted=permuted,
        stats=stats,
        aligned_stats=in_order.scaled_b(scales),
        permutations=permutations,
        balance=balanced.report,
        deviation=deviation,
        data=data,
        taps=taps,
        backend=backend,
        restore=restore,
        averages=averages,
        ranks=ranks,
    )


def _warn_of_few_samples(graph: NetworkGraph, stats: PairedStats) -> None:
    """Warn where matching rests on fewer samples than there are channels."""
    few = [tap for tap in graph.match_taps if stats[tap].n_samples < graph.tap(tap).channels]
    if few:
        samples, channels = stats[few[0]].n_samples, graph.tap(few[0]).channels
        warnings.warn(
            f"tap {few[0]!r} saw {samples} samples of {channels} channels, so that many of their "
            "correlations are chance; calibrate with more images than the widest layer has "
            "channels",
            CalibrationWarning,
            stacklevel=4,
        )


def _open(
    batches: Iterable[Any], n_samples: int | None, variants: Sequence[str], ranks: Ranks
) -> Batches:
    """Open the data, and refuse data that can be read once only where it has to be read again."""
    data = open_batches(batches, n_samples, ranks)
    again = [variant for variant in variants if variant in READS_DATA]
    if again and not data.is_repeatable:
        raise CalibrationDataError(
            f"variant {again[0]!r} reads `batches` twice, and an iterator can be read once only; "
            "pass a list or a DataLoader, or use `variant='closed_form'`"
        )
    return data
