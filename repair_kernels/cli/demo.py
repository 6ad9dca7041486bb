"""`repair-kernels demo`: what REPAIR does to the pair of networks of the repository."""

import argparse
import time
from pathlib import Path as FilePath
from typing import Any

from repair_kernels.alignment import AlignedPair, align
from repair_kernels.checkpoints import save_state_dict
from repair_kernels.cli import arguments
from repair_kernels.cli.files import check_output_folder
from repair_kernels.cli.networks import resolve
from repair_kernels.cli.processes import Process
from repair_kernels.cli.provenance import made_by
from repair_kernels.cli.results import Result, say
from repair_kernels.errors import ArgumentError
from repair_kernels.evaluation import Path
from repair_kernels.metrics import classifier_metrics
from repair_kernels.plotting import (
    plot_barrier,
    plot_correlation,
    plot_filters,
    plot_variance_collapse,
)
from repair_kernels.sweeping import sweep_pair, variance_ratios

DEMO_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
DEMO_ROWS = {
    "plain": "plain average",
    "none": "aligned",
    "closed_form": "aligned + REPAIR (closed form)",
    "forward": "aligned + REPAIR (forward)",
}


FILES = (
    "barrier.csv",
    "barrier.png",
    "variance_collapse.png",
    "correlation.png",
    "filters.png",
    "merged.safetensors",
)


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = arguments.add_command(
        commands, "demo", run_demo, "merge the pair of networks that comes with the repository"
    )
    parser.add_argument(
        "-o",
        "--output",
        default="demo",
        metavar=arguments.FOLDER,
        help="folder to write; made if it is missing (default: demo)",
    )
    arguments.add_printing(parser)


def run_demo(options: argparse.Namespace, process: Process) -> Result:
    """Merge the pair of networks that comes with the repository, and show what REPAIR does."""
    started = time.perf_counter()
    folder = check_output_folder(options, FILES)
    try:
        model_a, model_b = resolve("models.pretrained:load_pair")("fashion_resnet20")
        load, batches = (
            resolve(f"models.datasets:{n}") for n in ("load_embedded_fashion", "batches")
        )
    except ArgumentError as error:
        raise ArgumentError(
            "the demo merges networks that come with the repository, not with the installed "
            f"package; run `make demo` in a clone of it ({error})"
        ) from error
    say(
        options,
        "Two ResNet20, trained on FashionMNIST from different seeds: 2,000 images to calibrate,\n"
        "2,000 test images to measure. Measuring the path between them ...",
    )
    calibration, measured = (
        batches(*load(split), 500, normalise="fashion") for split in ("train", "test")
    )
    evaluate = classifier_metrics(measured)
    pair = align(model_a, model_b, calibration, variants=tuple(DEMO_ROWS))
    ends = (evaluate(model_a), evaluate(model_b))
    path = sweep_pair(pair, evaluate, DEMO_ALPHAS, tuple(DEMO_ROWS), ends)
    folder.mkdir(parents=True, exist_ok=True)
    _write_demo(pair, path, folder)
    seconds = time.perf_counter() - started
    return Result(
        f"\n{demo_table(path)}\n\npermuted network b differs from b by {pair.deviation:.0e} of its "
        f"largest output; {seconds:.0f} s; the checkpoint, curves and pictures are in {folder}/",
        {
            "files": [folder / name for name in FILES],
            "alphas": path.alphas,
            "metrics": path.metrics,
            "permutation_deviation": pair.deviation,
            "seconds": seconds,
        },
    )


def demo_table(path: Path) -> str:
    """Return the demo's one table: endpoints and midpoints with accuracy, loss and barriers."""
    middle = path.alphas.index(0.5)
    lines = [f"{'':32}{'accuracy':>10}{'loss':>8}{'loss barrier':>14}{'accuracy barrier':>18}"]
    accuracy, loss = (path.endpoints(metric) for metric in ("accuracy", "loss"))
    for name, a, b in zip(("network a", "network b"), accuracy, loss, strict=True):
        lines.append(f"{name:32}{a:>9.2%} {b:>8.3f}")
    for variant, label in DEMO_ROWS.items():
        at = {m: path.values(m, variant=variant)[middle] for m in ("accuracy", "loss")}
        barrier = {m: path.barrier(m, variant=variant) for m in ("accuracy", "loss")}
        lines.append(
            f"{label:32}{at['accuracy']:>9.2%} {at['loss']:>8.3f}{barrier['loss']:>14.3f}"
            f"{barrier['accuracy']:>17.2%}"
        )
    return "\n".join(lines)


def _write_demo(pair: AlignedPair, path: Path, folder: FilePath) -> None:
    path.to_csv(folder / "barrier.csv")
    labelled = Path(
        path.alphas,
        {
            DEMO_ROWS[variant]: {metric: curves[metric] for metric in ("accuracy", "loss")}
            for variant, curves in path.metrics.items()
        },
    )
    plot_barrier(labelled, folder / "barrier.png")
    ratios = {DEMO_ROWS[v]: variance_ratios(pair, 0.5, v) for v in ("none", "forward")}
    plot_variance_collapse(ratios, folder / "variance_collapse.png")
    group = list(pair.graph.groups.values())[-1]
    plot_correlation(
        pair.stats[group.match_tap].corr,
        folder / "correlation.png",
        permutation=pair.permutations[group.name],
        title=f"Correlation of channels at {group.match_tap}, before and after matching",
    )
    plot_filters(
        pair.state_a["conv1.weight"],
        pair.state_plain["conv1.weight"],
        folder / "filters.png",
        permutation=pair.permutations["conv1"],
    )
    merged = pair.merge(0.5, "forward")
    made = made_by(0.5, "forward", merged.explicit)
    save_state_dict(merged.model.state_dict(), folder / "merged.safetensors", metadata=made)
