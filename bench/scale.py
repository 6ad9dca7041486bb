"""Predict `compute_stats` on 1 to 1,024 GPUs, for ImageNet and for a billion images.

    python bench/scale_inputs.py     measure decoding, start-up and compilation on this machine
    python bench/scale_check.py      hold the model against processes on this machine
    python bench/scale.py            predict: bench/results/scale.json, docs/images/scale.png
    python bench/report.py           docs/scale.md's tables

Work is counted (`scaling/workload.py`), times of kernels are those of `predict.py`, machines are
those of `scaling/cluster.py`, and `scaling/model.py` puts them together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import bench.compiled.launches as launches  # noqa: E402, I001  (first: it prepares the import of Triton)
import torch  # noqa: E402

from bench import predict  # noqa: E402
from bench.scaling import cluster, model  # noqa: E402
from bench.scaling.exchange import exchange_of, merging_of  # noqa: E402
from bench.measuring.provenance import provenance, write_rows  # noqa: E402
from bench.measuring.roofline import RATES  # noqa: E402
from bench.scaling.plot import draw  # noqa: E402
from bench.shapes import Tap  # noqa: E402
from bench.scaling.workload import Workload, count  # noqa: E402
from models.resnet import imagenet_resnet18, imagenet_resnet50  # noqa: E402
from repair_kernels import kernels  # noqa: E402
from repair_kernels.kernels import devices  # noqa: E402
from repair_kernels.moments import PairedMoments  # noqa: E402
from repair_kernels.statistics.paired_stats import PairedStats  # noqa: E402

RESULTS = ROOT / "bench" / "results"
NETWORKS = {
    "ResNet18": imagenet_resnet18,
    "ResNet50": imagenet_resnet50,
    "ResNet50×2": lambda: imagenet_resnet50(width=2),
}
BATCH, PIXELS = 64, 224
UNITS = {"fp32": "tf32", "bf16": "16bit"}  # dtype -> what convolutions use
MERGING = 20  # operators that merge a batch into the totals; see `running.py`
IMAGENET, BILLION, PAPER = 1_281_167, 10**9, 5_000
Compiled = dict[tuple[str, str, str], dict[str, Any]]


@cache
def workload(name: str) -> Workload:
    """Return the counted work of a network."""
    return count(name, NETWORKS[name](), batch=BATCH, pixels=PIXELS)


def kernel_launches(
    work: Workload, dtype: str
) -> dict[tuple[Tap, launches.Case], list[launches.Started]]:
    """Return what the statistics of one batch launch on an H100, by tap and case.

    Where only moments are taken, the op is called for each network.
    """
    found: dict[tuple[Tap, launches.Case], list[launches.Started]] = {}
    for tap in work.taps:
        x = torch.empty(tap.shape, dtype=launches.DTYPES[dtype], device="meta")
        layout = "rows"
        if x.dim() == 4:
            x, layout = x.to(memory_format=torch.channels_last), "channels_last"
        place = tap.label, dtype, layout
        if tap in work.crossed:
            counted = tap.paired_bytes(x.element_size()), tap.paired_flops()
            case = launches.Case("paired_moments", *place, "cross", "tf32x3", *counted, tap)

            def call(x: torch.Tensor = x) -> Any:
                return kernels.paired_moments(x, torch.empty_like(x), **launches.FORMS["cross"])
        else:
            counted = tap.channel_bytes(x.element_size()), 0
            case = launches.Case("channel_moments", *place, "", "", *counted, tap)

            def call(x: torch.Tensor = x) -> Any:
                return kernels.channel_moments(x)

        times = 1 if tap in work.crossed else 2
        found[tap, case] = times * launches.launches_of(devices.KNOWN["sm_90"], call)
    return found


def statistics_seconds(
    found: dict[tuple[Tap, launches.Case], list[launches.Started]], chip: str, compiled: Compiled
) -> float:
    """Return the predicted time of the statistics of one batch on a chip.

    A launch that was not compiled (the logits') takes what its bytes take.
    """
    rates, seconds = RATES[chip], 0.0
    for (_, case), started in found.items():
        keys = {(one.launch.name, rates.arch, one.launch.config) for one in started}
        if keys <= compiled.keys():
            seconds += predict.predict(case, started, chip, compiled)["predicted"]
        else:
            bytes_moved = sum(size for one in started for _, size in one.tensors)
            seconds += rates.memory_seconds(bytes_moved) + predict.LAUNCH * len(started)
    return seconds


def forward_seconds(work: Workload, chip: str, dtype: str) -> float:
    """Return the predicted time of both networks' operators on one batch, one after the other."""
    rates, seconds = RATES[chip], 0.0
    share = launches.DTYPES[dtype].itemsize / 4  # operators were counted in float32
    for operator in work.forward:
        moving = rates.memory_seconds(operator.bytes) * share / predict.COPY_SHARE
        products = rates.product_seconds(operator.flops, UNITS[dtype])
        seconds += max(moving, products / cluster.CONVOLUTION_SHARE) + predict.LAUNCH
    return 2 * seconds


def totals(work: Workload) -> PairedStats:
    """Return statistics with a network's taps, of one sample."""
    seen = {}
    for tap in work.taps:
        empty = PairedMoments.empty(tap.channels, tap.channels, cross=tap in work.crossed)
        seen[tap.name] = PairedMoments(1, **{"cross": None, **empty.tensors})
    return PairedStats(seen, n_images=1)


def image_sets(inputs: dict[str, Any]) -> Iterator[model.Images]:
    """Yield the sets of images, as files that are decoded on the way and as decoded pixels."""
    seconds, listing = inputs["decode"], inputs["listing_seconds"]
    names = {
        "5,000 of ImageNet": (PAPER, IMAGENET),
        "ImageNet": (IMAGENET, IMAGENET),
        "10⁹ images, tar files": (BILLION, int(BILLION / cluster.SHARD_IMAGES)),
    }
    for name, (images, files) in names.items():
        from_files = cluster.JPEG_BYTES, seconds["jpeg_seconds"], files
        yield model.Images(f"{name}", images, *from_files, listing)
    for name, (images, _) in names.items():
        ahead = cluster.PIXEL_BYTES, seconds["pixels_seconds"]
        files = int(-(-images // cluster.SHARD_IMAGES))
        yield model.Images(f"{name}, decoded ahead", images, *ahead, files, listing)


def describe(name: str, compiled: Compiled, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return what is counted and predicted of a network on one GPU."""
    work = workload(name)
    stats = totals(work)
    merging = merging_of(stats)
    chips = {}
    for chip in ("NVIDIA H100", "NVIDIA H200"):
        for dtype in UNITS:
            found = kernel_launches(work, dtype)
            started = sum(map(len, found.values()))
            operators = 2 * len(work.forward) + len(work.crossed) + MERGING
            chips[f"{chip}, {dtype}"] = {
                "forward_seconds": forward_seconds(work, chip, dtype),
                "statistics_seconds": statistics_seconds(found, chip, compiled),
                "operators": operators,
                "launches": started,
                "launch_seconds": operators * inputs["operator_seconds"]
                + started * cluster.HOST_LAUNCH,
                "merging_seconds": sum(
                    max(
                        RATES[chip].memory_seconds(operator.bytes) / predict.COPY_SHARE,
                        inputs["operator_seconds"],
                    )
                    for operator in merging
                ),
            }
    return {
        "network": name,
        "batch": work.batch,
        "parameter_bytes": work.parameter_bytes,
        "forward_flops": work.forward_flops,
        "forward_bytes": work.forward_bytes,
        "statistics_flops": work.statistics_flops,
        "statistics_bytes": work.statistics_bytes(),
        "taps": len(work.taps),
        "crossed": len(work.crossed),
        "total_bytes": work.total_bytes,
        "exchange": asdict(exchange_of(stats)),
        "merging_operators": len(merging),
        "merging_bytes": sum(operator.bytes for operator in merging),
        "capture_seconds": inputs["capture_seconds"][name],
        "chips": chips,
    }


def published() -> list[dict[str, Any]]:
    """Return a published speed of ResNet50's training beside three of the model's forward passes.

    Source: NVIDIA/DeepLearningExamples, ConvNets/resnet50v1.5, one A100 of a DGX A100.
    """
    work = workload("ResNet50")
    rows = []
    for dtype, images_per_second in (("fp32", 938), ("bf16", 2470)):
        forward = forward_seconds(work, "NVIDIA A100", dtype) / 2
        rows.append({"dtype": dtype, "published": images_per_second})
        rows[-1]["predicted"] = BATCH / (3 * forward)
    return rows


def main() -> int:
    """Predict everything and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS / "scale.json", metavar="FILE")
    parser.add_argument("--inputs", type=Path, default=RESULTS / "scale_inputs.json")
    picture = ROOT / "docs" / "images" / "scale.png"
    parser.add_argument("--picture", type=Path, default=picture, metavar="FILE")
    options = parser.parse_args()
    inputs = json.loads(options.inputs.read_text())
    rows = json.loads((RESULTS / "compiled.json").read_text())["rows"]
    compiled = {(row["kernel"], row["target"], row["config"]): row for row in rows}
    networks = [describe(name, compiled, inputs) for name in NETWORKS]
    found = []
    imagenet = next(images for images in image_sets(inputs) if images.name == "ImageNet")
    for row in networks:
        for chip, times in row["chips"].items():
            node = int(cluster.GPUS_PER_NODE)
            times["rates"] = model.rates(model.work_of(row, chip), imagenet, node)
        work = model.work_of(row, model.CHIP)
        for images in image_sets(inputs):
            for gpus in model.gpu_counts():
                seconds = model.parts(work, images, gpus, import_seconds=inputs["import_seconds"])
                place = {"network": row["network"], "images": images.name, "gpus": gpus}
                whole = {"seconds": model.total(seconds), "limit": model.limit(seconds)}
                found.append({**place, **whole, "parts": seconds})
    where = provenance("scale.py", torch.device("cpu"), sys.argv[1:])
    known = {name: [one, one.meaning, one.source] for name, one in cluster.CONSTANTS.items()}
    where |= {"constants": known, "networks": networks, "published": published()}
    where |= {"image_sets": {images.name: asdict(images) for images in image_sets(inputs)}}
    write_rows(options.json, where, found)
    print(f"{options.json}: {len(found)} predictions")
    draw(found, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
