"""The paper on one screen: statistics, matching, permutation, interpolation, REPAIR, folding."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from repair_kernels.batches import Batches
from repair_kernels.calibration import VARIANTS, check_variant, correct, correction_taps
from repair_kernels.errors import ArgumentError, CalibrationDataError, FunctionChangedError
from repair_kernels.evaluation import Path
from repair_kernels.execution import as_mapping, execute
from repair_kernels.folding import attach, fold
from repair_kernels.graph import NetworkGraph, State, state_of
from repair_kernels.interpolation import interpolate_state
from repair_kernels.matching import match, matched_correlation
from repair_kernels.paired_stats import PairedStats
from repair_kernels.permutation import Permutation, permute_state, tap_indices, with_state
from repair_kernels.statistics import capture_pair, check_alpha, collect, device_of, preserved_rng

VERIFIED_IMAGES = 8


@dataclass(frozen=True)
class RepairReport:
    """What was done to the networks.

    Attributes:
        variant: the variant of REPAIR, or "none"
        alpha: weight of network b
        permutation_deviation: largest difference that the permutation made to b's output, relative
          to its largest output
        matched_correlation: by group, the mean correlation of matched channels
        corrected: taps that were corrected
        explicit: those of them whose correction stays as a `ChannelAffine` layer, because no weight
          can hold it
        dead_channels: by corrected tap, how many channels were left uncorrected because both
          endpoints' are dead
        n_images: how many images the statistics saw
    """

    variant: str
    alpha: float
    permutation_deviation: float
    matched_correlation: Mapping[str, float]
    corrected: tuple[str, ...]
    explicit: tuple[str, ...]
    dead_channels: Mapping[str, int]
    n_images: int

    def __str__(self) -> str:
        mean = sum(self.matched_correlation.values()) / max(1, len(self.matched_correlation))
        return "\n".join(
            [
                f"variant {self.variant} at alpha {self.alpha:g}, statistics of {self.n_images} "
                "images",
                f"permutation: {len(self.matched_correlation)} groups, mean matched correlation "
                f"{mean:.3f}, "
                f"largest deviation of the permuted network {self.permutation_deviation:.1e}",
                f"corrected: {len(self.corrected)} taps, of which explicit layers: "
                f"{', '.join(self.explicit) or 'none'}",
                f"dead channels left alone: {sum(self.dead_channels.values())}",
            ]
        )


@dataclass(frozen=True)
class RepairResult:
    """A merged network and how it came about."""

    model: nn.Module
    permutations: Mapping[str, Permutation]
    stats: PairedStats
    """Statistics of the endpoints as they were given (b not permuted)."""
    report: RepairReport


@dataclass(frozen=True)
class AlignedPair:
    """Two endpoints on one graph, b's channels in a's order, with their statistics."""

    graph: NetworkGraph
    state_a: State
    state_b: State
    stats: PairedStats
    """As collected: b not permuted."""
    aligned_stats: PairedStats
    """With b's channels in a's order."""
    permutations: Mapping[str, Permutation]
    deviation: float


def repair(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    *,
    alpha: float = 0.5,
    variant: str = "forward",
    taps: Sequence[str] | str | None = None,
    n_samples: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "tf32x3",
    backend: str | None = None,
    progress: bool = False,
) -> RepairResult:
    """Merge two networks: match, permute, interpolate, restore their statistics.

    Args:     model_a, model_b: networks of one architecture, trained apart; left as they are
              batches: calibration data, such as 5,000 training images; read once, and once more by
                "forward" and "sequential"
              alpha: weight of network b, in [0, 1]; 0 and 1 give a and the permuted b back
              variant: "forward", "closed_form", "sequential", or "none" to align only
              taps: what to correct; see `calibrate`
              n_samples: how many images to use at most
              device, precision, backend, progress: see `compute_stats`
    Returns:  the merged network, the permutations, the endpoints' statistics and a report
    Raises:   ArgumentError, ArchitectureMismatchError, NonFiniteWeightError,
              NonFiniteActivationError,
              CalibrationDataError, GraphCaptureError, FunctionChangedError
    Source:   REPAIR (Jordan et al., 2023)
    """
    alpha, variant = check_alpha(alpha), check_variant(variant, also=("none",))
    device = device_of(model_a) if device is None else torch.device(device)
    with preserved_rng(device):
        data = _open(batches, n_samples, (variant,))
        pair = align(model_a, model_b, data, (variant,), taps, device, precision, backend, progress)
        model, corrected, explicit = merge(model_a, pair, data, alpha, variant, taps, backend)
    report = RepairReport(
        variant=variant,
        alpha=alpha,
        permutation_deviation=pair.deviation,
        matched_correlation=matched_correlation(pair.stats, pair.graph.groups, pair.permutations),
        corrected=corrected,
        explicit=explicit,
        dead_channels={tap: _dead_in_both(pair, tap) for tap in corrected},
        n_images=pair.stats.n_images,
    )
    return RepairResult(model, pair.permutations, pair.stats, report)


def sweep(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    evaluate: Callable[[nn.Module], Mapping[str, float]],
    *,
    alphas: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    variants: Sequence[str] = ("none", "forward"),
    taps: Sequence[str] | str | None = None,
    n_samples: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "tf32x3",
    backend: str | None = None,
    progress: bool = False,
) -> Path:
    """Evaluate the path between two networks.

    The endpoints' statistics are computed once for all of it.

    Args:     evaluate: called with each merged network, returns its metrics by name, such as
              {"loss": ..., "accuracy": ...}
              alphas: weights of network b, in [0, 1]; the ends are added where they are missing
              variants: of REPAIR, and "none" (aligned only) and "plain" (neither aligned nor
                corrected)
              the rest: see `repair`
    Returns:  a `Path`: curves, barriers, plots
    """
    points = sorted({0.0, 1.0, *(check_alpha(alpha) for alpha in alphas)})
    chosen = tuple(check_variant(variant, also=("none", "plain")) for variant in variants)
    if not chosen:
        raise ArgumentError("`variants` must name at least one variant; it is empty")
    device = device_of(model_a) if device is None else torch.device(device)
    with preserved_rng(device):
        data = _open(batches, n_samples, chosen)
        pair = align(model_a, model_b, data, chosen, taps, device, precision, backend, progress)
        ends = {0.0: dict(evaluate(model_a)), 1.0: dict(evaluate(model_b))}
        metrics: dict[str, dict[str, tuple[float, ...]]] = {}
        for variant in chosen:
            rows = []
            for alpha in points:
                if alpha in ends:
                    rows.append(ends[alpha])
                    continue
                if variant == "plain":
                    state = interpolate_state(
                        pair.state_a, state_of(model_b), alpha, backend=backend
                    )
                    merged = with_state(model_a, state)
                else:
                    merged, _, _ = merge(model_a, pair, data, alpha, variant, taps, backend)
                rows.append(dict(evaluate(merged)))
            metrics[variant] = {name: tuple(float(row[name]) for row in rows) for name in rows[0]}
    return Path(alphas=tuple(points), metrics=metrics)


def align(
    model_a: nn.Module,
    model_b: nn.Module,
    data: Batches,
    variants: Sequence[str],
    taps: Sequence[str] | str | None,
    device: torch.device,
    precision: str,
    backend: str | None,
    progress: bool,
) -> AlignedPair:
    """Collect the statistics in one pass, match, and carry b's channels into a's order."""
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
    aligned = stats.permuted_b(tap_indices(graph.groups, permutations, widths))
    deviation = permutation_deviation(graph, state_b, permuted, data.first)
    return AlignedPair(graph, state_a, permuted, stats, aligned, permutations, deviation)


def merge(
    model_a: nn.Module,
    pair: AlignedPair,
    data: Batches,
    alpha: float,
    variant: str,
    taps: Sequence[str] | str | None,
    backend: str | None,
) -> tuple[nn.Module, tuple[str, ...], tuple[str, ...]]:
    """Return an aligned pair interpolated and corrected, the corrected and the explicit taps."""
    state = interpolate_state(pair.state_a, pair.state_b, alpha, backend=backend)
    if variant == "none" or alpha in (0, 1):
        return with_state(model_a, state), (), ()
    chosen = correction_taps(pair.graph, variant, taps)
    affines = correct(
        pair.graph, state, data, pair.aligned_stats, chosen, alpha, variant, backend=backend
    )
    folded, explicit = fold(pair.graph, state, affines)
    return attach(with_state(model_a, folded), pair.graph, explicit), chosen, tuple(explicit)


def permutation_deviation(
    graph: NetworkGraph, state: State, permuted: State, batch: Tensor
) -> float:
    """Return how far a permuted network's output is off, relative to the largest output.

    Computed in float64 on a few images.

    Raises:   FunctionChangedError: when the difference is more than rounding.
    """
    few = batch[:VERIFIED_IMAGES]
    if len(few) == 0:
        return 0.0
    if few.is_floating_point():
        few = few.double()
    with torch.no_grad():
        widened = [
            {
                name: t.double() if t.is_floating_point() else t
                for name, t in as_mapping(s, few.device).items()
            }
            for s in (state, permuted)
        ]
        before, after = execute(graph, widened, few)
    return _largest_deviation(_tensors(before), _tensors(after))


def _largest_deviation(before: list[Tensor], after: list[Tensor]) -> float:
    largest = 0.0
    for x, y in zip(before, after, strict=True):
        deviation = float((x - y).abs().max() / x.abs().max().clamp_min(torch.finfo(x.dtype).tiny))
        # A network that casts inside its forward rounds to the narrower type on the way.
        allowed = 1e-8 if x.dtype == torch.float64 else 1e-2
        if not deviation <= allowed:
            raise FunctionChangedError(
                "the permuted network must compute the same function; its output deviates by "
                f"{deviation:.1e} of the largest "
                "output; a permutation group of this architecture is wrong: please report it"
            )
        largest = max(largest, deviation)
    return largest


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = (
        output.values()
        if isinstance(output, Mapping)
        else output
        if isinstance(output, list | tuple)
        else ()
    )
    return [tensor for value in values for tensor in _tensors(value)]


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


def _dead_in_both(pair: AlignedPair, tap: str) -> int:
    moments = pair.aligned_stats[tap]
    return int((moments.dead_a & moments.dead_b).sum())
