"""Run the paper's experiments; `python -m bench.paper --help`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from bench.paper.experiments import EXPERIMENTS
from bench.paper.run import run
from bench.paper.sizes import SIZES
from bench.paper.sources import Settings
from models.run import PRECISIONS
from repair_kernels.devices import check_device
from repair_kernels.errors import ArgumentError


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m bench.paper",
        description="Run the paper's experiments. What is measured already is left alone.",
        epilog="experiments: "
        + ", ".join(n for n, e in EXPERIMENTS.items() if e.figure)
        + "; not in the paper: "
        + ", ".join(n for n, e in EXPERIMENTS.items() if not e.figure),
    )
    add = made.add_argument
    add(
        "--size",
        choices=SIZES,
        required=True,
        help="smoke: seconds; cpu: about an hour; full: a GPU",
    )
    add("--only", nargs="+", choices=EXPERIMENTS, metavar="NAME", help="experiments")
    add("--all", action="store_true", help="also the experiments that are not in the paper")
    add("--series", help="one line of the experiments' pictures, such as LayerNorm")
    add("--at", nargs="+", type=float, metavar="X", help="some depths or widths of that line")
    add("--recipe", choices=("fast", "paper"), default="fast", help="at full size (default: fast)")
    add("--epochs", type=int, help="of every training, in place of the recipe's")
    add("--second-cycle", type=int, metavar="N", help="epochs of second cycles, of some VGGs")
    add("--precision", choices=PRECISIONS, help="to train in (default: bf16 on a GPU)")
    add("--pairs", type=int, default=1, help="pairs of seeds (default: 1)")
    add("--minutes", type=float, help="stop after that time; the next run goes on")
    add("--train-only", action="store_true", help="train the endpoints, measure nothing")
    add("--compile", action="store_true", help="compile networks for training")
    add("--device", help="default: cuda where there is one, else cpu")
    add("--threads", type=int, help="CPU threads")
    add("--out", type=Path, help="folder of the results (default: bench/results/paper)")
    add("--endpoints", type=Path, help="folder of endpoints (default: runs/paper)")
    add("--imagenet", type=Path, metavar="DIR", help="ImageNet, with `train` and `val`")
    add("--checkpoints", type=Path, metavar="DIR", help="networks of ImageNet: resnet50_a.pth, …")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 1 if a point failed, 3 if time ran out or something was not there.
    """
    made = parser()
    options = made.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        device = check_device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except ArgumentError as error:
        made.error(str(error))
    settings = Settings(
        SIZES[options.size],
        device=device,
        kind=options.recipe,
        epochs=options.epochs,
        second_cycle=options.second_cycle,
        pairs=options.pairs,
        precision=options.precision,
        compiled=options.compile,
        cache=options.endpoints,
        imagenet=options.imagenet,
        checkpoints=options.checkpoints,
        train_only=options.train_only,
    )
    if options.out is not None:
        settings.out = options.out
    if options.minutes is not None:
        settings.deadline = time.monotonic() + 60 * options.minutes
    names = options.only or [n for n, e in EXPERIMENTS.items() if e.figure or options.all]
    left = run(names, settings, options.series, options.at)
    for point in left:
        print(f"{'failed' if point.failed else 'not run'}: {point.title}: {point.reason}")
    return 1 if any(point.failed for point in left) else 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())
