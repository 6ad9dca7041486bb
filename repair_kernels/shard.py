"""Parts of numbered images: what one job of a batch scheduler, or one process, works on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from repair_kernels.errors import ArgumentError

MAX_SHARDS = 10**6 - 1


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a data set, counted from 1.

    Example:
        >>> Shard.parse("3/16")
        Shard(number=3, count=16)
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count <= MAX_SHARDS:
            raise ArgumentError(
                "a shard must be the number of one and how many there are, from 1/16 to 16/16; got "
                f"{self}; count shards from 1"
            )

    @classmethod
    def parse(cls, text: str | Shard) -> Shard:
        """Return the shard that a text such as "3/16" names."""
        if isinstance(text, Shard):
            return text
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(text))
        if not found:
            raise ArgumentError(
                "a shard must be the number of one and how many there are, from 1/16 to 16/16; got "
                f"{text!r}; write it as such"
            )
        return cls(int(found[1]), int(found[2]))

    def of(self, numbers: range, step: int = 1) -> range:
        """Return this part of consecutive numbers.

        Args:
            step: parts end at multiples of it, where there are as many as parts, and differ by one
                step in size at most. With the size of a batch, the parts' batches are those of the
                whole, and have the same bits
        """
        steps = -(-len(numbers) // step)
        if steps < self.count:
            step, steps = 1, len(numbers)
        start, stop = (steps * k // self.count * step for k in (self.number - 1, self.number))
        return numbers[start:stop]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
