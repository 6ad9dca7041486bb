"""The paper on one screen: statistics, matching, permutation, interpolation, REPAIR, folding."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from repair_kernels.alignment import AlignedPair, align
from repair_kernels.calibration.assessment import check_on_worse, closed_form_premise
from repair_kernels.calibration.variants import check_variant
from repair_kernels.endpoints import check_alpha, choose_device, preserved_rng
from repair_kernels.errors import ArgumentError, CalibrationWarning
from repair_kernels.evaluation import Path
from repair_kernels.matching.matching import matched_correlation
from repair_kernels.progress import shown
from repair_kernels.ranks import Ranks
from repair_kernels.repair_report import (
    RepairReport,
    RepairResult,
    unlike_scales,
)
from repair_kernels.sweeping import Evaluate, sweep_pair


def repair(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    *,
    alpha: float = 0.5,
    variant: str = "distilled",
    taps: Sequence[str] | str | None = None,
    restore: str = "both",
    batch_mean: bool = False,
    match_by: str = "weights",
    balance: str = "sign",
    n_samples: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "tf32x3",
    backend: str | None = None,
    progress: bool = False,
    verify: bool = True,
    assess: bool = True,
    on_worse: str = "aligned",
    add_bias: bool = False,
    process_group: Any = None,
) -> RepairResult:
    """Merge two networks: match, permute, interpolate, restore their statistics.

    Args:
        model_a, model_b: networks of one architecture, trained apart; left as they are
        batches: calibration data, such as 5,000 training images; read once, once more by every
            variant but "closed_form" ("distilled": twice), and once more to assess the result; with
            class numbers as second item, if there are any
        alpha: weight of network b, in [0, 1]; 0 and 1 give a and the permuted b back
        variant: "distilled", "forward", "sequential", "closed_form", "reset_norm", or "none" to
            align only; docs/repair.md says what each does and takes. "distilled" gives the best
            networks and takes longest: as long as ten epochs of training on `batches`
        taps: what to correct; names, patterns and kinds, see `calibrate`
        restore: "both", or the "std" or the "mean" alone; see `calibrate`
        batch_mean: average over batches as the published code does; see `calibrate`
        match_by: what channels are matched by: correlations and "weights" together, or the
            "correlation" or "covariance" of activations alone; see `match`
        balance: which of b's scale symmetries are used before weights are averaged: "sign",
            "layer", "channel" or "none"; see `rk.balance`
        n_samples: how many images to use at most
        device, precision, backend, progress: see `compute_stats`
        verify: run the permuted b beside b in float64 on a few images, and stop if their functions
            differ, see `NetworkGraph.verify`; and the merged network beside one whose corrections
            are layers of their own
        assess: measure the corrected network on the calibration data: how exactly it meets its
            goals, and its loss beside that of the network that was aligned only (cross-entropy if
            batches have labels, else the divergence from the endpoints); takes one more pass, and
            is left out where data can be read once only
        on_worse: what to do if the correction made that loss worse: return the "aligned" network in
            its place, or only "warn". There is a `CalibrationWarning` either way
        add_bias: whether layers without a bias may get one; see `calibrate`
        process_group: a torch.distributed group: each rank gives its own part of the calibration
            data, and all get the same result, to the bit. See docs/processes.md
    Returns:
        the merged network, the permutations, the endpoints' statistics and a report
    Raises:
        ArgumentError, ArchitectureMismatchError, NonFiniteWeightError, NonFiniteActivationError,
        CalibrationDataError, GraphCaptureError, FunctionChangedError; FailedRankError or
        LostRankError where another rank failed, or is gone
    Source:
        REPAIR (Jordan et al., 2023)
    """
    alpha, variant = check_alpha(alpha), check_variant(variant, also=("none",))
    check_on_worse(on_worse)
    device = choose_device(device, model_a)
    ranks = Ranks(process_group, device)
    is_shown = progress and ranks.is_first
    told = {"alpha": alpha, "variant": variant, "taps": taps, "restore": restore}
    told |= {"match_by": match_by, "balance": balance, "assess": assess}
    told |= {"on_worse": on_worse, "add_bias": add_bias}
    with preserved_rng(device), shown(is_shown), ranks.together("repair", **told):
        pair = align(
            model_a,
            model_b,
            batches,
            variants=(variant,),
            taps=taps,
            restore=restore,
            batch_mean=batch_mean,
            match_by=match_by,
            balance=balance,
            n_samples=n_samples,
            device=device,
            precision=precision,
            backend=backend,
            verify=verify,
            ranks=ranks,
        )
        merged = pair.merge(alpha, variant, add_bias=add_bias)
        folded = pair.folded_deviation(merged) if verify else None
        found = pair.assess(alpha, merged) if assess else None
        if found is not None and found.is_worse and on_worse == "aligned":
            kept = pair.merge(alpha, "none")
        else:
            kept = merged
        said = pair.data.doubts()
    if folded is not None:
        said += folded.doubts()
    report = RepairReport(
        variant=variant,
        alpha=alpha,
        permutation_deviation=pair.deviation,
        folding_deviation=None if folded is None else folded.found,
        matched_correlation=matched_correlation(pair.stats, pair.graph.groups, pair.permutations),
        corrected=kept.corrected,
        explicit=kept.explicit,
        dead_channels={tap: _dead_in_both(pair, tap) for tap in kept.corrected},
        n_images=pair.stats.n_images,
        norms_reset=kept.norms_reset,
        exactness={} if found is None else found.exactness,
        losses=None if found is None else found.losses,
        returned="corrected" if kept is merged else "aligned",
        cancelled=merged.corrections.cancelled,
        balance=pair.balance,
        warnings=(),
    )
    if found is not None and found.is_worse:
        said += (found.worse(report.returned),)
    for warning in said:
        warnings.warn(warning, CalibrationWarning, stacklevel=2)
    premise = closed_form_premise(report.exactness) if variant == "closed_form" else ()
    report = replace(report, warnings=(*said, *premise, *unlike_scales(report)))
    return RepairResult(kept.model, pair.permutations, pair.stats, report)


def sweep(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    evaluate: Evaluate,
    *,
    alphas: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    variants: Sequence[str] = ("none", "forward"),
    taps: Sequence[str] | str | None = None,
    restore: str = "both",
    batch_mean: bool = False,
    match_by: str = "weights",
    balance: str = "sign",
    n_samples: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "tf32x3",
    backend: str | None = None,
    progress: bool = False,
    verify: bool = True,
    variance_ratios: bool = True,
    process_group: Any = None,
) -> Path:
    """Evaluate the path between two networks.

    The endpoints' statistics are computed once for all of it, and each variant reads the data once
    for all alphas, "distilled" twice (as many alphas as have room in memory share a pass:
    `alignment.WEIGHT_BYTES_PER_PASS`).

    Args:
        evaluate: called with each merged network, returns its metrics by name, such as {"loss":
            ..., "accuracy": ...}
        alphas: weights of network b, in [0, 1]; the ends are added where they are missing
        variants: of REPAIR, and "none" (aligned only) and "plain" (neither aligned nor corrected)
        batch_mean: lets "forward", which must be among the variants, average over batches
        variance_ratios: whether to measure the variance-collapse ratio at every tap, by one more
            pass for each variant; not where `batches` can be read once only
        process_group: as in `repair`; every rank calls `evaluate` with the same networks in the
            same order, so it may use the group, too: to share the test images, for instance
        the rest: see `repair`
    Returns:
        a `Path`: curves, barriers, variance-collapse ratios, plots
    """
    points = [check_alpha(alpha) for alpha in alphas]
    chosen = tuple(check_variant(variant, also=("none", "plain")) for variant in variants)
    if not chosen:
        raise ArgumentError("`variants` must name at least one variant; it is empty; add 'none'")
    device = choose_device(device, model_a)
    ranks = Ranks(process_group, device)
    is_shown = progress and ranks.is_first
    told = {"alphas": points, "variants": chosen, "taps": taps, "restore": restore}
    told |= {"balance": balance, "match_by": match_by, "variance_ratios": variance_ratios}
    with preserved_rng(device), shown(is_shown), ranks.together("sweep", **told):
        pair = align(
            model_a,
            model_b,
            batches,
            variants=chosen,
            taps=taps,
            restore=restore,
            batch_mean=batch_mean,
            match_by=match_by,
            balance=balance,
            n_samples=n_samples,
            device=device,
            precision=precision,
            backend=backend,
            verify=verify,
            ranks=ranks,
        )
        ends = (dict(evaluate(model_a)), dict(evaluate(model_b)))
        path = sweep_pair(pair, evaluate, points, chosen, ends, variance_ratios=variance_ratios)
        said = pair.data.doubts()
    for doubt in said:
        warnings.warn(doubt, CalibrationWarning, stacklevel=2)
    return replace(path, warnings=(*said, *path.warnings))


def _dead_in_both(pair: AlignedPair, tap: str) -> int:
    moments = pair.aligned_stats[tap]
    return int((moments.dead_a & moments.dead_b).sum())
