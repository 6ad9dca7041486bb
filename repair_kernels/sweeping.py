"""The path between two aligned endpoints, measured: metrics, barriers, variance collapse (§3.1)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from torch import nn

from repair_kernels.alignment import AlignedPair
from repair_kernels.calibration.assessment import closed_form_premise, exactness_of
from repair_kernels.calibration.goals import goal
from repair_kernels.errors import ArgumentError
from repair_kernels.evaluation import Path, variance_ratio
from repair_kernels.moments import ChannelMoments

Evaluate: TypeAlias = Callable[[nn.Module], Mapping[str, float]]
Ends: TypeAlias = tuple[Mapping[str, float], Mapping[str, float]]


def sweep_pair(
    pair: AlignedPair,
    evaluate: Evaluate,
    alphas: Sequence[float],
    variants: Sequence[str],
    ends: Ends,
    *,
    variance_ratios: bool = True,
) -> Path:
    """Evaluate every variant at every alpha.

    Args:
        evaluate: returns a network's metrics by name
        ends: the metrics of the endpoints
        variance_ratios: whether to measure them, where the data can be read again
    Raises:
        ArgumentError: when `evaluate` does not return the same metrics each time
    """
    points = sorted({0.0, 1.0, *alphas})
    metrics: dict[str, dict[str, tuple[float, ...]]] = {}
    ratios: dict[str, dict[str, tuple[float, ...]]] = {}
    warnings: list[str] = []
    for variant in variants:
        merged = pair.merge_each(points[1:-1], variant)
        rows = [ends[0], *(dict(evaluate(network.model)) for network in merged), ends[1]]
        _check_same_metrics(rows)
        metrics[variant] = {name: tuple(float(row[name]) for row in rows) for name in rows[0]}
        if not variance_ratios or not pair.data.is_repeatable:
            continue
        inner = []
        for alpha, found in zip(
            points[1:-1], pair.measured_each(points[1:-1], variant), strict=True
        ):
            inner.append(_ratios(pair, found, alpha, variant))
            if variant == "closed_form":
                warnings += _premise(pair, found, alpha)
        ratios[variant] = {
            tap: (1.0, *(at_alpha[tap] for at_alpha in inner), 1.0) for tap in pair.stats
        }
    return Path(tuple(points), metrics, ratios, tuple(warnings))


def variance_ratios(pair: AlignedPair, alpha: float, variant: str) -> dict[str, float]:
    """Return per tap how much of the endpoints' variance the network at alpha has (§3.1)."""
    return _ratios(pair, next(pair.measured_each([alpha], variant)), alpha, variant)


def _ratios(
    pair: AlignedPair, found: Mapping[str, ChannelMoments], alpha: float, variant: str
) -> dict[str, float]:
    ends = pair.stats if variant == "plain" else pair.aligned_stats
    return {
        tap: variance_ratio(found[tap].var, held.var_a, held.var_b, alpha)
        for tap, held in ends.items()
    }


def _premise(pair: AlignedPair, found: Mapping[str, ChannelMoments], alpha: float) -> Iterator[str]:
    """Say where the closed form's premise fails at one alpha."""
    corrected = pair.corrections[alpha, "closed_form"].affines
    exactness = {
        tap: exactness_of(found[tap], goal(pair.aligned_stats[tap], alpha)) for tap in corrected
    }
    for said in closed_form_premise(exactness):
        yield f"at alpha {alpha:g} {said}"


def _check_same_metrics(rows: Sequence[Mapping[str, float]]) -> None:
    for row in rows:
        if row.keys() != rows[0].keys():
            raise ArgumentError(
                "`evaluate` must return the same metrics for every network; it returned "
                f"{', '.join(rows[0]) or 'none'} for network a and {', '.join(row) or 'none'} for "
                "another; return all of them each time"
            )
