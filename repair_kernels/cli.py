"""The command line: `repair-kernels stats | match | merge | sweep | demo`.

Models are named as `package.module:callable`, data as a callable too or as a file of tensors.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path as FilePath
from typing import Any

from torch import Tensor, nn

from repair_kernels.alignment import VERIFIED_IMAGES, AlignedPair, align
from repair_kernels.atomic import atomic_path
from repair_kernels.batches import Batches
from repair_kernels.calibration import VARIANTS
from repair_kernels.checkpoints import load_into, load_state_dict, save_state_dict
from repair_kernels.errors import ArgumentError, CheckpointError, RepairKernelsError
from repair_kernels.evaluation import Path, classifier_metrics
from repair_kernels.graph import trace
from repair_kernels.matching import match
from repair_kernels.paired_stats import PairedStats
from repair_kernels.pipeline import repair, sweep
from repair_kernels.plotting import (
    plot_barrier,
    plot_correlation,
    plot_filters,
    plot_variance_collapse,
)
from repair_kernels.statistics import compute_stats
from repair_kernels.version import __version__

EXIT_OK, EXIT_FAILED = 0, 1
UNVERIFIED = "do not run the permuted network beside the original"
DEMO_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
DEMO_ROWS = {
    "plain": "plain average",
    "none": "aligned",
    "closed_form": "aligned + REPAIR (closed form)",
    "forward": "aligned + REPAIR (forward)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after an error that was explained; usage exits 2."""
    options = _parser().parse_args(arguments)
    sys.path.insert(0, str(FilePath.cwd()))
    try:
        options.run(options)
    except (RepairKernelsError, OSError) as error:
        print(f"repair-kernels: {error}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        sys.path.pop(0)
    return EXIT_OK


def run_stats(options: argparse.Namespace) -> None:
    """Compute the statistics of two networks and write them to a file."""
    model_a, model_b = load_models(options)
    data = load_data(options.data, options.data_arg, options.batch_size)
    cross = "all" if options.cross_all else None
    stats = compute_stats(model_a, model_b, data, cross=cross, **_common(options))
    stats.save(options.output)
    print(f"{len(stats)} taps, {stats.n_images} images, written to {options.output}")


def run_match(options: argparse.Namespace) -> None:
    """Match the channels of two networks from a statistics file and write b in a's order."""
    model_a, model_b = load_models(options)
    data = load_data(options.data, options.data_arg, options.batch_size)
    batch = Batches(data).first.to(options.device or "cpu")
    graph = trace(model_a, batch)
    permutations = match(PairedStats.load(options.stats), graph.groups)
    if options.verify:
        graph.verify(model_b, batch[:VERIFIED_IMAGES], permutations=permutations)
    written = json.dumps({name: p.indices.tolist() for name, p in permutations.items()})
    with atomic_path(options.output) as temporary:
        temporary.write_text(written)
    print(f"{len(permutations)} groups matched, written to {options.output}")


def run_merge(options: argparse.Namespace) -> None:
    """Merge two checkpoints into one."""
    model_a, model_b = load_models(options)
    result = repair(
        model_a,
        model_b,
        load_data(options.data, options.data_arg, options.batch_size),
        alpha=options.alpha,
        variant=options.variant,
        taps=options.tap or None,
        verify=options.verify,
        **_common(options),
    )
    made = _made_by(options.alpha, options.variant, result.report.explicit)
    made["sources"] = json.dumps([str(options.a), str(options.b)])
    save_state_dict(result.model.state_dict(), options.output, metadata=made)
    print(result.report)
    print(f"written to {options.output}")


def run_sweep(options: argparse.Namespace) -> None:
    """Evaluate the path between two networks."""
    model_a, model_b = load_models(options)
    measured = options.eval_data or options.data
    arguments = options.eval_data_arg if options.eval_data else options.data_arg
    path = sweep(
        model_a,
        model_b,
        load_data(options.data, options.data_arg, options.batch_size),
        classifier_metrics(
            load_data(measured, arguments, options.batch_size), device=options.device
        ),
        alphas=[i / (options.points - 1) for i in range(options.points)],
        variants=options.variant or ("none", "forward"),
        taps=options.tap or None,
        verify=options.verify,
        **_common(options),
    )
    folder = FilePath(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    path.to_csv(folder / "barrier.csv")
    if options.plot:
        path.plot(folder / "barrier.png")
    print(path.table())
    print(f"\nwritten to {folder}")


def run_demo(options: argparse.Namespace) -> None:
    """Merge the pair of networks that comes with the repository, and show what REPAIR does."""
    started = time.perf_counter()
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
    print("Two ResNet20, trained on FashionMNIST from different seeds: 2,000 images to calibrate,")
    print("2,000 test images to measure. Measuring the path between them ...", flush=True)
    calibration, measured = (
        batches(*load(split), 500, normalise="fashion") for split in ("train", "test")
    )
    evaluate = classifier_metrics(measured)
    pair = align(model_a, model_b, calibration, variants=tuple(DEMO_ROWS))
    ends = (evaluate(model_a), evaluate(model_b))
    path = pair.sweep(evaluate, DEMO_ALPHAS, tuple(DEMO_ROWS), ends)
    folder = FilePath(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    _write_demo(pair, path, folder)
    print()
    print(demo_table(path))
    print(
        f"\npermuted network b differs from b by {pair.deviation:.0e} of its largest output; "
        f"{time.perf_counter() - started:.0f} s; the checkpoint, curves and pictures are in "
        f"{folder}/"
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
    ratios = {DEMO_ROWS[v]: pair.variance_ratios(0.5, v) for v in ("none", "forward")}
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
    made = _made_by(0.5, "forward", merged.explicit)
    save_state_dict(merged.model.state_dict(), folder / "merged.safetensors", metadata=made)


def _made_by(alpha: float, variant: str, explicit: Sequence[str]) -> dict[str, str]:
    """Return what a merged checkpoint says of how it was made."""
    return {
        "made_by": f"repair-kernels {__version__}",
        "alpha": str(alpha),
        "variant": variant,
        "explicit_layers": json.dumps(list(explicit)),
    }


def resolve(reference: str) -> Callable[..., Any]:
    """Return the callable that `package.module:callable` names.

    Raises:
        ArgumentError: when there is no such module or callable.
    """
    module_name, separator, attribute = reference.partition(":")
    if not separator or not attribute:
        raise ArgumentError(
            f"a callable is named as `package.module:callable`; got {reference!r}; such as "
            "`torchvision.models:resnet50`"
        )
    try:
        found = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ArgumentError(
            f"`{reference}` must name something that can be imported; {type(error).__name__}: "
            f"{error}; check the spelling, and that the package is installed or in the current "
            "folder"
        ) from error
    if not callable(found):
        raise ArgumentError(f"`{reference}` must name a callable; it is a {type(found).__name__}")
    return found


def load_models(options: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """Build both networks and load their checkpoints."""
    build, arguments = resolve(options.model), keyword_arguments(options.model_arg)
    models = []
    for name, file in (("a", options.a), ("b", options.b)):
        model = _call(build, options.model, arguments)
        if not isinstance(model, nn.Module):
            raise ArgumentError(
                f"`--model` must name what builds a torch.nn.Module; {options.model!r} returned a "
                f"{type(model).__name__}"
            )
        load_into(model, load_state_dict(file), name=f"network {name}")
        models.append(model.to(options.device or "cpu").eval())
    return models[0], models[1]


def load_data(reference: str, arguments: Sequence[str], batch_size: int) -> Iterable[Any]:
    """Return batches: what a callable returns, or the tensors of a file cut into batches.

    A file holds inputs under its first name, and labels, if any, under its second.
    """
    if ":" in reference and not FilePath(reference).exists():
        batches = _call(resolve(reference), reference, keyword_arguments(arguments))
        if not isinstance(batches, Iterable):
            raise ArgumentError(
                f"`--data` must name what returns an iterable of batches; {reference!r} returned a "
                f"{type(batches).__name__}"
            )
        return batches
    tensors = list(load_state_dict(reference).values())[:2]
    if len({len(tensor) if tensor.dim() else -1 for tensor in tensors}) != 1:
        raise CheckpointError(
            f"{reference} must hold inputs, and labels of the same number, if any; got "
            f"{[tuple(tensor.shape) for tensor in tensors]}"
        )
    pieces: list[tuple[Tensor, ...]] = [tensor.split(batch_size) for tensor in tensors]
    return list(zip(*pieces, strict=True))


def keyword_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """Return `name=value` pairs as keyword arguments; values are JSON where they can be.

    Example:
        >>> keyword_arguments(["width=2", "norm=batch", "bias=false"])
        {'width': 2, 'norm': 'batch', 'bias': False}
    """
    found = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.isidentifier():
            raise ArgumentError(
                f"an argument is given as `name=value`; got {pair!r}; such as `width=2`"
            )
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def _call(function: Callable[..., Any], reference: str, arguments: dict[str, Any]) -> Any:
    try:
        return function(**arguments)
    except (TypeError, ValueError, OSError) as error:
        raise ArgumentError(
            f"`{reference}` must take the arguments {arguments}; {type(error).__name__}: {error}"
        ) from error


def _common(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "n_samples": options.samples,
        "device": options.device,
        "precision": options.precision,
        "progress": not options.quiet,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="repair-kernels",
        description="Merge two trained networks of one architecture: match their channels, "
        "interpolate the weights, and repair the statistics (REPAIR).",
        epilog="exit codes: 0 done; 1 an error, explained on standard error; 2 wrong usage",
    )
    parser.add_argument("--version", action="version", version=f"repair-kernels {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="merge the pair that comes with the repository")
    demo.add_argument("-o", "--output", default="demo", help="folder to write (default: demo)")
    demo.set_defaults(run=run_demo)

    stats = _pair_command(commands, "stats", run_stats, "compute the statistics of two networks")
    stats.add_argument("-o", "--output", required=True, help="statistics file to write")
    stats.add_argument("--cross-all", action="store_true", help="keep all correlation matrices")

    matched = _pair_command(commands, "match", run_match, "match channels from a statistics file")
    matched.add_argument("--stats", required=True, help="what `stats` wrote")
    matched.add_argument("-o", "--output", required=True, help="JSON file of permutations to write")

    merge = _pair_command(commands, "merge", run_merge, "merge two checkpoints into one")
    merge.add_argument("--alpha", type=float, default=0.5, help="weight of network b, in [0, 1]")
    merge.add_argument(
        "--variant", default="forward", choices=(*VARIANTS, "none"), help="of REPAIR"
    )
    merge.add_argument("--tap", action="append", help="what to correct (repeatable)")
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
    path.add_argument("--tap", action="append", help="what to correct (repeatable)")
    path.add_argument("--no-plot", dest="plot", action="store_false", help="write no picture")
    path.add_argument("-o", "--output", required=True, help="folder to write")
    for command in (matched, merge, path):
        command.add_argument("--no-verify", dest="verify", action="store_false", help=UNVERIFIED)
    return parser


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
