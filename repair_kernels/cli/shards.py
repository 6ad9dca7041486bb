"""`repair-kernels stats` and `merge-stats`: one pass over the data, in shards and after kills."""

import argparse
import os
from pathlib import Path as FilePath

from repair_kernels.atomic import remove_leftovers
from repair_kernels.cli.sources import load_data, load_models
from repair_kernels.parts import merge_files
from repair_kernels.resuming import Checkpointing
from repair_kernels.statistics import compute_stats


def run_stats(options: argparse.Namespace) -> None:
    """Compute the statistics of two networks, or of one shard of the data, and write them."""
    model_a, model_b = load_models(options)
    partial = FilePath(options.checkpoint or f"{os.fspath(options.output)}.partial")
    stats = compute_stats(
        model_a,
        model_b,
        load_data(options.data, options.data_arg, options.batch_size),
        cross="all" if options.cross_all else None,
        n_samples=options.samples,
        device=options.device,
        precision=options.precision,
        shard=options.shard or "1/1",
        checkpointing=Checkpointing(partial, options.checkpoint_every, resume=options.resume),
        progress=not options.quiet,
    )
    remove_leftovers(options.output)
    stats.save(options.output)
    partial.unlink(missing_ok=True)
    shard = f" (shard {options.shard})" if options.shard else ""
    print(f"{len(stats)} taps, {stats.n_images} images{shard}, written to {options.output}")


def run_merge_stats(options: argparse.Namespace) -> None:
    """Merge the statistics files of shards into one."""
    stats = merge_files(options.parts, partial=options.partial)
    stats.save(options.output)
    coverage = stats.fingerprint.coverage if stats.fingerprint else None
    missing = " (not all)" if coverage and (coverage.missing or coverage.missing_shards) else ""
    print(
        f"{len(options.parts)} parts, {stats.n_images} images{missing}, written to {options.output}"
    )
