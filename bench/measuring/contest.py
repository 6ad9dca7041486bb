"""Several ways to compute one thing, checked, then timed side by side.

Providers take turns round by round, in an order that shifts, so that a drift of the clock hits all
alike; every call gets the next of several sets of inputs, which together exceed a GPU's L2 cache.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Provider = Callable[..., Any]
COLD_BYTES = 256 * 2**20  # several times the L2 cache of today's GPUs (50 MB, 60 MB, 126 MB)
SLEEP_CYCLES = 2_000_000  # about 1 ms: what is launched meanwhile runs without gaps


@dataclass
class Entry:
    """One provider: how wrong it is, and how long it takes."""

    provider: Provider
    allowed: float  # the error up to which it is right
    error: float = float("nan")
    failure: str = ""  # why there is no error, in the provider's own words
    seconds: list[float] = field(default_factory=list)  # from call to result
    device_seconds: list[float] = field(default_factory=list)  # on the GPU alone

    @property
    def is_right(self) -> bool:
        """Whether it may be timed."""
        return not self.failure and self.error <= self.allowed

    def summary(self) -> dict[str, Any]:
        """Return error, medians and spreads; no time for a wrong one."""
        if not self.is_right:
            known = {"failure": self.failure} if self.failure else {"error": self.error}
            return {**known, "allowed": self.allowed}
        row: dict[str, Any] = {"error": self.error, "rounds": len(self.seconds)}
        for name in ("seconds", "device_seconds"):
            if times := getattr(self, name):
                row[name] = statistics.median(times)
                row[f"{name}_spread"] = max(times) - min(times)
        return row


class Contest:
    """Providers of one result on the same inputs."""

    def __init__(self, inputs: Sequence[tuple[Any, ...]], device: torch.device):
        self.inputs, self.device = inputs, device
        self.entries: dict[str, Entry] = {}
        self._rounds = itertools.count()

    def enter(
        self, name: str, provider: Provider, error_of: Callable[[Any], float], allowed: float
    ) -> None:
        """Check a provider on the first inputs; only a right one will be timed."""
        entry = self.entries[name] = Entry(provider, allowed)
        try:
            entry.error = error_of(provider(*self.inputs[0]))
        except Exception as error:  # whatever a compiler or the memory says
            entry.failure = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"

    def warm_up(self, rounds: int = 3) -> None:
        """Run every right provider on some inputs."""
        for _ in range(rounds):
            self.play()
        for entry in self.entries.values():
            entry.seconds.clear()
            entry.device_seconds.clear()

    def play(self) -> None:
        """Time every right provider once."""
        number = next(self._rounds)
        names = [name for name, entry in self.entries.items() if entry.is_right]
        for turn in range(len(names)):
            entry = self.entries[names[(number + turn) % len(names)]]
            call = number * len(names) + turn
            self._time(entry, call)

    def results(self) -> dict[str, dict[str, Any]]:
        """Return a summary of every provider."""
        return {name: entry.summary() for name, entry in self.entries.items()}

    def _time(self, entry: Entry, call: int) -> None:
        inputs = self.inputs[call % len(self.inputs)]
        if self.device.type != "cuda":
            start = time.perf_counter()
            entry.provider(*inputs)
            entry.seconds.append(time.perf_counter() - start)
            return
        torch.cuda.synchronize()
        start = time.perf_counter()
        entry.provider(*inputs)
        torch.cuda.synchronize()
        entry.seconds.append(time.perf_counter() - start)
        inputs = self.inputs[(call + 1) % len(self.inputs)]
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        torch.cuda._sleep(SLEEP_CYCLES)
        events[0].record()
        entry.provider(*inputs)
        events[1].record()
        torch.cuda.synchronize()
        entry.device_seconds.append(events[0].elapsed_time(events[1]) / 1e3)


def input_sets(
    make: Callable[[], tuple[Tensor, ...]], device: torch.device, most: int = 16
) -> list[tuple[Tensor, ...]]:
    """Make enough inputs that a GPU's cache does not hold them; two on a CPU."""
    sets = [make(), make()]
    size = sum(x.numel() * x.element_size() for x in sets[0])
    if device.type == "cuda":
        wanted = min(most, -(-COLD_BYTES // max(size, 1)))
        sets += [make() for _ in range(wanted - len(sets))]
    return sets
