"""Kill passes over the data again and again, and count whether any image is lost or doubled.

    python bench/soak.py [--minutes 30] [--json bench/results/soak.json]

Each round is `repair-kernels stats` on numbered images, whole or in two shards. The rounds take
turns: images in class folders, images in tar files, and two processes of torchrun that share either
of these (over Gloo). Each command is killed (SIGKILL) at random moments, of torchrun one of the
ranks or all processes, and started again with `--resume` until it is done. Then

- every image is counted: it must be in the totals once;
- the files must be, bit for bit, those of commands that nobody killed.

The result has a row for each kind of round.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.measuring.provenance import provenance, write_rows  # noqa: E402
from bench.robustness import kills, marked_images  # noqa: E402
from repair_kernels.statistics.parts import merge_files  # noqa: E402

COMMAND = ["-m", "repair_kernels", "stats"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
FOLDER, TAR = "class folders", "tar shards"
WRITERS: dict[str, Callable[[Path, int], None]] = {
    FOLDER: marked_images.write_folder,
    TAR: marked_images.write_shards,
}
LAUNCHERS: dict[str, list[str]] = {FOLDER: [], TAR: [], "torchrun, 2 processes": TORCHRUN}
"""By kind of round: what stands in front of the command."""
KINDS = tuple(LAUNCHERS)
KILLS = ("kills", "kills_of_one_rank", "killed_while_writing", "resumes")
SUMS = ("images", "counted", "lost", "doubled", "leftovers")


@dataclass(frozen=True)
class Round:
    """One data set, counted once.

    Attributes:
        kind: of `KINDS`
        data: of `WRITERS`
        shards: how many parts
        images, batch_size: how many there are, and in a batch
        every: seconds between two checkpoints; 0: one for each batch
    """

    kind: str
    data: str
    shards: int
    images: int
    batch_size: int
    every: float

    @classmethod
    def drawn(cls, kind: str, draw: random.Random) -> Round:
        """Return a round of random size."""
        return cls(
            kind=kind,
            data=kind if kind in WRITERS else draw.choice([*WRITERS]),
            shards=draw.randint(1, 2),
            images=draw.randint(marked_images.VALUES // 2, marked_images.VALUES),
            batch_size=draw.choice([1, 2, 3, 5]),
            every=draw.choice([0, 0, 0, 0.02]),
        )

    def command(self, data: Path, networks: Sequence[str], shard: str, output: Path) -> list[str]:
        """Return what takes the statistics of one shard."""
        options = {
            "--data": data,
            "--preprocessing": "none",
            "--batch-size": self.batch_size,
            "--checkpoint-every": self.every,
            "--shard": shard,
            "--output": output,
        }
        words = [str(word) for option in options.items() for word in option]
        words += [*networks, "--resume", "--quiet"]
        return [sys.executable, *LAUNCHERS[self.kind], *COMMAND, *words]


def shake(one: Round, draw: random.Random) -> dict[str, Any]:
    """Do one round; return its row."""
    with tempfile.TemporaryDirectory() as scratch:
        data, killed, calm = (Path(scratch, name) for name in ("data", "killed", "calm"))
        killed.mkdir()
        calm.mkdir()
        WRITERS[one.data](data, one.images)
        networks = marked_images.write_networks(Path(scratch))
        shards = [f"{number + 1}/{one.shards}" for number in range(one.shards)]
        names = [f"{shard.replace('/', '-of-')}.safetensors" for shard in shards]
        counts: Counter[str] = Counter()
        for shard, name in zip(shards, names, strict=True):
            for folder, moments in ((killed, draw), (calm, None)):
                command = one.command(data, networks, shard, folder / name)
                counts += kills.until_done(command, folder / name, moments)
        return {
            **asdict(one),
            **{name: counts[name] for name in KILLS},
            **marked_images.count_images(merge_files([killed / n for n in names]), one.images),
            "leftovers": len({file.name for file in killed.iterdir()} - set(names)),
            "identical": all((killed / n).read_bytes() == (calm / n).read_bytes() for n in names),
        }


def is_sound(row: dict[str, Any]) -> bool:
    """Tell whether a round lost nothing, doubled nothing, and ended in the same bits."""
    wrong = any(row[name] for name in ("lost", "doubled", "leftovers"))
    return row["identical"] and row["counted"] == row["images"] and not wrong


def soak(
    minutes: float, *, seed: int = 0, kinds: Sequence[str] = KINDS, report: Callable = id
) -> list[dict[str, Any]]:
    """Do rounds of all kinds in turn until the time is up, at least one of each.

    Args:
        report: told the row of each round when it ends
    """
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    end = time.monotonic() + 60 * minutes
    while len(rows) < len(kinds) or time.monotonic() < end:
        rows.append(shake(Round.drawn(kinds[len(rows) % len(kinds)], draw), draw))
        report(rows[-1])
    return rows


def by_kind(rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the sums over the rounds of each kind."""
    rows = []
    for kind in dict.fromkeys(row["kind"] for row in rounds):
        of_kind = [row for row in rounds if row["kind"] == kind]
        sums = {name: sum(row[name] for row in of_kind) for name in (*KILLS, *SUMS)}
        identical = sum(row["identical"] for row in of_kind)
        rows.append({"kind": kind, "rounds": len(of_kind), **sums, "identical": identical})
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
    rounds = soak(options.minutes, seed=options.seed, report=lambda row: print(row, flush=True))
    rows = by_kind(rounds)
    print(*rows, sep="\n")
    if options.json:
        where = provenance("soak.py", torch.device("cpu"), arguments or sys.argv[1:])
        minutes = round((time.monotonic() - started) / 60, 1)
        write_rows(options.json, {**where, "minutes": minutes}, rows)
    return 0 if all(map(is_sound, rounds)) else 1


if __name__ == "__main__":
    sys.exit(main())
