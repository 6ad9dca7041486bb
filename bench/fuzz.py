"""Feed damaged and hostile files to every reader, and see that each is read or refused, no more.

    python bench/fuzz.py [--files 10000] [--json bench/results/fuzz.json]

Each file is a sound one that was damaged, or one that was made to harm, damaged or as it is; files
of options are also edited so that some stay sound (all in `robustness/`). A reader may return, or
raise an error of this package. Faults are: a crash, any other exception, a file that appears (a
payload that ran, or a part of an output), a file with a checksum that is read with other contents,
options that a file does not say, too much time, and too much memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.measuring.provenance import provenance, write_rows  # noqa: E402
from bench.robustness.mutations import mutate  # noqa: E402
from bench.robustness.readers import TARGETS, Edit, Target  # noqa: E402
from bench.statistics_memory import resident  # noqa: E402
from repair_kernels.errors import RepairKernelsError  # noqa: E402

FORK = multiprocessing.get_context("fork")
SECONDS = 30.0
"""How long a reader may work on one of these small files, by the processor's clock."""
GROWTH = 2**30
"""How much memory it may take more than before."""
HOSTILE = 0.15
"""How many of the files were made to harm; half of these are damaged besides."""
EDITED = 0.5
"""How many of the files are edited, where a reader has edits; of the others some are hostile."""


class TooSlow(BaseException):
    """A reader takes too long; not an `Exception`, which a reader might catch."""


def fuzz(
    name: str, files: range, seed: int, folder: Path, *, report: Callable[[int], Any] = id
) -> dict[str, Any]:
    """Feed some files to one reader.

    Args:
        name: a key of `TARGETS`
        files: the numbers of the files: each is the same for the same number and seed
        seed: of all
        folder: an empty one
        report: told the number of each file before it is read
    Returns:
        how many were read, how many refused, the faults, and the most memory that was taken
    """
    target = TARGETS[name]
    place, trap = folder / "files", folder / "trap"
    place.mkdir()
    with warnings.catch_warnings(), _apart(place):
        warnings.simplefilter("ignore")
        path = target.make(place)
        sound = path.read_bytes()
        attacks = target.attacks(trap)
        there = set(place.rglob("*"))
        expected = _undamaged(target, path)
        counts: Counter[str] = Counter()
        faults = []
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the largest so far is forgotten
        for number in files:
            draw = random.Random(f"{seed} {name} {number}")
            kind, mutant = _mutant(sound, attacks, draw, target.edit)
            path.write_bytes(mutant)
            report(number)
            outcome, fault = _outcome(target, path, expected)
            if trap.exists():
                fault = "code was run"
                trap.unlink()
            if extra := set(place.rglob("*")) - there:
                fault = f"left {sorted(one.name for one in extra)}"
                for one in extra:
                    one.unlink()
            counts[outcome] += 1
            if fault:
                faults.append({"number": number, "kind": kind, "fault": fault})
    grown = max(0, resident("VmHWM") - before)
    if grown > GROWTH:
        faults.append({"number": -1, "kind": "all", "fault": f"took {grown:,} bytes"})
    return {
        "reader": name,
        "files": len(files),
        "read": counts["read"],
        "refused": counts["refused"],
        "most_memory_mib": round(grown / 2**20),
        "faults": faults,
    }


def _undamaged(target: Target, path: Path) -> Any:
    """Return what a sound file reads as; what a reader loads at its first use is loaded then."""
    with contextlib.suppress(Exception):  # a reader that fails is seen below
        return target.read(path)
    return None


def _mutant(
    sound: bytes, attacks: dict[str, bytes], draw: random.Random, edit: Edit | None
) -> tuple[str, bytes]:
    if edit is not None and draw.random() < EDITED:
        return edit(sound, draw)
    if draw.random() >= HOSTILE:
        return mutate(sound, draw)
    kind = draw.choice(list(attacks))
    if draw.random() < 0.5:
        return kind, attacks[kind]
    name, mutant = mutate(attacks[kind], draw)
    return f"{kind}, {name}", mutant


def _outcome(target: Target, path: Path, expected: Any) -> tuple[str, str | None]:
    """Return whether a file was read or refused, and what was wrong with that, if anything."""
    try:
        with _limited(SECONDS):
            found = target.read(path)
    except RepairKernelsError:
        return "refused", None
    except TooSlow:
        return "slow", f"took more than {SECONDS:.0f} s"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return "fault", f"{type(error).__name__} in {where}: {str(error)[:200]}"
    if target.checked and found != expected:
        return "read", "read with other contents"
    return "read", None


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def _apart(folder: Path) -> Iterator[None]:
    """Work in a folder, so that a relative path that a file names lies in it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def fuzz_in_its_own_process(name: str, count: int, seed: int) -> dict[str, Any]:
    """Feed files to a reader in a process, and in another one behind each that crashed."""
    row: dict[str, Any] = {"reader": name, "files": count, "read": 0, "refused": 0}
    row |= {"most_memory_mib": 0, "faults": []}
    start = 0
    while start < count:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            files = range(start, count)
            process = FORK.Process(target=_work, args=(name, files, seed, folder))
            process.start()
            process.join()
            if process.exitcode == 0:
                part, start = json.loads((folder / "row").read_text()), count
            else:
                mark = folder / "number"
                number = int(mark.read_text()) if mark.exists() else start
                fault = f"crashed ({process.exitcode})"
                part = {"faults": [{"number": number, "kind": "crash", "fault": fault}]}
                start = number + 1
        row["faults"] += part["faults"]
        row["most_memory_mib"] = max(row["most_memory_mib"], part.get("most_memory_mib", 0))
        for key in ("read", "refused"):
            row[key] += part.get(key, 0)
    return row


def _work(name: str, files: range, seed: int, folder: Path) -> None:
    """Be a process of `fuzz_in_its_own_process`."""
    torch.set_num_threads(1)
    (folder / "work").mkdir()
    mark = folder / "number"
    row = fuzz(name, files, seed, folder / "work", report=lambda n: mark.write_text(str(n)))
    (folder / "row").write_text(json.dumps(row))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--files", type=int, default=10_000, help="of all readers together")
    parser.add_argument("--reader", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--jobs", type=int, default=1, help="readers at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    options = parser.parse_args(arguments)
    each = -(-options.files // len(options.reader))
    rows = []
    count = len(options.reader)
    with ProcessPoolExecutor(options.jobs, mp_context=FORK) as pool:
        job = options.reader, [each] * count, [options.seed] * count
        for row in pool.map(fuzz_in_its_own_process, *job):
            rows.append(row)
            shown = {key: value for key, value in row.items() if key != "faults"}
            print(shown, f"{len(row['faults'])} faults", flush=True)
            for fault in row["faults"][:5]:
                print("  ", fault, flush=True)
    if options.json:
        where = provenance("fuzz.py", torch.device("cpu"), arguments or sys.argv[1:])
        faults = sum(len(row["faults"]) for row in rows)
        summary = {"files": sum(row["files"] for row in rows), "faults": faults}
        write_rows(options.json, {**where, "summary": summary}, rows)
    return 1 if any(row["faults"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
