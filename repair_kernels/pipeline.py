"""The paper on one screen: statistics, matching, permutation, interpolation, REPAIR, folding."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from repair_kernels.alignment import AlignedPair, Evaluate, align
from repair_kernels.endpoints import check_alpha, choose_device, preserved_rng
from repair_kernels.errors import ArgumentError
from repair_kernels.evaluation import Path
from repair_kernels.matching import matched_correlation
from repair_kernels.paired_stats import PairedStats
from repair_kernels.permutation import Permutation
from repair_kernels.variants import check_variant


@dataclass(frozen=True)
class RepairReport:
    """What was done to the networks.

    Attributes:
        variant: the variant of REPAIR, or "none"
        alpha: weight of network b
        permutation_deviation: largest difference that the permutation made to b's output, relative
            to its largest output; None if `verify` was off
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
    permutation_deviation: float | None
    matched_correlation: Mapping[str, float]
    corrected: tuple[str, ...]
    explicit: tuple[str, ...]
    dead_channels: Mapping[str, int]
    n_images: int

    def __str__(self) -> str:
        deviation = self.permutation_deviation
        verified = "not verified" if deviation is None else f"deviates by {deviation:.1e}"
        mean = sum(self.matched_correlation.values()) / max(1, len(self.matched_correlation))
        return "\n".join(
            [
                f"variant {self.variant} at alpha {self.alpha:g}, statistics of {self.n_images} "
                "images",
                f"permutation: {len(self.matched_correlation)} groups, mean matched correlation "
                f"{mean:.3f}, the permuted network {verified}",
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
    verify: bool = True,
    add_bias: bool = False,
) -> RepairResult:
    """Merge two networks: match, permute, interpolate, restore their statistics.

    Args:
        model_a, model_b: networks of one architecture, trained apart; left as they are
        batches: calibration data, such as 5,000 training images; read once, and once more by
            "forward" and "sequential"
        alpha: weight of network b, in [0, 1]; 0 and 1 give a and the permuted b back
        variant: "forward", "closed_form", "sequential", or "none" to align only
        taps: what to correct; see `calibrate`
        n_samples: how many images to use at most
        device, precision, backend, progress: see `compute_stats`
        verify: run the permuted b beside b in float64 on a few images, and stop if their functions
            differ; see `NetworkGraph.verify`
        add_bias: whether layers without a bias may get one; see `calibrate`
    Returns:
        the merged network, the permutations, the endpoints' statistics and a report
    Raises:
        ArgumentError, ArchitectureMismatchError, NonFiniteWeightError, NonFiniteActivationError,
        CalibrationDataError, GraphCaptureError, FunctionChangedError
    Source:
        REPAIR (Jordan et al., 2023)
    """
    alpha, variant = check_alpha(alpha), check_variant(variant, also=("none",))
    device = choose_device(device, model_a)
    with preserved_rng(device):
        pair = align(
            model_a,
            model_b,
            batches,
            variants=(variant,),
            taps=taps,
            n_samples=n_samples,
            device=device,
            precision=precision,
            backend=backend,
            progress=progress,
            verify=verify,
        )
        merged = pair.merge(alpha, variant, add_bias=add_bias)
    report = RepairReport(
        variant=variant,
        alpha=alpha,
        permutation_deviation=pair.deviation,
        matched_correlation=matched_correlation(pair.stats, pair.graph.groups, pair.permutations),
        corrected=merged.corrected,
        explicit=merged.explicit,
        dead_channels={tap: _dead_in_both(pair, tap) for tap in merged.corrected},
        n_images=pair.stats.n_images,
    )
    return RepairResult(merged.model, pair.permutations, pair.stats, report)


def sweep(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    evaluate: Evaluate,
    *,
    alphas: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    variants: Sequence[str] = ("none", "forward"),
    taps: Sequence[str] | str | None = None,
    n_samples: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "tf32x3",
    backend: str | None = None,
    progress: bool = False,
    verify: bool = True,
) -> Path:
    """Evaluate the path between two networks.

    The endpoints' statistics are computed once for all of it, and "forward" reads the data once for
    all alphas (as many as have room in memory: `alignment.WEIGHT_BYTES_PER_PASS`).

    Args:
        evaluate: called with each merged network, returns its metrics by name, such as {"loss":
            ..., "accuracy": ...}
        alphas: weights of network b, in [0, 1]; the ends are added where they are missing
        variants: of REPAIR, and "none" (aligned only) and "plain" (neither aligned nor corrected)
        the rest: see `repair`
    Returns:
        a `Path`: curves, barriers, plots
    """
    points = [check_alpha(alpha) for alpha in alphas]
    chosen = tuple(check_variant(variant, also=("none", "plain")) for variant in variants)
    if not chosen:
        raise ArgumentError("`variants` must name at least one variant; it is empty; add 'none'")
    device = choose_device(device, model_a)
    with preserved_rng(device):
        pair = align(
            model_a,
            model_b,
            batches,
            variants=chosen,
            taps=taps,
            n_samples=n_samples,
            device=device,
            precision=precision,
            backend=backend,
            progress=progress,
            verify=verify,
        )
        ends = (dict(evaluate(model_a)), dict(evaluate(model_b)))
        return pair.sweep(evaluate, points, chosen, ends)


def _dead_in_both(pair: AlignedPair, tap: str) -> int:
    moments = pair.aligned_stats[tap]
    return int((moments.dead_a & moments.dead_b).sum())
