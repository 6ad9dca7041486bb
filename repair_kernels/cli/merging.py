"""`repair-kernels merge`: one checkpoint from two."""

import argparse
import json
from typing import Any

from repair_kernels.calibration.assessment import ON_WORSE
from repair_kernels.calibration.variants import VARIANTS
from repair_kernels.checkpoints import save_state_dict
from repair_kernels.checkpoints.writing import check_suffix
from repair_kernels.cli import arguments
from repair_kernels.cli.data import load_data
from repair_kernels.cli.files import check_output
from repair_kernels.cli.networks import keyword_arguments, load_models
from repair_kernels.cli.processes import Process
from repair_kernels.cli.provenance import computing, made_by, readable, sources
from repair_kernels.cli.results import Result
from repair_kernels.pipeline import repair

CHOSEN = (
    *("match_by", "balance", "tap", "restore", "batch_mean"),
    *("add_bias", "assess", "on_worse", "precision"),
)
"""Options of which a merged file says how they were set."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = arguments.add_command(commands, "merge", run_merge, "merge two checkpoints into one")
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="weight of network b, in [0, 1] (default: 0.5)"
    )
    parser.add_argument(
        "--variant",
        default="distilled",
        choices=(*VARIANTS, "none"),
        help="of REPAIR (default: distilled; as long as ten epochs on --data)",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar=arguments.FILE,
        help="checkpoint to write: .safetensors, .pt, .pth, .th or .bin; it holds how it was made",
    )
    arguments.add_verify(parser)
    parser.add_argument(
        "--assess",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the merged network on --data (default)",
    )
    parser.add_argument(
        "--on-worse",
        choices=ON_WORSE,
        default="aligned",
        help="what to write if the correction makes the loss on --data worse: the aligned network, "
        "or the corrected one with a warning (default: aligned)",
    )
    arguments.add_model(parser)
    arguments.add_checkpoints(parser)
    arguments.add_data(parser)
    arguments.add_repair(parser)
    parser.add_argument(
        "--add-bias",
        action="store_true",
        help="give layers without a bias one, where nothing else holds a shift",
    )
    arguments.add_computing(parser)
    arguments.add_printing(parser)


def run_merge(options: argparse.Namespace, process: Process) -> Result:
    """Merge two checkpoints into one."""
    output = check_output(options)
    check_suffix(output)
    model_a, model_b = load_models(options)
    data = load_data(options, process)
    result = repair(
        model_a,
        model_b,
        data.batches,
        alpha=options.alpha,
        variant=options.variant,
        taps=options.tap or None,
        restore=options.restore,
        batch_mean=options.batch_mean,
        balance=options.balance,
        match_by=options.match_by,
        n_samples=data.n_samples,
        device=options.device,
        precision=options.precision,
        verify=options.verify,
        assess=options.assess,
        on_worse=options.on_worse,
        add_bias=options.add_bias,
        **process.grouped,
    )
    variant = options.variant if result.report.returned == "corrected" else "none"
    made = made_by(options.alpha, variant, result.report.explicit)
    made |= _origin(options, data.reference, result.report.n_images)
    made["computing"] = computing(options, process)
    if process.is_first:
        save_state_dict(result.model.state_dict(), output, metadata=made)
    return Result(
        f"{result.report}\nwritten to {output}",
        {"output": output, "metadata": readable(made), "report": result.report},
    )


def _origin(options: argparse.Namespace, data: dict[str, Any], images: int) -> dict[str, str]:
    """Return what the merged file was made from, and with which options."""
    architecture = {"model": options.model, "arguments": keyword_arguments(options.model_arg)}
    return {
        "sources": sources(options),
        "model": json.dumps(architecture),
        "options": json.dumps({name: getattr(options, name) for name in CHOSEN}),
        "data": json.dumps({**data, "samples": options.samples, "images": images}),
    }
