"""Time `compute_stats` on a pair of ImageNet ResNets against two plain forward passes.

    python bench/imagenet_stats.py                                  random weights, synthetic images
    python bench/imagenet_stats.py --data imagenet/val --weights-a a.pth --weights-b b.pth

`compute_stats` is called once, on batches that hold a stopwatch. Whenever it asks for a batch, the
batch is fetched, both networks run on it as plain modules, and then `compute_stats` has it: each
batch is timed both ways, one right after the other, with the device waited for in between. The
first batch warms both up. The interval after it also holds the capture of the networks, which is
what it takes longer than the median batch; its other times count nowhere.

Images are those of an ImageFolder (`DIR/<class>/<image>`): the shorter side resized to 256, the
centre cropped to 224, ImageNet's mean and std; or for another `--image-size` in proportion.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset, Subset  # noqa: E402

import repair_kernels as rk  # noqa: E402
from bench.provenance import provenance  # noqa: E402
from models.resnet import imagenet_resnet18, imagenet_resnet50  # noqa: E402
from repair_kernels.checkpoints import load_into, load_state_dict  # noqa: E402
from repair_kernels.errors import CalibrationDataError, RepairKernelsError  # noqa: E402

MODELS = {"resnet18": imagenet_resnet18, "resnet50": imagenet_resnet50}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESIZED, CROPPED = 256, 224
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")


class ImageFolder(Dataset[Tensor]):
    """The images of `root/<class>/`, in the order of their paths, ready for an ImageNet network.

    Args:
        root: folder of class folders
        size: side of the square that is returned
    """

    def __init__(self, root: Path, size: int) -> None:
        self.size = size
        self.paths = sorted(path for path in root.glob("*/**/*") if path.suffix.lower() in SUFFIXES)
        if not self.paths:
            raise CalibrationDataError(
                f"--data must name a folder with images at <class>/<image>; {root} has none. "
                "Give ImageNet's `train` or `val`."
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        path = self.paths[index]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except OSError as error:
            raise CalibrationDataError(f"{path} is not a whole image: {error}") from error
        scale = self.size * RESIZED / CROPPED / min(image.size)
        width, height = (max(self.size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        image = image.crop((left, top, left + self.size, top + self.size))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        pixels = pixels.view(self.size, self.size, 3).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return (pixels - mean) / std


class SyntheticImages(Dataset[Tensor]):
    """Normal random numbers in the shape of images; image `i` is the same in every run."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count, self.size, self.seed = count, size, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed << 32) + index)
        return torch.randn(3, self.size, self.size, generator=generator)


@dataclass
class Stopwatch:
    """Batches that time what is done with them, and both plain forward passes on each.

    Args:
        loader: batches of images
        models: the networks, run as they are
        device: where they are
    """

    loader: DataLoader
    models: tuple[nn.Module, nn.Module]
    device: torch.device
    images: list[int] = field(default_factory=list)
    data: list[float] = field(default_factory=list)
    forward: list[float] = field(default_factory=list)
    statistics: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Tensor]:
        batches = iter(self.loader)
        for _ in range(len(self.loader)):
            start = self.now()
            batch = next(batches).to(self.device)
            loaded = self.now()
            with torch.no_grad():
                for model in self.models:
                    model(batch)
            handed_over = self.now()
            yield batch
            self.statistics.append(self.now() - handed_over)
            self.images.append(len(batch))
            self.data.append(loaded - start)
            self.forward.append(handed_over - loaded)

    def now(self) -> float:
        """Wait for the device, and read the clock."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()

    def report(self) -> dict[str, Any]:
        """Sum up all batches but the first; `capture` is what the first took longer."""
        images, data, forward, stats = (
            values[1:] for values in (self.images, self.data, self.forward, self.statistics)
        )
        ratios = [mine / plain for mine, plain in zip(stats, forward, strict=True)]
        n, spread = sum(images), quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return {
            "seconds": {
                "capture": max(0.0, self.statistics[0] - median(stats)),
                "data": sum(data),
                "statistics": sum(stats),
                "two plain forward passes": sum(forward),
            },
            "timed_images": n,
            "timed_batches": len(ratios),
            "images_per_second": {
                "data": n / sum(data),
                "statistics": n / sum(stats),
                "two plain forward passes": n / sum(forward),
                "data and statistics": n / (sum(data) + sum(stats)),
            },
            "ratio": median(ratios),
            "ratio_quartiles": [spread[0], spread[2]],
        }


def build_models(options: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """Return both networks in evaluation mode, from checkpoints or from two seeds."""
    models = []
    for name, file in (("a", options.weights_a), ("b", options.weights_b)):
        torch.manual_seed(options.seed + len(models))
        state = None if file is None else load_state_dict(file)
        classes = len(state["fc.bias"]) if state and "fc.bias" in state else 1000
        model = MODELS[options.model](classes=classes)
        if state is not None:
            load_into(model, state, name=f"network {name}")
        models.append(model.eval().to(options.device))
    return models[0], models[1]


def build_loader(options: argparse.Namespace) -> DataLoader:
    """Return the batches: a fixed subset of the folder's images, or synthetic ones."""
    wanted = min(options.samples, (options.steps or math.inf) * options.batch_size)
    if options.data is None:
        images: Dataset[Tensor] = SyntheticImages(wanted, options.image_size, options.seed)
    else:
        images = ImageFolder(options.data, options.image_size)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(options.seed))
        images = Subset(images, order[:wanted].sort().values.tolist())
    return DataLoader(
        images,
        batch_size=options.batch_size,
        num_workers=options.workers,
        pin_memory=options.device.type == "cuda",
        generator=torch.Generator().manual_seed(options.seed),
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line, and refuse what cannot be run before anything is built."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", choices=MODELS, default="resnet50")
    add("--weights-a", type=Path, metavar="FILE", help="checkpoint of network a; else random")
    add("--weights-b", type=Path, metavar="FILE", help="checkpoint of network b; else random")
    add("--data", type=Path, metavar="DIR", help="folder of class folders; else synthetic images")
    add("--samples", type=_count, default=5000, metavar="N", help="images (default: 5000)")
    add("--steps", type=_count, metavar="N", help="batches at most")
    add("--batch-size", type=_count, default=64, metavar="N", help="default: 64")
    add("--image-size", type=_count, default=CROPPED, metavar="N", help=f"default: {CROPPED}")
    add("--seed", type=int, default=0, help="of the images, and of a; b has the next (default: 0)")
    add("--device", type=torch.device, help="default: cuda where there is one, else cpu")
    add("--precision", choices=("ieee", "tf32x3", "tf32"), default="tf32x3")
    decode = "processes that load images (default: 4; on a CPU 0: they would disturb the timing)"
    add("--workers", type=int, metavar="N", help=decode)
    add("--json", metavar="FILE", help="write the result there; - prints it instead of the table")
    options = parser.parse_args(arguments)
    if options.device is None:
        options.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.workers is None:
        options.workers = 4 if options.device.type == "cuda" else 0
    if (options.weights_a is None) != (options.weights_b is None):
        parser.error("--weights-a and --weights-b go together; give both, or neither")
    if options.data is not None:
        try:
            import PIL  # noqa: F401
        except ImportError:
            parser.error("--data needs Pillow to decode images; install it: pip install pillow")
    return options


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def print_table(result: dict[str, Any]) -> None:
    """Print what a person wants to know of a result."""
    rates = result["images_per_second"]
    print(f"{result['networks']}; {result['images']}; on {result['device']}")
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
    loader = build_loader(options)
    if len(loader) < 2:
        raise CalibrationDataError(
            "expected at least 2 batches, as the first one warms up; the images fill "
            f"{len(loader)}. Take more images, or a smaller --batch-size."
        )
    models = build_models(options)
    stopwatch = Stopwatch(loader, models, options.device)
    stats = rk.compute_stats(
        *models, stopwatch, precision=options.precision, progress=sys.stderr.isatty()
    )
    weights = "random weights" if options.weights_a is None else "weights from files"
    source = "synthetic images (normal random numbers)" if options.data is None else "real images"
    size = f"3 x {options.image_size} x {options.image_size}"
    dead = list(stats.dead.values())
    result = {
        "networks": f"two {options.model}s with {weights}, {options.precision}",
        "images": f"{source} of {size} in batches of {options.batch_size}",
        **provenance("imagenet_stats.py", options.device, arguments),
        **stopwatch.report(),
        "n_images": stats.n_images,
        "taps": len(stats),
        "taps_with_cross": sum(moments.cross is not None for moments in stats.values()),
        "dead": {"a": sum(count.a for count in dead), "b": sum(count.b for count in dead)},
    }
    text = json.dumps(result, indent=1)
    if options.json == "-":
        print(text)
        return 0
    print_table(result)
    if options.json:
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RepairKernelsError as error:
        sys.exit(f"error: {error}")
