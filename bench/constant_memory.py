"""Stream a million small images through the statistics, and watch the memory stay as it is.

    python bench/constant_memory.py [--images 1000000] [--json bench/results/constant_memory.json]

The images are made on the way, each from its number, by a source that starts anywhere; checkpoints
are written all along, as a long run would. The resident set (Linux) is read after every so many
images. The first tenth, in which PyTorch and its allocators settle, is left out of what must not
grow.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.measuring.provenance import provenance, write_rows  # noqa: E402
from bench.statistics_memory import resident  # noqa: E402
from repair_kernels.statistics.collecting import compute_stats  # noqa: E402
from repair_kernels.statistics.resuming import Checkpointing  # noqa: E402

SHAPE = (3, 8, 8)
BATCH = 250
SAMPLES = 100
"""How often memory is read."""
SETTLING = 0.1
ALLOWED = 8 * 2**20
"""Growth that is none: pages of allocators and of the interpreter."""


@dataclass
class Images:
    """Small images by number. `memory` has the resident set, by the number of images so far."""

    count: int
    memory: dict[int, int] = field(default_factory=dict)
    fingerprint: str = "small images by number"

    def __len__(self) -> int:
        return self.count

    def loader(self, batch_size: int, *, start: int = 0, stop: int | None = None) -> Loader:
        """Return the batches of images `start` to `stop`."""
        return Loader(self, batch_size, range(start, self.count if stop is None else stop))

    def images(self, numbers: range) -> Tensor:
        """Return new memory for each batch, as a data loader does."""
        if numbers.start % max(BATCH, self.count // SAMPLES // BATCH * BATCH) == 0:
            self.memory[numbers.start] = resident("VmRSS")
        phase = torch.arange(numbers.start, numbers.stop)[:, None, None, None]
        places = torch.arange(1, 1 + torch.Size(SHAPE).numel()).view(1, *SHAPE)
        return torch.sin(phase * 0.37 + places).float()


@dataclass
class Loader:
    """Batches of consecutive images."""

    source: Images
    batch_size: int
    numbers: range

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.numbers), self.batch_size):
            yield self.source.images(self.numbers[start : start + self.batch_size])


def network(seed: int) -> nn.Module:
    """Return a small convolutional network."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def stream(count: int, seconds: float = 5.0) -> dict[str, Any]:
    """Take the statistics of so many images; return what memory did meanwhile."""
    source = Images(count)
    with tempfile.TemporaryDirectory() as folder:
        kept = Checkpointing(Path(folder, "run"), seconds=seconds)
        started = time.monotonic()
        stats = compute_stats(
            network(0),
            network(1),
            source.loader(BATCH),
            cross="all",
            backend="torch",
            checkpointing=kept,
        )
        took = time.monotonic() - started
    settled = {n: size for n, size in source.memory.items() if n >= SETTLING * count}
    first, *_, last = settled.values()
    return {
        "images": stats.n_images,
        "seconds": round(took, 1),
        "settled_bytes": first,
        "last_bytes": last,
        "largest_bytes": max(settled.values()),
        "grown_bytes": max(settled.values()) - first,
        "memory": source.memory,
    }


def is_constant(row: dict[str, Any], count: int) -> bool:
    """Tell whether all images were seen and memory did not grow."""
    return row["images"] == count and row["grown_bytes"] <= ALLOWED


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 1 if memory grew."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    row = stream(options.images)
    memory = row.pop("memory")
    print(*(f"{name}: {value:,}" for name, value in row.items()), sep="\n")
    if options.json:
        where = provenance("constant_memory.py", torch.device("cpu"), arguments or sys.argv[1:])
        rows = [{"images": n, "resident_bytes": size} for n, size in memory.items()]
        write_rows(options.json, {**where, "summary": row}, rows)
    return 0 if is_constant(row, options.images) else 1


if __name__ == "__main__":
    sys.exit(main())
