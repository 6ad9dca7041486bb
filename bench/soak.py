"""Kill passes over the data again and again, and count whether any image is lost or doubled.

    python bench/soak.py [--minutes 30] [--json bench/results/soak.json]

Each round takes statistics of numbered images in one to three shards, from a source that starts
anywhere or from an iterator that is read from its start. A process works on a shard until it is
killed (SIGKILL) at a random moment, another one resumes, and so on until the shard is done. Then

- the images are counted: tap "0" is the input itself, which says for each image its number and the
  remainder of it, so that sums over the tap are counts of images;
- the file must be, bit for bit, that of a process that nobody killed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.provenance import provenance, write_rows  # noqa: E402
from repair_kernels.atomic import remove_leftovers  # noqa: E402
from repair_kernels.statistics.collecting import compute_stats  # noqa: E402
from repair_kernels.statistics.paired_stats import PairedStats  # noqa: E402
from repair_kernels.statistics.parts import merge_files  # noqa: E402
from repair_kernels.statistics.resuming import Checkpointing  # noqa: E402

BUCKETS = 8
NUMBER = BUCKETS
WIDTH = 32
EARLY = 0.15
"""How often a process is killed before it has read anything."""
MAX_KILLS = 40
"""Of one shard; then it is left in peace."""


@dataclass(frozen=True)
class Numbered:
    """Images of which each says its number: a source, and its batches, as `compute_stats` wants.

    Attributes:
        count: how many there are
        begun: a file that is made when the pass reads its first images, behind the example
    """

    count: int
    begun: Path | None = None
    reads: list[range] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """The same for the same images."""
        return f"soak {self.count}"

    def __len__(self) -> int:
        return self.count

    def loader(self, batch_size: int, *, start: int = 0, stop: int | None = None) -> Loader:
        """Return batches of the images `start` to `stop`."""
        return Loader(self, batch_size, range(start, self.count if stop is None else stop))

    def images(self, numbers: range) -> Tensor:
        """Return a one-hot remainder, the number, and noise that depends on the number alone."""
        self.reads[:] = [*self.reads[-1:], numbers]
        if self.begun is not None and len(self.reads) > 1:
            self.begun.touch()
        i = torch.tensor(numbers, dtype=torch.float64)[:, None]
        remainder = (i % BUCKETS == torch.arange(BUCKETS)).double()
        noise = torch.sin(i * torch.arange(1, WIDTH - NUMBER))
        return torch.cat([remainder, i, noise], dim=1)


@dataclass
class Loader:
    """Batches of consecutive images."""

    source: Numbered
    batch_size: int
    numbers: range

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.numbers), self.batch_size):
            yield self.source.images(self.numbers[start : start + self.batch_size])


@dataclass(frozen=True)
class Round:
    """One data set, counted once.

    Attributes:
        kind: "source", which starts anywhere, or "iterator", which is read from its start
        shards: how many parts
        images, batch_size: how many there are, and in a batch
        every: batches between two checkpoints
    """

    kind: str
    shards: int
    images: int
    batch_size: int
    every: int

    @classmethod
    def drawn(cls, draw: random.Random) -> Round:
        """Return a round of random kind and size."""
        return cls(
            kind=draw.choice(["source", "iterator"]),
            shards=draw.randint(1, 3),
            images=draw.randint(5_000, 20_000),
            batch_size=draw.choice([16, 33, 64]),
            every=draw.choice([1, 1, 2, 7]),
        )


def networks() -> list[nn.Module]:
    """Return two networks whose first layer hands on the input; float64, the same each time."""
    made = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        first = nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.float64)
        second = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)
        with torch.no_grad():
            first.weight.copy_(torch.eye(WIDTH))
            second.weight.normal_(generator=generator)
            second.bias.normal_(generator=generator)
        made.append(
            nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(WIDTH, 3).double())
        )
        with torch.no_grad():
            made[-1][4].weight.fill_(0.1)
            made[-1][4].bias.zero_()
    return made


def work(one: Round, shard: str, folder: Path, begun: Path | None) -> None:
    """Take the statistics of one shard; if it may be killed, from the checkpoint on."""
    torch.set_num_threads(1)
    source = Numbered(one.images, begun)
    batches: Any = source.loader(one.batch_size)
    name = shard.replace("/", "-of-")
    path = folder / f"{name}.partial"
    kept = Checkpointing(path, seconds=1e9, batches=one.every, resume=True)
    stats = compute_stats(
        *networks(),
        iter(batches) if one.kind == "iterator" else batches,
        cross="all",
        backend="torch",
        shard=shard,
        checkpointing=kept if begun else None,
    )
    remove_leftovers(folder / name)
    stats.save(folder / name)


def shaken(
    context: BaseContext, one: Round, shard: str, folder: Path, draw: random.Random
) -> dict[str, int]:
    """Work on a shard with processes that are killed; return how many, and what they left."""
    kills = torn = 0
    begun = folder.with_name("begun")
    while True:
        begun.unlink(missing_ok=True)
        process = context.Process(target=work, args=(one, shard, folder, begun))
        process.start()
        if kills == MAX_KILLS:
            process.join()
        elif draw.random() < EARLY:
            process.join(draw.uniform(0, 0.5))
        else:
            while process.is_alive() and not begun.exists():
                time.sleep(0.02)
            process.join(draw.uniform(0, 0.6))
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
            torn += bool(list(folder.glob(".*")))
        elif process.exitcode == 0:
            return {"kills": kills, "killed_while_writing": torn}
        else:
            raise RuntimeError(f"a process of {one} ended with {process.exitcode}")


def counted(stats: PairedStats, images: int) -> dict[str, int]:
    """Return how many images are missing, and how many too many, by what the images say."""
    tap = stats["0"]
    totals = (tap.mean_a * tap.n_samples).tolist()
    expected = [len(range(k, images, BUCKETS)) for k in range(BUCKETS)]
    found = [round(total) for total in totals[:BUCKETS]]
    difference = [x - y for x, y in zip(found, expected, strict=True)]
    return {
        "counted": tap.n_samples,
        "lost": -sum(d for d in difference if d < 0),
        "doubled": sum(d for d in difference if d > 0),
        "sum_of_numbers_off_by": round(totals[NUMBER]) - images * (images - 1) // 2,
    }


def shake(context: BaseContext, one: Round, draw: random.Random) -> dict[str, Any]:
    """Do one round; return its row."""
    row = {**asdict(one), "kills": 0, "killed_while_writing": 0}
    with tempfile.TemporaryDirectory() as scratch:
        killed, calm = Path(scratch, "killed"), Path(scratch, "calm")
        killed.mkdir()
        calm.mkdir()
        shards = [f"{number + 1}/{one.shards}" for number in range(one.shards)]
        for shard in shards:
            for name, value in shaken(context, one, shard, killed, draw).items():
                row[name] += value
            undisturbed = context.Process(target=work, args=(one, shard, calm, None))
            undisturbed.start()
            undisturbed.join()
        names = [shard.replace("/", "-of-") for shard in shards]
        row["same_bits"] = all(
            (killed / name).read_bytes() == (calm / name).read_bytes() for name in names
        )
        merged = merge_files([killed / name for name in names])
        row |= counted(merged, one.images)
        # Each checkpoint stays until its result is safe; nothing else may.
        left = {file.name for file in killed.iterdir()} - {*names, *(f"{n}.partial" for n in names)}
        row["leftovers"] = len(left)
    return row


def is_sound(row: dict[str, Any]) -> bool:
    """Tell whether a round lost nothing, doubled nothing, and ended in the same bits."""
    names = ("lost", "doubled", "sum_of_numbers_off_by", "leftovers")
    return row["same_bits"] and row["counted"] == row["images"] and not any(map(row.get, names))


def soak(minutes: float, *, seed: int = 0, start: str = "fork") -> list[dict[str, Any]]:
    """Do rounds until the time is up, at least one.

    Args:
        start: how processes are started; "fork" needs a process without threads
    """
    context = multiprocessing.get_context(start)
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    end = time.monotonic() + 60 * minutes
    while not rows or time.monotonic() < end:
        rows.append(shake(context, Round.drawn(draw), draw))
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 1 if anything was lost, doubled or differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.monotonic()
    rows = soak(options.minutes, seed=options.seed)
    sums = ("images", "counted", "kills", "killed_while_writing", "lost", "doubled")
    summary: dict[str, Any] = {name: sum(row[name] for row in rows) for name in sums}
    summary |= {
        "rounds": len(rows),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "rounds_with_the_same_bits": sum(row["same_bits"] for row in rows),
    }
    print(*(f"{name}: {value}" for name, value in summary.items()), sep="\n")
    if options.json:
        where = provenance("soak.py", torch.device("cpu"), arguments or sys.argv[1:])
        write_rows(options.json, {**where, "summary": summary}, rows)
    return 0 if all(map(is_sound, rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
