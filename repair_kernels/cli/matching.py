"""`repair-kernels match`: b's channels in a's order, from a statistics file."""

import argparse
import json
from typing import Any

from repair_kernels.alignment import VERIFIED_IMAGES
from repair_kernels.atomic import atomic_path
from repair_kernels.balancing import positive_norms
from repair_kernels.cli import arguments
from repair_kernels.cli.data import first_input
from repair_kernels.cli.files import check_output
from repair_kernels.cli.networks import load_models
from repair_kernels.cli.processes import Process
from repair_kernels.cli.results import Result
from repair_kernels.graph.network import state_of, trace
from repair_kernels.matching.matching import match_states, matched_correlation
from repair_kernels.statistics.identity import check_networks
from repair_kernels.statistics.paired_stats import PairedStats


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = arguments.add_command(
        commands, "match", run_match, "match the channels of two networks from a statistics file"
    )
    parser.add_argument("--stats", required=True, metavar=arguments.FILE, help="what `stats` wrote")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar=arguments.FILE,
        help="JSON file of permutations to write: by group, which of b's channels comes where",
    )
    arguments.add_match_by(parser)
    arguments.add_verify(parser)
    arguments.add_model(parser)
    arguments.add_checkpoints(parser)
    arguments.add_data(parser, required=False)
    arguments.add_input_shape(parser)
    parser.add_argument("--device", help="where to run, such as cuda (default: cpu)")
    arguments.add_printing(parser)


def run_match(options: argparse.Namespace, process: Process) -> Result:
    """Match the channels of two networks from a statistics file and write b in a's order."""
    output = check_output(options)
    stats = PairedStats.load(options.stats)
    model_a, model_b = load_models(options)
    check_networks(stats, model_a, model_b)
    batch, is_real = first_input(options)
    batch = batch.to(options.device or "cpu")
    graph = trace(model_a, batch)
    turned = [positive_norms(graph, state_of(model)) for model in (model_a, model_b)]
    permutations = match_states(stats, graph.groups, options.match_by, (turned[0], turned[1]))
    deviation = None
    if options.verify:
        images = batch[:VERIFIED_IMAGES] if is_real else None
        deviation = graph.verify(model_b, images, permutations=permutations)
    written = {name: p.indices.tolist() for name, p in permutations.items()}
    with atomic_path(output) as temporary:
        temporary.write_text(json.dumps(written))
    correlation = matched_correlation(stats, graph.groups, permutations)
    groups = {
        name: {"size": graph.groups[name].size, "correlation": correlation[name]}
        for name in permutations
    }
    return Result(
        f"{len(permutations)} groups matched, written to {output}",
        {"output": output, "groups": groups, "permutation_deviation": deviation},
    )
