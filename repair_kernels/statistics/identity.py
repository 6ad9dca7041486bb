"""The fingerprint of two networks on one graph: digests of the graph and of both weight sets."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.fx import Node
from torch.fx.node import map_aggregate

from repair_kernels.digests import digest_of_tensors, digest_of_text
from repair_kernels.errors import CalibrationWarning, StatisticsMismatchError
from repair_kernels.graph.network import NetworkGraph, State, state_of
from repair_kernels.rules import shape
from repair_kernels.statistics.fingerprint import SHOWN, Coverage, Fingerprint
from repair_kernels.statistics.paired_stats import PairedStats


def identify(
    graph: NetworkGraph,
    state_a: State,
    state_b: State,
    products: Mapping[str, str],
    *,
    data: str | None = None,
    coverage: Coverage | None = None,
) -> Fingerprint:
    """Return what the statistics of two networks are of.

    Args:
        products: by tap which products are kept there, as `PairedMoments.products` calls it
        data, coverage: see `Fingerprint`
    """
    return Fingerprint(
        architecture=architecture_digest(graph, state_a),
        weights_a=digest_of_tensors(state_a),
        weights_b=digest_of_tensors(state_b),
        taps=digest_of_text(*(text for item in products.items() for text in item)),
        data=data,
        coverage=coverage,
    )


def check_networks(stats: PairedStats, model_a: nn.Module, model_b: nn.Module) -> None:
    """Check that statistics are of these two networks; without a fingerprint nothing is known.

    Raises:
        StatisticsMismatchError: they are of others, or a and b have changed places
    Warns:
        CalibrationWarning: they do not cover all images
    """
    if stats.fingerprint is None:
        return
    expected = stats.fingerprint.weights_a, stats.fingerprint.weights_b
    given = tuple(digest_of_tensors(state_of(model)) for model in (model_a, model_b))
    if given != expected:
        which = " and ".join(n for n, x, y in zip("ab", expected, given, strict=True) if x != y)
        turned = " (a and b have changed places)" if given == expected[::-1] else ""
        raise StatisticsMismatchError(
            f"the statistics must be of the two networks given; the weights of {which} differ"
            f"{turned}; give the checkpoints that they were computed from, in the same order, or "
            "compute them anew"
        )
    coverage = stats.fingerprint.coverage
    if coverage is not None and (coverage.missing or coverage.missing_shards):
        shards = ", ".join(coverage.missing_shards[:SHOWN])
        warnings.warn(
            f"the statistics should be of all images; they are of {coverage}"
            f"{f', and shards {shards} are among the missing' if shards else ''}; merge all parts "
            "first (`repair-kernels merge-stats`)",
            CalibrationWarning,
            stacklevel=2,
        )


def architecture_digest(graph: NetworkGraph, state: State) -> str:
    """Return the digest of a graph with the names, shapes and dtypes of its weights.

    Neither the device that it was captured on nor the size of a batch is part of it.
    """
    nodes = (_described(node) for node in graph.nodes)
    weights = (f"{name} {value.dtype} {tuple(value.shape)}" for name, value in state.items())
    sources = (f"{node} {name}" for node, name in graph.sources.items())
    return digest_of_tensors(graph.constants, *nodes, "weights", *sorted(weights), *sources)


def _described(node: Node) -> str:
    if node.op == "placeholder":
        sizes = ("batch" if isinstance(s, torch.SymInt) else str(s) for s in shape(node))
        return f"{node.name} {node.meta['val'].dtype} {' '.join(sizes)}"
    kwargs = {name: value for name, value in node.kwargs.items() if name != "device"}
    args = map_aggregate(node.args, lambda x: "device" if isinstance(x, torch.device) else x)
    return f"{node.name} {_named(node.target)} {args} {kwargs}"


def _named(target: Any) -> str:
    """Return an operator's name; plain functions would show where in memory they lie."""
    if isinstance(target, str) or hasattr(target, "_schema"):
        return str(target)
    function = cast(Callable, target)
    return f"{function.__module__}.{function.__qualname__}"
