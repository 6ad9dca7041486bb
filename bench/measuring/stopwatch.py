"""Time what is done with batches against two plain forward passes on each, on one or more ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

FORWARD = "two plain forward passes"


@dataclass
class Times:
    """Of each batch on one rank: how many images, and what took how many seconds.

    `merging` is what it took from the last batch to the totals of all ranks.
    """

    images: list[int] = field(default_factory=list)
    data: list[float] = field(default_factory=list)
    forward: list[float] = field(default_factory=list)
    statistics: list[float] = field(default_factory=list)
    merging: float = 0.0

    @property
    def ratios(self) -> list[float]:
        """Statistics by two plain forward passes, for each batch but the first."""
        both = zip(self.statistics[1:], self.forward[1:], strict=True)
        return [mine / plain for mine, plain in both]

    @property
    def capture(self) -> float:
        """What the first batch took longer than the others."""
        return max(0.0, self.statistics[0] - median(self.statistics[1:]))


class Stopwatch:
    """Batches that time what is done with them, and both plain forward passes on each.

    Args:
        loader: batches of images, on the device
        models: the networks, run as they are
        device: where they are
    """

    def __init__(
        self, loader: Iterable[Tensor], models: Sequence[nn.Module], device: torch.device
    ) -> None:
        self._loader, self._models, self._device = loader, models, device
        self.times = Times()
        self._ended = 0.0

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Tensor]:
        times, start = self.times, self._now()
        for batch in self._loader:
            loaded = self._now()
            with torch.no_grad():
                for model in self._models:
                    model(batch)
            handed_over = self._now()
            yield batch
            back = self._now()
            times.images.append(len(batch))
            times.data.append(loaded - start)
            times.forward.append(handed_over - loaded)
            times.statistics.append(back - handed_over)
            start = back
        self._ended = self._now()

    def finish(self) -> Times:
        """Say that the totals are there, and return what took how long."""
        self.times.merging = self._now() - self._ended
        return self.times

    def _now(self) -> float:
        """Wait for the device, and read the clock."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return perf_counter()


def summary(everyone: Sequence[Times]) -> dict[str, Any]:
    """Sum up all batches but each rank's first; `capture` is what the first took longer.

    Ranks work side by side: the slowest one's seconds count, and rates add up. A rank that had but
    one batch, or none, counts nowhere.
    """
    timed = [times for times in everyone if len(times.images) > 1]
    ratios = list(chain.from_iterable(times.ratios for times in timed))
    spread = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    stages = {
        "data": [sum(times.data[1:]) for times in timed],
        "statistics": [sum(times.statistics[1:]) for times in timed],
        FORWARD: [sum(times.forward[1:]) for times in timed],
    }
    images = [sum(times.images[1:]) for times in timed]
    spent = {
        **stages,
        "data and statistics": [
            data + stats for data, stats in zip(stages["data"], stages["statistics"], strict=True)
        ],
    }
    return {
        "seconds": {
            "capture": max(times.capture for times in timed),
            **{stage: max(seconds) for stage, seconds in stages.items()},
            # Those that come early also wait.
            "merging": min(times.merging for times in everyone),
        },
        "timed_images": sum(images),
        "timed_batches": len(ratios),
        "images_per_second": {
            stage: sum(n / s for n, s in zip(images, seconds, strict=True))
            for stage, seconds in spent.items()
        },
        "ratio": median(ratios),
        "ratio_quartiles": [spread[0], spread[2]],
    }
