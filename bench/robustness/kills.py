"""Commands that are killed (SIGKILL) at random moments, and started again until they are done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
EARLY, LATE = 0.15, 0.1
"""How often a command is killed while it starts, and while it writes its result."""
START, STRETCH, END = 4.0, 0.6, 0.1
"""Within how many seconds it is killed: of its start, its first checkpoint, its result."""
ONE_RANK = 0.5
"""How often one rank is killed, where there are ranks; else all processes are."""
LONGEST = 300.0
"""How many seconds a command may take in all; more is an error."""
PAUSE = 0.01
MAX_KILLS = 6
"""Of one command; then it is left in peace."""


def until_done(command: Sequence[str], output: Path, draw: random.Random | None) -> Counter[str]:
    """Start a command until it ends well; return how often it was killed, and what that left.

    Args:
        command: goes on from the checkpoints `<output>.partial*`, if there are any
        output: the file it writes at its end
        draw: decides when it is killed; None: never
    Raises:
        RuntimeError: it failed though nobody killed it, or it hangs
    """
    counts: Counter[str] = Counter()
    while True:
        counts["resumes"] += bool(_checkpoints(output))
        hidden = set(output.parent.glob(".*"))
        killed = None
        with _started(command) as (process, said):
            if draw is not None and counts["kills"] < MAX_KILLS:
                _wait_for_a_moment(process, output, draw)
                killed = _kill(process, draw)
            try:
                code = process.wait(LONGEST)
            except subprocess.TimeoutExpired:
                code = f"nothing within {LONGEST:.0f} s"
            if code == 0:
                return counts
            if killed is None or isinstance(code, str):
                said.seek(0)
                text = said.read().decode(errors="replace")[-4000:]
                raise RuntimeError(
                    f"{' '.join(command)}\nended with {code}, killed: {killed}\n{text}"
                )
        counts["kills"] += 1
        counts["kills_of_one_rank"] += killed == "one rank"
        counts["killed_while_writing"] += bool(set(output.parent.glob(".*")) - hidden)


@contextmanager
def _started(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Start a command, on one thread; none of its processes is left when the block ends."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
        try:
            yield process, said
        finally:
            if process.poll() is None:
                _kill_all(process)


def _wait_for_a_moment(process: subprocess.Popen[bytes], output: Path, draw: random.Random) -> None:
    """Wait for a moment to kill a command; less if it ends before."""
    kind = draw.random()
    if kind < EARLY:
        seconds = draw.uniform(0, START)
    elif kind < EARLY + LATE:
        before = _results(output)
        _wait_until(process, lambda: _results(output) - before)
        seconds = draw.uniform(0, END)
    else:
        checkpoints = _checkpoints(output)
        _wait_until(process, lambda: _checkpoints(output) - checkpoints)
        seconds = draw.uniform(0, STRETCH)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _wait_until(process: subprocess.Popen[bytes], happened: Callable[[], object]) -> None:
    end = time.monotonic() + LONGEST
    while process.poll() is None and not happened() and time.monotonic() < end:
        time.sleep(PAUSE)


def _checkpoints(output: Path) -> set[tuple[str, int]]:
    """Return the names and times of the checkpoints that lie beside an output."""
    return _files(output, lambda name: name.startswith(f"{output.name}.partial"))


def _results(output: Path) -> set[tuple[str, int]]:
    """Return the output, and the temporary files that are to become it."""
    begun = f".{output.stem}-"
    return _files(
        output,
        lambda name: (
            name == output.name or (name.startswith(begun) and name.endswith(output.suffix))
        ),
    )


def _files(output: Path, wanted: Callable[[str], bool]) -> set[tuple[str, int]]:
    found = set()
    for entry in os.scandir(output.parent):
        if wanted(entry.name):
            with suppress(FileNotFoundError):
                found.add((entry.name, entry.stat().st_mtime_ns))
    return found


def _kill(process: subprocess.Popen[bytes], draw: random.Random) -> str | None:
    """Kill one of the ranks, or all processes; return which, or None if all is over."""
    if process.poll() is not None:
        return None
    ranks = _children(process.pid)
    if ranks and draw.random() < ONE_RANK:
        _end(draw.choice(ranks))
        return "one rank"
    _kill_all(process)
    return "all"


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and those below it, from the top down, and wait until they are gone."""
    family, known = [process.pid], 0
    while known < len(family):
        known += 1
        family += _children(family[known - 1])
    for pid in family:
        _end(pid)
    process.wait()
    end = time.monotonic() + LONGEST
    while any(map(_is_running, family)) and time.monotonic() < end:
        time.sleep(PAUSE)


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = set()
    with suppress(OSError):  # it is gone, or one of its threads is
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found |= {int(child) for child in (thread / "children").read_text().split()}
    return sorted(found)


def _is_running(pid: int) -> bool:
    """Tell whether a process is there, and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
