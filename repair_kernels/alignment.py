"""Two endpoints brought into one order, ready to be merged at any alpha and in any variant."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from repair_kernels.affine import ChannelAffine
from repair_kernels.batches import Batches
from repair_kernels.calibration import VARIANTS, correct, correction_taps
from repair_kernels.channel_statistics import collect_channels
from repair_kernels.endpoints import capture_pair, choose_device
from repair_kernels.errors import ArgumentError, CalibrationDataError
from repair_kernels.evaluation import Path, variance_ratio
from repair_kernels.explicit import attach
from repair_kernels.folding import fold
from repair_kernels.graph import NetworkGraph, State, state_of
from repair_kernels.interpolation import interpolate_states
from repair_kernels.matching import match
from repair_kernels.new_biases import give_biases
from repair_kernels.paired_stats import PairedStats
from repair_kernels.permutation import Permutation, permute_state, tap_indices, with_state
from repair_kernels.statistics import collect
from repair_kernels.verification import function_deviation

VERIFIED_IMAGES = 8
# Weight sets that share a pass over the data: 20 of a ResNet50's, in float32.
WEIGHT_BYTES_PER_PASS = 2 * 2**30
Evaluate = Callable[[nn.Module], Mapping[str, float]]
Ends = tuple[Mapping[str, float], Mapping[str, float]]


@dataclass(frozen=True)
class MergedNetwork:
    """A merged network, the taps that were corrected, and those that are explicit layers."""

    model: nn.Module
    corrected: tuple[str, ...]
    explicit: tuple[str, ...]


@dataclass(frozen=True)
class AlignedPair:
    """Two endpoints on one graph, b's channels in a's order, ready to be merged at any alpha.

    Attributes:
        model_a: network a, as it was given
        graph: the graph of both
        state_a, state_b: the weight sets; b's is permuted
        state_plain: b's weight set as it was given
        stats: the endpoints' statistics, b not permuted
        aligned_stats: the same with b's channels in a's order
        permutations: by group
        deviation: largest difference that the permutation made to b's output, relative to its
            largest output; None if that was not asked for
        data: the calibration data
        taps: what to correct, as the caller said
        backend: see `ops`
        corrections: those found so far, by alpha and variant
    """

    model_a: nn.Module
    graph: NetworkGraph
    state_a: State
    state_b: State
    state_plain: State
    stats: PairedStats
    aligned_stats: PairedStats
    permutations: Mapping[str, Permutation]
    deviation: float | None
    data: Batches
    taps: Sequence[str] | str | None
    backend: str | None
    corrections: dict[tuple[float, str], dict[str, ChannelAffine]] = field(default_factory=dict)

    def correct(
        self, alphas: Sequence[float], variant: str
    ) -> list[tuple[State, dict[str, ChannelAffine]]]:
        """Return for each alpha the interpolated weight set, and the correction of each tap."""
        state_b = self.state_plain if variant == "plain" else self.state_b
        states = interpolate_states(self.state_a, state_b, alphas, backend=self.backend)
        if variant in VARIANTS:
            self._find_corrections(states, alphas, variant)
        found = [self.corrections.get((alpha, variant), {}) for alpha in alphas]
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
            self.data,
            self.aligned_stats,
            correction_taps(self.graph, variant, self.taps),
            list(missing),
            variant,
            backend=self.backend,
        )
        for alpha, affines in zip(missing, found, strict=True):
            self.corrections[alpha, variant] = affines

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
        size = sum(tensor.nbytes for tensor in self.state_a.values())
        per_pass = max(1, WEIGHT_BYTES_PER_PASS // max(1, size))
        for start in range(0, len(alphas), per_pass):
            for state, affines in self.correct(alphas[start : start + per_pass], variant):
                folded, explicit = fold(self.graph, state, affines)
                model = with_state(self.model_a, folded)
                if add_bias:
                    explicit = give_biases(model, self.graph, explicit)
                model = attach(model, self.graph, explicit)
                yield MergedNetwork(model, tuple(affines), tuple(explicit))

    def sweep(
        self, evaluate: Evaluate, alphas: Sequence[float], variants: Sequence[str], ends: Ends
    ) -> Path:
        """Evaluate every variant at every alpha; `ends` holds the metrics of the endpoints."""
        points = sorted({0.0, 1.0, *alphas})
        metrics: dict[str, dict[str, tuple[float, ...]]] = {}
        for variant in variants:
            merged = self.merge_each(points[1:-1], variant)
            inner = [dict(evaluate(network.model)) for network in merged]
            rows = [ends[0], *inner, ends[1]]
            _check_same_metrics(rows)
            metrics[variant] = {name: tuple(float(row[name]) for row in rows) for name in rows[0]}
        return Path(alphas=tuple(points), metrics=metrics)

    def variance_ratios(self, alpha: float, variant: str) -> dict[str, float]:
        """Return per tap how much of the endpoints' variance the network at alpha has (§3.1)."""
        [(state, affines)] = self.correct([alpha], variant)
        taps = tuple(self.stats)
        [seen] = collect_channels(
            self.graph, [state], self.data, taps=taps, affines=[affines], backend=self.backend
        )
        ends = self.stats
        return {t: variance_ratio(seen[t].var, ends[t].var_a, ends[t].var_b, alpha) for t in taps}


def align(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    *,
    variants: Sequence[str] = ("forward",),
    taps: Sequence[str] | str | None = None,
    n_samples: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "tf32x3",
    backend: str | None = None,
    progress: bool = False,
    verify: bool = True,
) -> AlignedPair:
    """Collect the statistics in one pass, match, and carry b's channels into a's order.

    Args:
        variants: what the pair will be merged with; decides which statistics are kept
        the rest: see `repair`
    """
    device = choose_device(device, model_a)
    data = _open(batches, n_samples, variants)
    graph = capture_pair(model_a, model_b, data)
    data.device = device
    corrected = {tap for v in variants if v in VARIANTS for tap in correction_taps(graph, v, taps)}
    crossed = set(graph.match_taps)
    if "closed_form" in variants:
        crossed |= set(correction_taps(graph, "closed_form", taps))
    wanted = graph.resolve([*corrected, *crossed], ())
    state_a, state_b = state_of(model_a), state_of(model_b)
    stats = collect(
        graph,
        state_a,
        state_b,
        data,
        taps=wanted,
        cross=tuple(crossed),
        precision=precision,
        backend=backend,
        progress=progress,
    )
    permutations = match(stats, graph.groups)
    permuted = permute_state(state_b, graph.groups, permutations)
    widths = {tap: graph.tap(tap).channels for tap in stats}
    deviation = None
    if verify:
        few = data.first[:VERIFIED_IMAGES]
        deviation = function_deviation(graph, state_b, permuted, permutations, few)
    return AlignedPair(
        model_a=model_a,
        graph=graph,
        state_a=state_a,
        state_b=permuted,
        state_plain=state_b,
        stats=stats,
        aligned_stats=stats.permuted_b(tap_indices(graph.groups, permutations, widths)),
        permutations=permutations,
        deviation=deviation,
        data=data,
        taps=taps,
        backend=backend,
    )


def _check_same_metrics(rows: Sequence[Mapping[str, float]]) -> None:
    for row in rows:
        if row.keys() != rows[0].keys():
            raise ArgumentError(
                "`evaluate` must return the same metrics for every network; it returned "
                f"{', '.join(rows[0]) or 'none'} for network a and {', '.join(row) or 'none'} for "
                "another; return all of them each time"
            )


def _open(batches: Iterable[Any], n_samples: int | None, variants: Sequence[str]) -> Batches:
    """Open the data, and refuse data that can be read once only where it has to be read again."""
    data = Batches(batches, n_samples=n_samples)
    again = [variant for variant in variants if variant in ("forward", "sequential")]
    if again and not data.is_repeatable:
        raise CalibrationDataError(
            f"variant {again[0]!r} reads `batches` twice, and an iterator can be read once only; "
            "pass a list or a DataLoader, or use `variant='closed_form'`"
        )
    return data
