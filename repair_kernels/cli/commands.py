"""Matching, merging, and the path between two networks."""

import argparse
import json
from pathlib import Path as FilePath
from typing import Any

from repair_kernels.alignment import VERIFIED_IMAGES
from repair_kernels.atomic import atomic_path
from repair_kernels.batches import Batches
from repair_kernels.checkpoints import save_state_dict
from repair_kernels.cli.provenance import made_by
from repair_kernels.cli.sources import load_data, load_models
from repair_kernels.graph import trace
from repair_kernels.matching import match
from repair_kernels.metrics import classifier_metrics
from repair_kernels.paired_stats import PairedStats
from repair_kernels.pipeline import repair, sweep


def run_match(options: argparse.Namespace) -> None:
    """Match the channels of two networks from a statistics file and write b in a's order."""
    model_a, model_b = load_models(options)
    data = load_data(options.data, options.data_arg, options.batch_size)
    batch = Batches(data).first.to(options.device or "cpu")
    graph = trace(model_a, batch)
    permutations = match(PairedStats.load(options.stats), graph.groups)
    if options.verify:
        graph.verify(model_b, batch[:VERIFIED_IMAGES], permutations=permutations)
    written = json.dumps({name: p.indices.tolist() for name, p in permutations.items()})
    with atomic_path(options.output) as temporary:
        temporary.write_text(written)
    print(f"{len(permutations)} groups matched, written to {options.output}")


def run_merge(options: argparse.Namespace) -> None:
    """Merge two checkpoints into one."""
    model_a, model_b = load_models(options)
    result = repair(
        model_a,
        model_b,
        load_data(options.data, options.data_arg, options.batch_size),
        alpha=options.alpha,
        variant=options.variant,
        taps=options.tap or None,
        restore=options.restore,
        batch_mean=options.batch_mean,
        balance=options.balance,
        verify=options.verify,
        assess=options.assess,
        on_worse=options.on_worse,
        **_common(options),
    )
    variant = options.variant if result.report.returned == "corrected" else "none"
    made = made_by(options.alpha, variant, result.report.explicit)
    made["sources"] = json.dumps([str(options.a), str(options.b)])
    save_state_dict(result.model.state_dict(), options.output, metadata=made)
    print(result.report)
    print(f"written to {options.output}")


def run_sweep(options: argparse.Namespace) -> None:
    """Evaluate the path between two networks."""
    model_a, model_b = load_models(options)
    measured = options.eval_data or options.data
    arguments = options.eval_data_arg if options.eval_data else options.data_arg
    path = sweep(
        model_a,
        model_b,
        load_data(options.data, options.data_arg, options.batch_size),
        classifier_metrics(
            load_data(measured, arguments, options.batch_size), device=options.device
        ),
        alphas=[i / (options.points - 1) for i in range(options.points)],
        variants=options.variant or ("none", "forward"),
        taps=options.tap or None,
        restore=options.restore,
        batch_mean=options.batch_mean,
        balance=options.balance,
        verify=options.verify,
        **_common(options),
    )
    folder = FilePath(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    path.to_csv(folder / "barrier.csv")
    path.variances_to_csv(folder / "variance_collapse.csv")
    if options.plot:
        path.plot(folder / "barrier.png")
        path.plot_variances(folder / "variance_collapse.png")
    print(path.table())
    print(f"\nwritten to {folder}")


def _common(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "n_samples": options.samples,
        "device": options.device,
        "precision": options.precision,
        "progress": not options.quiet,
    }
