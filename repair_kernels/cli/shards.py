"""`repair-kernels stats` and `merge-stats`: one pass over the data, in shards and after kills."""

import argparse
import os
from pathlib import Path

from repair_kernels.atomic import remove_leftovers
from repair_kernels.cli.data import load_data
from repair_kernels.cli.files import check_output
from repair_kernels.cli.networks import load_models
from repair_kernels.cli.processes import Process
from repair_kernels.cli.results import Result
from repair_kernels.errors import ArgumentError
from repair_kernels.images import ImageLoader
from repair_kernels.statistics.collecting import compute_stats
from repair_kernels.statistics.parts import merge_files
from repair_kernels.statistics.resuming import Checkpointing


def run_stats(options: argparse.Namespace, process: Process) -> Result:
    """Compute the statistics of two networks, or of one shard of the data, and write them."""
    output = check_output(options)
    checkpointing = _checkpointing(options, process)
    model_a, model_b = load_models(options)
    data = load_data(options, process)
    if options.shard and process.size > 1 and not isinstance(data.batches, ImageLoader):
        raise ArgumentError(
            "`--shard` under torchrun needs data whose images have numbers; "
            f"{options.data} has none; give a folder of images or tar shards, or leave one out"
        )
    stats = compute_stats(
        model_a,
        model_b,
        data.batches,
        taps=options.tap,
        cross="all" if options.cross_all else options.cross,
        joint=options.joint,
        n_samples=data.n_samples,
        device=options.device,
        precision=options.precision,
        compile=options.compile,
        totals=options.totals,
        shard=options.shard or ("1/1" if process.size == 1 else None),
        checkpointing=checkpointing,
        **process.grouped,
    )
    if process.is_first:
        remove_leftovers(output)
        stats.save(output)
    process.wait()
    if checkpointing is not None:
        if process.size > 1:
            checkpointing = checkpointing.of_rank(process.rank, process.size)
        Path(checkpointing.path).unlink(missing_ok=True)
    said = f" (shard {options.shard})" if options.shard else ""
    return Result(
        f"{len(stats)} taps, {stats.n_images} images{said}, written to {output}",
        {
            "output": output,
            "taps": list(stats),
            "images": stats.n_images,
            "shard": options.shard,
            "data": data.reference,
        },
    )


def _checkpointing(options: argparse.Namespace, process: Process) -> Checkpointing | None:
    """Return where the pass is kept on its way; with totals by rows over processes it is not."""
    if options.totals != "ranks":
        path = options.checkpoint or f"{os.fspath(options.output)}.partial"
        return Checkpointing(path, options.checkpoint_every, resume=options.resume)
    if process.group is None:
        raise ArgumentError(
            "`--totals ranks` needs processes that torchrun started; this is none; start it as "
            "torchrun --nproc-per-node=N -m repair_kernels ..., or leave it out"
        )
    if options.resume or options.checkpoint:
        raise ArgumentError(
            "`--totals ranks` needs a pass that all processes make in one go; got "
            f"`{'--resume' if options.resume else '--checkpoint'}`; leave one of the two out, or "
            "take `--totals host`"
        )
    return None


def run_merge_stats(options: argparse.Namespace, process: Process) -> Result:
    """Merge the statistics files of shards into one."""
    output = check_output(options)
    stats = merge_files(options.parts, partial=options.partial)
    stats.save(output)
    coverage = stats.fingerprint.coverage if stats.fingerprint else None
    is_whole = not (coverage and (coverage.missing or coverage.missing_shards))
    said = "" if is_whole else " (not all)"
    parts = f"{len(options.parts)} part{'' if len(options.parts) == 1 else 's'}"
    return Result(
        f"{parts}, {stats.n_images} images{said}, written to {output}",
        {
            "output": output,
            "parts": options.parts,
            "images": stats.n_images,
            "missing_images": coverage.missing if coverage else [],
            "missing_shards": coverage.missing_shards if coverage else [],
        },
    )
