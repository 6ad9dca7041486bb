r"""Time `compute_stats` on a pair of ImageNet ResNets against two plain forward passes.

    python bench/imagenet_stats.py                          random weights, synthetic images
    python bench/imagenet_stats.py --data imagenet/val --weights a.pth b.pth
    python bench/imagenet_stats.py --data 'shards/val-{000..049}.tar' --samples 5000 \
        --weights torchvision:ResNet50_Weights.IMAGENET1K_V1 \
        torchvision:ResNet50_Weights.IMAGENET1K_V2
    torchrun --nproc-per-node=8 bench/imagenet_stats.py --data imagenet/train

`compute_stats` is called once, on batches that hold a stopwatch. Whenever it asks for a batch, the
batch is fetched, both networks run on it as plain modules, and then `compute_stats` has it: each
batch is timed both ways, one right after the other, with the device waited for in between. The
first batch warms both up. The interval after it also holds the capture of the networks, which is
what it takes longer than the median batch; its other times count nowhere.

Images are those of class folders or of WebDataset shards, `--samples` of them at random by
`--seed`; `repair_kernels.images` says how they are prepared. Processes of torchrun have disjoint
parts of them; the first one writes the one result.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402

import repair_kernels as rk  # noqa: E402
from bench.measuring.provenance import provenance  # noqa: E402
from bench.measuring.stopwatch import Stopwatch, summary  # noqa: E402
from bench.measuring.torchrun import Process, started  # noqa: E402
from models.resnet import imagenet_resnet18, imagenet_resnet50  # noqa: E402
from repair_kernels.atomic import atomic_path  # noqa: E402
from repair_kernels.checkpoints import load_into, load_state_dict  # noqa: E402
from repair_kernels.errors import CalibrationDataError, RepairKernelsError  # noqa: E402
from repair_kernels.images import ImageSource, SyntheticImages, open_images  # noqa: E402
from repair_kernels.published import is_published, published_weights  # noqa: E402
from repair_kernels.ranks import Ranks  # noqa: E402

MODELS = {"resnet18": imagenet_resnet18, "resnet50": imagenet_resnet50}
WEIGHTS = (
    "of both networks: checkpoints, or published names such as "
    "torchvision:ResNet50_Weights.IMAGENET1K_V1 (default: random)"
)


def build_models(
    options: argparse.Namespace, process: Process, ranks: Ranks
) -> tuple[nn.Module, nn.Module]:
    """Return both networks in evaluation mode, from checkpoints or from two seeds."""
    models = []
    for name, reference in zip("ab", options.weights, strict=True):
        torch.manual_seed(options.seed + len(models))
        state = None
        if reference is not None:
            state = load_state_dict(weights_file(reference, process, ranks))
        classes = len(state["fc.bias"]) if state and "fc.bias" in state else 1000
        model = MODELS[options.model](classes=classes)
        if state is not None:
            load_into(model, state, name=f"network {name}")
        models.append(model.eval().to(process.device))
    return models[0], models[1]


def weights_file(reference: str, process: Process, ranks: Ranks) -> Path:
    """Return the file of some weights; each machine downloads published ones once."""
    if not is_published(reference):
        return Path(reference)
    if process.local_rank == 0:
        published_weights(reference, progress=sys.stderr.isatty())
    ranks.exchange(f"{reference} is there", None)
    return published_weights(reference)


def open_source(options: argparse.Namespace, processes: int = 1) -> ImageSource:
    """Return the images: a fixed subset of the data's, or synthetic ones."""
    most = (options.steps or math.inf) * options.batch_size * processes
    wanted = int(min(options.samples, most))
    if options.data is None:
        return SyntheticImages(wanted, options.image_size, options.seed)
    return open_images(
        options.data, samples=wanted, seed=options.seed, image_size=options.image_size
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line, and refuse what cannot be run before anything is built."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", choices=MODELS, default="resnet50")
    add("--weights", nargs=2, metavar=("A", "B"), default=(None, None), help=WEIGHTS)
    add("--data", metavar="PATH", help="folder of class folders, or tar shards")
    add("--synthetic", action="store_true", help="random images, as without --data")
    add("--samples", type=_count, default=5000, metavar="N", help="images (default: 5000)")
    add("--steps", type=_count, metavar="N", help="batches at most, of each process")
    add("--batch-size", type=_count, default=64, metavar="N", help="default: 64")
    add("--image-size", type=_count, default=224, metavar="N", help="default: 224")
    add("--seed", type=int, default=0, help="of the images, and of a; b has the next (default: 0)")
    add("--device", help="default: cuda where there is one, else cpu")
    add("--precision", choices=("ieee", "tf32x3", "tf32"), default="tf32x3")
    decode = "processes that load images (default: 4; on a CPU 0: they would disturb the timing)"
    add("--workers", type=int, metavar="N", help=decode)
    wait = "seconds that processes wait for one another at most (default: 1800)"
    add("--timeout", type=float, default=1800, metavar="S", help=wait)
    add("--json", metavar="FILE", help="write the result there; - prints it instead of the table")
    options = parser.parse_args(arguments)
    if options.synthetic and options.data is not None:
        parser.error("--synthetic stands for images without --data; give one of the two")
    if options.json not in (None, "-") and not Path(options.json).parent.is_dir():
        parser.error(
            f"--json must lie in a folder that exists; {Path(options.json).parent} does not; make "
            "it first"
        )
    return options


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def measure(options: argparse.Namespace, process: Process) -> dict[str, Any]:
    """Run the pass, and return what came of it on all processes."""
    ranks, source = Ranks(process.group), open_source(options, process.size)
    largest = -(-len(source) // process.size)
    if largest <= options.batch_size:
        raise CalibrationDataError(
            "expected at least 2 batches, as the first one warms up; the images of a process fill "
            f"{min(largest, 1)}. Take more images, or a smaller --batch-size."
        )
    own = source.indices(process.rank, process.size, options.batch_size)
    is_cuda = process.device.type == "cuda"
    loader = source.loader(
        options.batch_size,
        start=own.start,
        stop=own.stop,
        workers=4 * is_cuda if options.workers is None else options.workers,
        device=process.device,
    )
    with ranks.together("imagenet_stats", images=source.fingerprint):
        models = build_models(options, process, ranks)
    stopwatch = Stopwatch(loader, models, process.device)
    stats = rk.compute_stats(
        *models,
        stopwatch,
        precision=options.precision,
        progress=sys.stderr.isatty(),
        process_group=process.group,
    )
    weights = "random weights"
    if None not in options.weights:
        weights = "weights " + " and ".join(Path(name).name for name in options.weights)
    dead = list(stats.dead.values())
    everyone = ranks.exchange("times", stopwatch.finish())
    return {
        "networks": f"two {options.model}s with {weights}, {options.precision}",
        "images": f"{source.description}; in batches of {options.batch_size}",
        "synthetic": source.is_synthetic,
        "images_fingerprint": source.fingerprint,
        "processes": process.size,
        **summary(everyone),
        "n_images": stats.n_images,
        "images_of_processes": [sum(times.images) for times in everyone],
        "taps": len(stats),
        "taps_with_cross": sum(moments.cross is not None for moments in stats.values()),
        "dead": {"a": sum(count.a for count in dead), "b": sum(count.b for count in dead)},
    }


def print_table(result: dict[str, Any]) -> None:
    """Print what a person wants to know of a result."""
    rates = result["images_per_second"]
    processes = f" in {result['processes']} processes" if result["processes"] > 1 else ""
    print(f"{result['networks']}; on {result['device']}{processes}")
    print(result["images"])
    print(f"{'stage':<26}{'seconds':>9}{'images/s':>10}")
    for stage, seconds in result["seconds"].items():
        rate = f"{rates[stage]:10.1f}" if stage in rates else ""
        print(f"{stage:<26}{seconds:9.2f}{rate}")
    print(
        f"{result['timed_images']:,} images in {result['timed_batches']} batches, after one that "
        f"warmed up; {rates['data and statistics']:.1f} images/s with the data"
    )
    low, high = result["ratio_quartiles"]
    print(
        f"statistics / two plain forward passes = {result['ratio']:.3f} "
        f"(median over the batches; quartiles {low:.3f} and {high:.3f})"
    )
    print(
        f"{result['taps']} taps, {result['taps_with_cross']} of them with the full cross matrix; "
        f"dead channels: {result['dead']['a']} of a, {result['dead']['b']} of b"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and say what was measured."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    # What Triton's interpreter takes says nothing about a kernel's time.
    os.environ.pop("TRITON_INTERPRET", None)
    with started(options.device, options.timeout) as process:
        found = measure(options, process)
    if process.rank != 0:
        return 0
    result = {**provenance("imagenet_stats.py", process.device, arguments), **found}
    text = json.dumps(result, indent=1)
    if options.json == "-":
        print(text)
        return 0
    print_table(result)
    if options.json:
        with atomic_path(options.json) as file:
            file.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RepairKernelsError as error:
        sys.exit(f"error: {error}")
