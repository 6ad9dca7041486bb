"""`repair-kernels sweep`: the path between two classifiers, in curves and barriers."""

import argparse
from typing import Any

from repair_kernels.calibration.variants import VARIANTS
from repair_kernels.cli import arguments
from repair_kernels.cli.data import load_data, load_test_data
from repair_kernels.cli.files import check_output_folder
from repair_kernels.cli.networks import load_models
from repair_kernels.cli.processes import Process
from repair_kernels.cli.results import Result
from repair_kernels.metrics import classifier_metrics
from repair_kernels.pipeline import sweep

CURVES = ("barrier.csv", "variance_collapse.csv")
PICTURES = ("barrier.png", "variance_collapse.png")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = arguments.add_command(
        commands, "sweep", run_sweep, "evaluate the path between two classifiers"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar=arguments.FOLDER,
        help="folder to write curves and pictures to; made if it is missing",
    )
    parser.add_argument(
        "--points", type=_points, default=11, metavar="N", help="alphas from 0 to 1 (default: 11)"
    )
    parser.add_argument(
        "--variant",
        action="append",
        choices=(*VARIANTS, "none", "plain"),
        help="repeatable (default: none and forward)",
    )
    parser.add_argument(
        "--plot", action=argparse.BooleanOptionalAction, default=True, help="draw it (default)"
    )
    arguments.add_verify(parser)
    arguments.add_model(parser)
    arguments.add_checkpoints(parser)
    arguments.add_data(parser)
    group = parser.add_argument_group("the test data")
    group.add_argument(
        "--eval-data",
        metavar="DATA",
        help="labelled data to measure on, named as --data is (default: --data)",
    )
    group.add_argument(
        "--eval-data-arg",
        action="append",
        default=[],
        metavar=arguments.PAIR,
        help="argument of the callable (repeatable)",
    )
    group.add_argument(
        "--eval-samples",
        type=arguments.positive,
        metavar="N",
        help="how many of these images to measure on at most, taken as by --samples (default: all "
        "of --eval-data; of --data as many as --samples)",
    )
    arguments.add_repair(parser)
    arguments.add_computing(parser)
    arguments.add_printing(parser)


def run_sweep(options: argparse.Namespace, process: Process) -> Result:
    """Evaluate the path between two networks."""
    names = (*CURVES, *PICTURES) if options.plot else CURVES
    folder = check_output_folder(options, names)
    model_a, model_b = load_models(options)
    data = load_data(options, process)
    tests = load_test_data(options, process)
    path = sweep(
        model_a,
        model_b,
        data.batches,
        classifier_metrics(tests, device=options.device, **process.grouped),
        alphas=[i / (options.points - 1) for i in range(options.points)],
        variants=options.variant or ("none", "forward"),
        taps=options.tap or None,
        restore=options.restore,
        batch_mean=options.batch_mean,
        balance=options.balance,
        match_by=options.match_by,
        n_samples=data.n_samples,
        device=options.device,
        precision=options.precision,
        verify=options.verify,
        **process.grouped,
    )
    if process.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        path.to_csv(folder / CURVES[0])
        path.variances_to_csv(folder / CURVES[1])
        if options.plot:
            path.plot(folder / PICTURES[0])
            path.plot_variances(folder / PICTURES[1])
    barriers = {
        variant: {metric: path.barrier(metric, variant=variant) for metric in path.metric_names}
        for variant in path.variants
    }
    written = [folder / name for name in names]
    return Result(
        f"{path.table()}\n\nwritten to {folder}",
        {
            "files": written,
            "alphas": path.alphas,
            "metrics": path.metrics,
            "barriers": barriers,
            "variance_ratios": path.variance_ratios,
            "warnings": path.warnings,
        },
    )


def _points(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 2, got {text!r}")
    return int(text)
