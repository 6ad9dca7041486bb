"""`repair-kernels stats`: the statistics of two networks, in a file."""

import argparse
from typing import Any

from repair_kernels.cli import arguments
from repair_kernels.cli.data import load_data
from repair_kernels.cli.files import check_output
from repair_kernels.cli.networks import load_models
from repair_kernels.cli.processes import Process
from repair_kernels.cli.results import Result
from repair_kernels.statistics import compute_stats


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = arguments.add_command(
        commands, "stats", run_stats, "compute the statistics of two networks in one pass"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar=arguments.FILE, help="statistics file to write"
    )
    arguments.add_model(parser)
    arguments.add_checkpoints(parser)
    arguments.add_data(parser)
    group = parser.add_argument_group("what is recorded")
    group.add_argument(
        "--tap",
        action="append",
        help=f"where: {arguments.TAP} (default: layers, blocks, and what matching reads)",
    )
    group.add_argument(
        "--cross",
        action="append",
        metavar="TAP",
        help="where all correlations are kept (repeatable; default: where matching reads)",
    )
    group.add_argument("--cross-all", action="store_true", help="keep all correlation matrices")
    group.add_argument(
        "--joint", action="store_true", help="keep correlations within each network as well"
    )
    arguments.add_computing(parser)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile both networks with their statistics (torch.compile)",
    )
    arguments.add_printing(parser)


def run_stats(options: argparse.Namespace, process: Process) -> Result:
    """Compute the statistics of two networks and write them to a file."""
    output = check_output(options)
    model_a, model_b = load_models(options)
    data = load_data(options, process)
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
        **process.grouped,
    )
    if process.is_first:
        stats.save(output)
    return Result(
        f"{len(stats)} taps, {stats.n_images} images, written to {output}",
        {"output": output, "taps": list(stats), "images": stats.n_images, "data": data.reference},
    )
