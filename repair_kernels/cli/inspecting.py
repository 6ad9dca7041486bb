"""`repair-kernels inspect`: what a network's graph, a statistics file or a checkpoint holds."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from repair_kernels.checkpoints import load_metadata, load_state_dict
from repair_kernels.cli import arguments
from repair_kernels.cli.data import first_input
from repair_kernels.cli.networks import build
from repair_kernels.cli.processes import Process
from repair_kernels.cli.provenance import readable
from repair_kernels.cli.results import Result
from repair_kernels.errors import ArgumentError
from repair_kernels.graph.network import trace
from repair_kernels.moments.pairs import SUMS
from repair_kernels.statistics import checkpoint_file, statistics_file
from repair_kernels.statistics.paired_stats import PairedStats

LONGEST_START = 1024
"""In bytes. Statistics and checkpoints of runs say what they are at their start."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = arguments.add_command(
        commands,
        "inspect",
        run_inspect,
        "show what a network, a statistics file or a checkpoint holds",
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar=arguments.PATH,
        help="statistics file or checkpoint; of a merged one how it was made",
    )
    parser.add_argument(
        "--key", metavar="KEY", help="which state dict of a checkpoint with several, such as ema"
    )
    parser.add_argument(
        "--tensors", action="store_true", help="list the tensors of a checkpoint one by one"
    )
    arguments.add_model(parser, required=False)
    arguments.add_input_shape(parser)
    arguments.add_data(parser, required=False)
    parser.set_defaults(device=None)
    arguments.add_printing(parser)


def run_inspect(options: argparse.Namespace, process: Process) -> Result:
    """Describe a network, a statistics file, a run that was stopped or a checkpoint."""
    if (options.file is None) == (options.model is None):
        raise ArgumentError(
            "`inspect` must be given a file or `--model`, and not both; "
            f"{'neither' if options.file is None else 'both'} is there; name one of them"
        )
    if options.model:
        return describe_model(options)
    if _starts_with(options.file, statistics_file.FORMAT):
        return describe_statistics(options.file)
    if _starts_with(options.file, checkpoint_file.FORMAT):
        return describe_run(options.file)
    return describe_checkpoint(options.file, options.key, with_tensors=options.tensors)


def describe_model(options: argparse.Namespace) -> Result:
    """Describe a network's groups, taps and pinned axes."""
    model = build(options)
    batch, _ = first_input(options)
    graph = trace(model, batch)
    report = graph.report()
    taps = [
        {"name": name, "kind": graph.tap(name).kind, "channels": graph.tap(name).channels}
        for name in graph.taps
    ]
    groups = [
        {
            "name": group.name,
            "size": group.size,
            "match_tap": group.match_tap or None,
            "match_taps": group.match_taps,
            "axes": [f"{part.parameter}[{part.axis}]" for part in group.slices],
            "inner": group.inner,
        }
        for group in graph.groups.values()
    ]
    parameters = sum(p.numel() for p in model.parameters())
    table = _table(("tap", "kind", "channels"), [list(tap.values()) for tap in taps])
    return Result(
        f"{options.model}, {parameters:,} parameters, inputs of {_size(batch.shape[1:])}\n\n"
        f"{report}\n\n{len(taps)} taps\n{table}",
        {
            "kind": "model",
            "model": options.model,
            "parameters": parameters,
            "input_shape": tuple(batch.shape[1:]),
            "groups": groups,
            "taps": taps,
            "default_taps": graph.default_taps,
            "pinned": report.pins,
            "unknown_operators": report.unknown,
            "share_of_weights": report.share_of_weights,
            "share_of_channels": report.share_of_channels,
        },
    )


def describe_statistics(path: str) -> Result:
    """Describe a statistics file, tap by tap."""
    stats = PairedStats.load(path)
    taps = [
        {
            "name": name,
            "samples": held.n_samples,
            "channels": len(held.mean_a),
            "products": [product for product in SUMS if product in held.tensors],
            "dead_a": int(held.dead_a.sum()) if held.n_samples else 0,
            "dead_b": int(held.dead_b.sum()) if held.n_samples else 0,
        }
        for name, held in stats.items()
    ]
    head = ("tap", "samples", "channels", "products", "dead in a", "dead in b")
    rows = [[", ".join(v) if isinstance(v, list) else v for v in tap.values()] for tap in taps]
    size = Path(path).stat().st_size
    data = {"kind": "statistics", "file": path, "bytes": size, "images": stats.n_images}
    fingerprint = getattr(stats, "fingerprint", None)
    said = f"\n{_described(fingerprint.to_json())}" if fingerprint is not None else ""
    return Result(
        f"{path}: statistics of {stats.n_images:,} images at {len(taps)} taps, {size:,} bytes"
        f"{said}\n\n{_table(head, rows)}",
        {**data, "taps": taps, "fingerprint": fingerprint},
    )


def describe_run(path: str) -> Result:
    """Describe how far a run of `stats` came that was stopped."""
    held = checkpoint_file.read(path)
    images = sum(stop - start for start, stop in held.position.ranges)
    data = {"kind": "run", "file": path, "images": images, "options": held.options}
    return Result(
        f"{path}: a run of `stats` on its way, {images:,} images so far; the command that began it "
        f"goes on from there with --resume\n{_described(held.fingerprint.to_json())}",
        {**data, "fingerprint": held.fingerprint},
    )


def describe_checkpoint(path: str, key: str | None, *, with_tensors: bool) -> Result:
    """Describe a checkpoint, and how it was made where it says so."""
    state, made = load_state_dict(path, key=key), readable(load_metadata(path))
    tensors = [
        {"name": name, "shape": tuple(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
        for name, t in state.items()
    ]
    dtypes = Counter(str(tensor["dtype"]) for tensor in tensors)
    numbers = sum(tensor.numel() for tensor in state.values())
    listed = ", ".join(f"{count} of {dtype}" for dtype, count in dtypes.items())
    parts = [f"{path}: {len(tensors)} tensors ({listed}), {numbers:,} numbers"]
    if made:
        parts.append(_described(made))
    if with_tensors:
        rows = [[t["name"], t["dtype"], _size(t["shape"])] for t in tensors]
        parts.append(_table(("tensor", "type", "shape"), rows))
    data = {"kind": "checkpoint", "file": path, "key": key, "numbers": numbers, "dtypes": dtypes}
    return Result("\n\n".join(parts), {**data, "metadata": made, "tensors": tensors})


def _starts_with(path: str, name: str) -> bool:
    """Tell whether a file says that it is of a format, even if it is cut off behind that."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return f'"{name}"'.encode() in file.read(LONGEST_START)


def _described(entries: dict[str, Any]) -> str:
    return "\n".join(
        f"{name + ':':18} {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in entries.items()
    )


def _table(head: tuple[str, ...], rows: list[list[Any]]) -> str:
    cells = [list(head), *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = (zip(row, widths, strict=True) for row in cells)
    return "\n".join("  ".join(f"{c:{w}}" for c, w in line).rstrip() for line in lines)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"
