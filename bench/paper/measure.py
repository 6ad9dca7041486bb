"""What is measured of a pair of endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

import repair_kernels as rk
from bench.paper.experiments import Experiment
from bench.paper.points import Point
from bench.paper.sizes import Size
from bench.paper.ways import WAYS, aligned_for, variants_of
from repair_kernels.alignment import AlignedPair, align
from repair_kernels.sweeping import variance_ratios

FILTERS = 16
Check = Callable[[], None]


def measure(
    models: Sequence[nn.Module],
    calibration: Iterable[Any],
    tests: Iterable[Any],
    experiment: Experiment,
    point: Point,
    size: Size,
    *,
    device: torch.device,
    check: Check = lambda: None,
) -> dict[str, Any]:
    """Merge a pair in every way of an experiment and return what the results are worth.

    Args:
        models: both endpoints
        calibration, tests: labelled batches
        check: called before each way; raises when time is up
    Returns:
        "endpoints": metrics of both; "curves": for each way alphas and metrics there; "collapse":
        for each way the share of variance at each tap; "filters": those of the first layers
    """
    names = point.ways or experiment.ways
    evaluate = rk.classifier_metrics(tests, device=device)
    variants = variants_of(names)
    pair = align(models[0], models[1], calibration, variants=variants, device=device)
    pairs = aligned_for(pair, names)
    row: dict[str, Any] = {"endpoints": [evaluate(model) for model in models], "curves": {}}
    for name in names:
        check()
        way = WAYS[name]
        alphas = size.alphas(experiment.curve, way.slow)
        merged = pairs[name].merge_each(alphas, way.variant)
        found = [evaluate(network.model) for network in merged]
        row["curves"][name] = {"alphas": list(alphas), **_columns(found)}
        print(f"    {way.label:32}{row['curves'][name]['accuracy'][len(alphas) // 2]:8.2%}")
    if experiment.collapse:
        row["collapse"] = {name: collapse(pairs[name], WAYS[name].variant) for name in names}
    if experiment.filters:
        row["filters"] = first_filters(pair)
    return row


def collapse(pair: AlignedPair, variant: str) -> dict[str, float]:
    """Return the share of the endpoints' variance at every activation and block, at alpha = .5."""
    return {
        tap: round(ratio, 5)
        for tap, ratio in variance_ratios(pair, 0.5, variant).items()
        if pair.graph.tap(tap).kind in ("activation", "block")
    }


def first_filters(pair: AlignedPair) -> dict[str, Any]:
    """Return the largest filters of a's first layer, and b's that match them."""
    name = next(name for name, tensor in pair.state_a.items() if tensor.dim() in (2, 4))
    weight_a, weight_b = (s[name].float().cpu() for s in (pair.state_a, pair.state_permuted))
    order = weight_a.flatten(1).norm(dim=1).argsort(descending=True)[:FILTERS]
    return {
        "layer": name,
        "a": [_nested(weight_a[channel]) for channel in order],
        "b": [_nested(weight_b[channel]) for channel in order],
    }


def _nested(values: torch.Tensor) -> list:
    return (values * 1e4).round().div(1e4).tolist()


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [round(row[name], 6) for row in rows] for name in ("accuracy", "loss")}
