"""The options of `repair-kernels stats` and `merge-stats`."""

from typing import Any

from repair_kernels.cli import arguments
from repair_kernels.cli.shards import run_merge_stats, run_stats
from repair_kernels.statistics.memory_plan import PLACES


def add(commands: Any) -> None:
    """Add both commands to the parser."""
    _add_stats(commands)
    _add_merge_stats(commands)


def _add_stats(commands: Any) -> None:
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
    group = parser.add_argument_group("shards, and going on after a stop")
    group.add_argument(
        "--shard",
        metavar="K/N",
        help="use this part of the data only, such as 3/16; `merge-stats` puts parts together",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoint of a run that was stopped, if there is one",
    )
    group.add_argument(
        "--checkpoint",
        metavar=arguments.FILE,
        help="where it is kept until the end (default: OUTPUT.partial)",
    )
    group.add_argument(
        "--checkpoint-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how often (default: 60)",
    )
    arguments.add_computing(parser)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile both networks with their statistics (torch.compile)",
    )
    parser.add_argument(
        "--totals",
        choices=PLACES,
        default="auto",
        help="where correlations are summed: on the device; on the host, which is slower; or by "
        "rows over the processes of torchrun (ranks), where no device has room for all of them, "
        "without checkpoints (default: auto: on the device if they fit, else on the host; never "
        "ranks, as checkpoints are kept)",
    )
    arguments.add_printing(parser)


def _add_merge_stats(commands: Any) -> None:
    parser = arguments.add_command(
        commands, "merge-stats", run_merge_stats, "merge the statistics files of shards into one"
    )
    parser.add_argument(
        "parts", nargs="+", metavar=arguments.FILE, help="what `stats --shard` wrote"
    )
    parser.add_argument("--partial", action="store_true", help="allow that parts are missing")
    parser.add_argument(
        "-o", "--output", required=True, metavar=arguments.FILE, help="statistics file to write"
    )
    arguments.add_printing(parser)
