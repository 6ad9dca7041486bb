"""Commands and their options, as `argparse` reads them."""

import argparse
from collections.abc import Callable
from typing import Any

from repair_kernels.assessment import ON_WORSE
from repair_kernels.balancing import MODES
from repair_kernels.cli.commands import run_match, run_merge, run_sweep
from repair_kernels.cli.demo import run_demo
from repair_kernels.cli.shards import run_merge_stats, run_stats
from repair_kernels.goals import RESTORE
from repair_kernels.variants import VARIANTS
from repair_kernels.version import __version__

TAP = "what to correct: a name, a pattern, or conv, block, norm, activation, all (repeatable)"
UNVERIFIED = "do not run the permuted network beside the original"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    whole = argparse.ArgumentParser(
        prog="repair-kernels",
        description="Merge two trained networks of one architecture: match their channels, "
        "interpolate the weights, and repair the statistics (REPAIR).",
        epilog="exit codes: 0 done; 1 an error, explained on standard error; 2 wrong usage",
    )
    whole.add_argument("--version", action="version", version=f"repair-kernels {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="merge the pair that comes with the repository")
    demo.add_argument("-o", "--output", default="demo", help="folder to write (default: demo)")
    demo.set_defaults(run=run_demo)

    stats = _pair_command(commands, "stats", run_stats, "compute the statistics of two networks")
    stats.add_argument("-o", "--output", required=True, help="statistics file to write")
    stats.add_argument("--cross-all", action="store_true", help="keep all correlation matrices")
    stats.add_argument("--shard", metavar="K/N", help="use this part of the data only, as 3/16")
    stats.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint of a run that was killed"
    )
    stats.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="where it is kept (default: OUTPUT.partial)",
    )
    stats.add_argument(
        "--checkpoint-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how often (default: 60)",
    )

    help_text = "merge the statistics files of shards"
    parts = commands.add_parser("merge-stats", help=help_text, description=help_text)
    parts.set_defaults(run=run_merge_stats)
    parts.add_argument("parts", nargs="+", metavar="PART", help="what `stats --shard` wrote")
    parts.add_argument("--partial", action="store_true", help="allow that parts are missing")
    parts.add_argument("-o", "--output", required=True, help="statistics file to write")

    matched = _pair_command(commands, "match", run_match, "match channels from a statistics file")
    matched.add_argument("--stats", required=True, help="what `stats` wrote")
    matched.add_argument("-o", "--output", required=True, help="JSON file of permutations to write")

    merge = _pair_command(commands, "merge", run_merge, "merge two checkpoints into one")
    merge.add_argument("--alpha", type=float, default=0.5, help="weight of network b, in [0, 1]")
    merge.add_argument(
        "--variant",
        default="distilled",
        choices=(*VARIANTS, "none"),
        help="of REPAIR (default: distilled; as long as ten epochs on --data)",
    )
    merge.add_argument("--tap", action="append", help=TAP)
    merge.add_argument("-o", "--output", required=True, help="checkpoint to write")

    path = _pair_command(commands, "sweep", run_sweep, "evaluate the path between two classifiers")
    path.add_argument("--eval-data", help="labelled data to measure on (default: --data)")
    path.add_argument("--eval-data-arg", action="append", default=[], metavar="NAME=VALUE")
    path.add_argument("--points", type=int, default=11, help="alphas from 0 to 1 (default: 11)")
    path.add_argument(
        "--variant",
        action="append",
        choices=(*VARIANTS, "none", "plain"),
        help="repeatable (default: none and forward)",
    )
    path.add_argument("--tap", action="append", help=TAP)
    path.add_argument("--no-plot", dest="plot", action="store_false", help="write no picture")
    path.add_argument("-o", "--output", required=True, help="folder to write")
    merge.add_argument(
        "--no-assess", dest="assess", action="store_false", help="do not measure the merged network"
    )
    merge.add_argument(
        "--on-worse",
        choices=ON_WORSE,
        default="aligned",
        help="what to write if the correction makes the loss on --data worse: the aligned network, "
        "or the corrected one with a warning (default: aligned)",
    )
    for command in (merge, path):
        command.add_argument(
            "--restore",
            choices=RESTORE,
            default="both",
            help="what corrections restore (default: both mean and std)",
        )
        command.add_argument(
            "--balance",
            choices=MODES,
            default="sign",
            help="which scale symmetries bring b to a's scales first (default: sign)",
        )
        command.add_argument(
            "--batch-mean",
            action="store_true",
            help="average over batches as the published code does (variant forward)",
        )
    for command in (matched, merge, path):
        command.add_argument("--no-verify", dest="verify", action="store_false", help=UNVERIFIED)
    return whole


def _pair_command(
    commands: Any, name: str, run: Callable, help_text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(run=run)
    parser.add_argument("--model", required=True, help="what builds it: package.module:callable")
    parser.add_argument(
        "--model-arg", action="append", default=[], metavar="NAME=VALUE", help="repeatable"
    )
    parser.add_argument("--a", required=True, help="checkpoint of a (.safetensors, .pt, .pth)")
    parser.add_argument("--b", required=True, help="checkpoint of b")
    parser.add_argument(
        "--data", required=True, help="batches: package.module:callable, or a file of tensors"
    )
    parser.add_argument(
        "--data-arg", action="append", default=[], metavar="NAME=VALUE", help="repeatable"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="for a file of tensors")
    parser.add_argument("--samples", type=int, help="how many images to use at most")
    parser.add_argument("--device", help="where to run, such as cuda (default: cpu)")
    parser.add_argument("--precision", default="tf32x3", choices=("tf32x3", "tf32", "ieee"))
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser
