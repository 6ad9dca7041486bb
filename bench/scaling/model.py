"""How long `compute_stats` takes on many GPUs: the formula, without any counting or measuring.

Every rank reads its share of the images. What it does to them goes on at once, stage beside stage,
so that the slowest one sets the pace:

    T(N) = start + listing + first batch + max(read, decode, copy, launch, compute) + exchange

with m = ceil(images / N) images for each rank. A batch is decoded by one worker process, so
that with fewer batches than workers some have nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from bench.scaling import cluster
from bench.scaling.exchange import Exchange

CHIP = "NVIDIA H100, fp32"  # of which scaling is predicted
WORKERS = int(cluster.CORES_PER_NODE / cluster.GPUS_PER_NODE) - 1  # one core runs the GPU
STAGES = ("read", "decode", "copy", "launch", "compute")
ONCE = ("start", "listing", "first batch", "exchange")


@dataclass(frozen=True)
class Work:
    """One pair of networks on one kind of GPU: seconds of a full batch, and what is exchanged.

    `merging_seconds` are those of a rank that prepares its totals for the others', and merges them.
    """

    network: str
    batch: int
    compute_seconds: float  # of the GPU
    launch_seconds: float  # of the host that starts its work
    capture_seconds: float
    exchange: Exchange
    merging_seconds: float = 0.0


def work_of(row: dict[str, Any], chip: str) -> Work:
    """Return what the model needs to know of a network, from a row of `scale.json`."""
    times = row["chips"][chip]
    device = times["forward_seconds"] + times["statistics_seconds"]
    return Work(
        row["network"],
        row["batch"],
        device,
        times["launch_seconds"],
        row["capture_seconds"],
        Exchange(**row["exchange"]),
        times["merging_seconds"],
    )


@dataclass(frozen=True)
class Images:
    """Where images come from."""

    name: str
    count: int
    bytes: float  # of one image in storage
    decode_seconds: float  # of one core for one image
    files: int  # whose names are listed before anything is read
    listing_seconds: float  # for one of them


def read_bandwidth(gpus: int) -> float:
    """Return bytes/s that one GPU's processes read from shared storage."""
    node = cluster.STORAGE_PER_NODE / cluster.gpus_of_node(gpus)
    return min(node, cluster.STORAGE / gpus)


def rates(work: Work, images: Images, gpus: int) -> dict[str, float]:
    """Return the images/s that each stage can do for one GPU."""
    return {
        "read": read_bandwidth(gpus) / images.bytes,
        "decode": WORKERS / images.decode_seconds,
        "copy": cluster.PCIE / cluster.PIXEL_BYTES,  # normalised on the GPU
        "launch": work.batch / work.launch_seconds,
        "compute": work.batch / work.compute_seconds,
    }


def parts(work: Work, images: Images, gpus: int, *, import_seconds: float) -> dict[str, float]:
    """Return the seconds of one rank by stage, and of what happens once."""
    share = ceil(images.count / gpus)
    full = {stage: share / rate for stage, rate in rates(work, images, gpus).items()}
    first = min(share, work.batch) * images.decode_seconds
    full["decode"] = max(full["decode"] - first, 0.0)  # the first batch is counted on its own
    full["launch"] = ceil(share / work.batch) * work.launch_seconds
    found = cluster.CUDA_START + import_seconds + work.capture_seconds
    sending = work.exchange.seconds(
        gpus,
        start=cluster.collective_start(gpus),
        bandwidth=cluster.link_bandwidth(gpus),
        step=cluster.MESSAGE_STEP,
        message_bandwidth=cluster.MESSAGES,
    )
    return full | {
        "start": found + cluster.meeting_seconds(gpus),
        "listing": images.files * images.listing_seconds,
        "first batch": first,
        "exchange": sending + (work.merging_seconds if gpus > 1 else 0.0),
    }


def total(found: dict[str, float]) -> float:
    """Return the seconds of the whole: what happens once, and the slowest stage."""
    return sum(found[name] for name in ONCE) + max(found[name] for name in STAGES)


def limit(found: dict[str, float]) -> str:
    """Return what takes longest."""
    return max(found, key=lambda name: found[name])


def last_efficient(seconds: dict[int, float], least: float = 0.5) -> int:
    """Return the most GPUs of which at least that share is made use of: T(1) / (N T(N)).

    Example:
        >>> last_efficient({1: 10.0, 2: 6.0, 4: 4.0, 8: 3.0})
        4
    """
    return max(n for n, took in seconds.items() if seconds[1] / (n * took) >= least)


def gpu_counts(most: int = 1024) -> Sequence[int]:
    """Return the powers of two up to `most`."""
    return [2**power for power in range(most.bit_length())]
