"""A source of made-up images with numbers, such as `compute_stats` goes on in after a stop."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


class Killed(Exception):
    """Stands for a kill between two batches."""


@dataclass
class Numbers:
    """Vectors, each of which depends on its number alone."""

    count: int
    width: int = 12
    fingerprint: str = "made-up vectors"

    def __len__(self) -> int:
        return self.count

    def loader(self, batch_size: int, *, start: int = 0, stop: int | None = None) -> "Loader":
        stop = self.count if stop is None else stop
        return Loader(self, batch_size, range(start, stop))

    def images(self, numbers: range) -> Tensor:
        rows = torch.tensor(numbers, dtype=torch.float64)[:, None]
        return torch.sin(rows * torch.arange(1, self.width + 1)).float()


@dataclass
class Loader:
    """Batches of consecutive vectors. `read` has the numbers that were read, of all copies.

    The run is killed after so many batches, if any.
    """

    source: Numbers
    batch_size: int
    numbers: range
    read: list[range] = field(default_factory=list)
    killed_after: int | None = None

    def __iter__(self) -> Iterator[Tensor]:
        for number, start in enumerate(range(0, len(self.numbers), self.batch_size)):
            if number == self.killed_after:
                raise Killed
            numbers = self.numbers[start : start + self.batch_size]
            self.read.append(numbers)
            yield self.source.images(numbers)
