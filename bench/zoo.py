"""Trace, permute and compare every network of the zoo (`zoo_names.py`); needs the extra `vision`.

python bench/zoo.py                   all that bench/results/zoo.json has no row for
python bench/zoo.py --again           all
python bench/zoo.py resnet18 tv:vgg11 these

Weights and the statistics of BatchNorms are random, everything is float64, an input is as small as
the network takes. The permuted network must deviate by no more than a copy does whose weights are
all off by one rounding, times `verification.MARGIN`; where that copy is far off itself, statistics
are drawn closer to the activations' own. As a control, one axis of one parameter is
left out of a group: that must be seen. Each network has its own process, with limits of time and
memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import logging
import multiprocessing
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.measuring.provenance import commit, provenance, write_rows  # noqa: E402
from bench.zoo_names import FAMILIES  # noqa: E402
from repair_kernels.errors import FunctionChangedError, RepairKernelsError  # noqa: E402
from repair_kernels.graph.network import NetworkGraph, trace  # noqa: E402
from repair_kernels.graph.permutation import Permutation, permute  # noqa: E402
from repair_kernels.graph.verification import FLOOR, MARGIN  # noqa: E402
from repair_kernels.rules import rule_for  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "zoo.json"
SIZES = (64, 96, 112, 128, 160, 224, 256)
SECONDS, BYTES = 300, 20 * 2**30
"""Limits of one network: seconds of a core, and memory."""
CHAOTIC = 1e-13
"""How far one rounding of the weights may move the output, before statistics are drawn tamer."""
PATIENCE = 3600
"""Seconds after which a network that does not work at all is given up."""
LARGE = 2e8
"""Parameters beyond which the taps are not compared: three copies would not have room."""
Row = dict[str, Any]


def import_libraries() -> None:
    """Import timm and torchvision, also beside a torch for which its operators do not load."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):  # Operators of detectors, for which the import makes stand-ins.
        with suppress(RuntimeError):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for name in ("torchvision", "timm"):
        importlib.import_module(name)
    import_libraries.held = library  # type: ignore[attr-defined]


def builders(name: str) -> Iterator[tuple[Callable[[], nn.Module], int]]:
    """Yield ways to build a network, and the size of its input, smallest first."""
    if name.startswith("tv:"):
        models = sys.modules["torchvision"].models
        build = lambda **options: models.get_model(name[3:], weights=None, **options)  # noqa: E731
        named = {"vit": "image_size"}.get(name[3:6])
        insists, own = named or "maxvit" in name, 224
        options = {"init_weights": False} if name in ("tv:googlenet", "tv:inception_v3") else {}
    else:
        timm = sys.modules["timm"]
        build = lambda **options: timm.create_model(name, pretrained=False, **options)  # noqa: E731
        config = timm.get_pretrained_cfg(name)
        named, options = "img_size", {}
        insists, own = config.fixed_input_size, config.input_size[-1]
    for size in SIZES:
        if not insists:
            yield lambda: build(**options), size
        elif named and size < own:
            yield lambda size=size: build(**{named: size}, **options), size
    yield lambda: build(**options), own


def network(name: str) -> tuple[nn.Module, Tensor]:
    """Build a network with random weights, and two inputs that it takes."""
    refused: Exception | None = None
    for build, size in builders(name):
        x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).double()
        try:
            model = build().eval().double()
            with torch.no_grad():
                model(x)
        except Exception as error:
            refused = error
            continue
        if rounding(lively(model), x) > CHAOTIC:
            settle(lively(model), x)
            return model.train().eval(), x
        return lively(model).train().eval(), x  # What was computed from other weights is gone.
    raise RuntimeError(f"no input is small or large enough: {refused}")


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw weights and running statistics anew, so that no channel is zero, neutral or a copy."""
    generator = torch.Generator().manual_seed(seed)
    statistics = ("running_mean", "running_var")
    buffers = [(n, b) for n, b in model.named_buffers() if n.endswith(statistics)]
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *buffers]:
            drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            if name.endswith("running_var"):
                drawn = 0.5 + drawn.square()
            elif tensor.dim() > 1 and len(tensor) > 1:
                drawn *= (2 / tensor[0].numel()) ** 0.5
            elif name.endswith(("weight", "scale")):
                drawn = 1 + 0.2 * drawn
            else:
                drawn *= 0.3
            tensor.copy_(drawn)
    return model


def settle(model: nn.Module, x: Tensor) -> None:
    """Make running statistics multiples of what they would be: activations do not explode.

    Where they do, a rounding becomes another answer, and nothing can be compared.
    """

    def multiply(module: _BatchNorm, args: tuple[Tensor, ...]) -> None:
        dims = [dim for dim in range(args[0].dim()) if dim != 1]
        var, mean = torch.var_mean(args[0], dims, correction=0)
        var += 0.1 * var.mean()
        module.running_mean.mul_(var.sqrt()).add_(mean)
        module.running_var.mul_(var)

    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    hooks = [norm.register_forward_pre_hook(multiply) for norm in norms]
    with torch.no_grad():
        model.train().eval()(x)
    for hook in hooks:
        hook.remove()


def rounding(model: nn.Module, x: Tensor) -> float:
    """Return how far the output moves when each weight is off by one rounding; changes weights."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        expected = model.train().eval()(x)
        for tensor in model.parameters():
            signs = 2 * torch.randint(0, 2, tensor.shape, generator=generator) - 1
            tensor *= 1 + torch.finfo(tensor.dtype).eps * signs.to(tensor.dtype)
        return deviation(expected, model.train().eval()(x))


def examine(name: str) -> Row:
    """Return the row of one network."""
    torch.set_num_threads(1)
    model, x = network(name)
    parameters = sum(p.numel() for p in model.parameters())
    row: Row = {"input": x.shape[-1], "parameters": parameters}
    started = time.process_time()
    try:
        graph = trace(model, x)
    except RepairKernelsError as error:
        return {**row, "captured": False, "why": str(error)}
    row |= {"captured": True, "seconds": round(time.process_time() - started, 2)}
    row |= found(model, graph)
    permutations = drawn(graph)
    with torch.no_grad():
        expected = model(x)
        row["deviation"] = deviation(expected, permute(model, graph.groups, permutations)(x))
        if graph.groups:
            partial = permute(model, without_one_axis(graph), permutations)
            row["control"] = deviation(expected, partial(x))
            del partial
        try:
            if parameters < LARGE:
                graph.verify(model, x, permutations=permutations)
        except FunctionChangedError as error:
            row["why"] = str(error)
    row["rounding"] = rounding(model, x)
    row["same"] = "why" not in row and row["deviation"] <= MARGIN * max(FLOOR, row["rounding"])
    return row


def drawn(graph: NetworkGraph) -> dict[str, Permutation]:
    """Draw a permutation for every group."""
    generator = torch.Generator().manual_seed(0)
    return {name: Permutation.random(g.size, generator) for name, g in graph.groups.items()}


def deviation(expected: Any, other: Any) -> float:
    """Return the largest difference of two networks' outputs, relative to the largest output."""
    if isinstance(expected, list | tuple):
        return max(deviation(*pair) for pair in zip(expected, other, strict=True))
    return float((expected - other).abs().max() / expected.abs().max())


def without_one_axis(graph: NetworkGraph) -> dict[str, Any]:
    """Return the groups, the largest without one axis of a weight."""
    groups = dict(graph.groups)
    name = max(groups, key=lambda name: (groups[name].size, name))
    slices = list(groups[name].slices)
    weight = next(i for i, s in enumerate(slices) if s.parameter.endswith("weight") or i == 0)
    del slices[weight]
    groups[name] = dataclasses.replace(groups[name], slices=tuple(slices))
    return groups


def found(model: nn.Module, graph: NetworkGraph) -> Row:
    """Return what can move, of the parameters that the graph reads and of inner channels."""
    read = {graph.sources[n.name] for n in graph.nodes if n.name in graph.sources and n.users}
    state = {name: tensor for name, tensor in model.named_parameters() if name in read}
    masks: dict[tuple[str, int], Tensor] = {}
    for group in graph.groups.values():
        for part in group.slices:
            if part.parameter in state:
                size = state[part.parameter].shape[part.axis]
                mask = masks.setdefault((part.parameter, part.axis), torch.zeros(size).bool())
                mask[part.positions.reshape(-1)] = True
    movable = 0
    for name, tensor in state.items():
        still = [
            tensor.shape[axis] - int(masks[name, axis].sum()) if (name, axis) in masks else size
            for axis, size in enumerate(tensor.shape)
        ]
        movable += tensor.numel() - int(torch.tensor(still).prod())
    wide = moving = 0
    pinned: Counter[str] = Counter()
    for name in layers(model, read):
        why = graph.symmetry.pins.get(f"{name}[0]", "")
        if "output of the network" in why or len(state[name]) == 1:
            continue
        moves = int(masks[name, 0].sum()) if (name, 0) in masks else 0
        wide, moving = wide + len(state[name]), moving + moves
        if moves < len(state[name]):
            pinned[without_node(why)] += len(state[name]) - moves
    operators = {str(n.target) for n in graph.nodes if n.op == "call_function" and has_no_rule(n)}
    return {
        "groups": len(graph.groups),
        "movable": round(movable / max(1, sum(p.numel() for p in state.values())), 4),
        "widths": round(moving / max(1, wide), 4),
        "pins": pinned.most_common(4),
        "unknown": sorted(operators),
    }


def layers(model: nn.Module, read: set[str]) -> Iterator[str]:
    """Yield the weights of layers that the graph reads: convolutions, linear maps, attention."""
    for path, module in model.named_modules():
        names = (
            ["weight"]
            if isinstance(module, nn.Linear | _ConvNd)
            else ["in_proj_weight"]
            if isinstance(module, nn.MultiheadAttention)
            else []
        )
        yield from (full for n in names if (full := f"{path}.{n}" if path else n) in read)


def has_no_rule(node: torch.fx.Node) -> bool:
    """Return whether a node computes tensors with an operator that no rule knows."""
    tensors = isinstance(node.meta.get("val"), Tensor | list | tuple)
    return tensors and hasattr(node.target, "overloadpacket") and rule_for(node.target) is None


def without_node(why: str) -> str:
    """Return a reason without the name of the node."""
    head, separator, tail = why.partition(" (")
    return f"{head}: {tail.partition('): ')[2]}" if separator and "): " in tail else why


def run_one(name: str, answer: Connection) -> None:
    """Examine a network in a process of its own."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    try:
        row = examine(name)
    except BaseException as error:  # Whatever it is, it becomes the network's row.
        row = {"captured": False, "why": f"{type(error).__name__}: {str(error)[:400]}"}
    answer.send(row)


def run_all(names: Iterable[str], jobs: int) -> Iterator[tuple[str, Row]]:
    """Yield rows as they come, from `jobs` processes at a time."""
    context = multiprocessing.get_context("fork")
    waiting, running = list(names)[::-1], []
    while waiting or running:
        while waiting and len(running) < jobs:
            ours, theirs = context.Pipe(duplex=False)
            name = waiting.pop()
            process = context.Process(target=run_one, args=(name, theirs))
            process.start()
            theirs.close()
            running.append((name, process, ours, time.monotonic() + PATIENCE))
        for entry in list(running):
            name, process, ours, until = entry
            if not ours.poll(0.05) and time.monotonic() < until:
                continue
            running.remove(entry)
            row = None
            with suppress(EOFError):
                row = ours.recv() if ours.poll() else None
            if time.monotonic() >= until:
                process.kill()
            process.join()
            yield name, row or {"captured": False, "why": _ending(process.exitcode)}


def _ending(code: int | None) -> str:
    """Say how a process ended that sent nothing."""
    if code == -signal.SIGXCPU:
        return f"took more than {SECONDS} s of a core"
    return f"the process ended with {code} (-9: out of memory or patience)"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="networks (default: those without a row)")
    parser.add_argument("--again", action="store_true", help="also those with a row")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    import_libraries()
    places = {name: key for key, family in FAMILIES.items() for name in family.names}
    rows: dict[str, Row] = {}
    if options.output.exists():
        rows = {row["name"]: row for row in json.loads(options.output.read_text())["rows"]}
    wanted = options.names or [n for n in places if options.again or n not in rows]
    where = provenance("zoo.py", torch.device("cpu"), ["--jobs", str(options.jobs)])
    where["versions"] |= {name: version(name) for name in ("torchvision", "timm")}
    revision = commit()[:12]
    for name, row in run_all(wanted, options.jobs):
        rows[name] = {"name": name, "family": places.get(name, ""), "commit": revision, **row}
        ordered = [rows[n] for n in [*places, *(rows.keys() - places.keys())] if n in rows]
        write_rows(options.output, where, ordered)
        kept = {key: value for key, value in row.items() if value not in ([], {})}
        print(name, json.dumps(kept), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
