"""Pieces of one size, cut from the images of all ranks as one process would cut them.

Images count as if rank 0's came first, then rank 1's, and so on. A piece whose images are all on
one rank runs there, beside those of the others. The few that lie on several ranks come last: those
ranks run their parts at the same time, and tell one another the moments of each tap on the way.
Such pieces share a rank with their neighbours at most, so every second one runs at once: there are
two turns, however many ranks there are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from repair_kernels.batches import Batches, cuts_of, piece_size
from repair_kernels.moments import ChannelMoments
from repair_kernels.ranks import Ranks

TOPIC = "a piece on several ranks"


@dataclass(frozen=True)
class Plan:
    """What one rank has of everyone's pieces.

    Attributes:
        cuts: where to cut its images
        pieces: the number of the piece that each of its parts belongs to
        shared: the numbers of all pieces that lie on several ranks, the same on every rank
    """

    cuts: tuple[int, ...]
    pieces: tuple[int, ...]
    shared: tuple[int, ...]

    @classmethod
    def of(cls, counts: Sequence[int], rank: int, images: int) -> Plan:
        """Return the plan of a rank.

        Args:
            counts: how many images each rank has
            rank: whose plan
            images: of a piece

        Example:
            >>> Plan.of([3, 5], rank=1, images=4)
            Plan(cuts=(1,), pieces=(0, 1), shared=(0,))
        """
        ends = list(accumulate(counts, initial=0))
        everyones = cuts_of(ends[-1], images)
        begin, after = ends[rank], ends[rank + 1]
        inside = [cut for cut in everyones if begin < cut < after]
        starts = [begin, *inside] if begin < after else []
        # A piece is on several ranks if some rank's images end within it, and others follow.
        within = {end for end in ends[1:-1] if 0 < end < ends[-1]} - set(everyones)
        return cls(
            cuts=tuple(cut - begin for cut in inside),
            pieces=tuple(bisect_right(everyones, start) for start in starts),
            shared=tuple(sorted({bisect_right(everyones, end) for end in within})),
        )


class RankPieces:
    """Pieces of one size of all ranks' images: those of this rank, and its parts of others.

    Where images were not counted yet, they are kept in host memory until all have counted.

    Args:
        data: this rank's images
        ranks: whose images they are
        meetings: how often `moments` is called for each piece
    """

    def __init__(self, data: Batches, ranks: Ranks, meetings: int):
        self._data, self._ranks, self._meetings = data, ranks, meetings
        self._shared: int | None = None

    @property
    def expected_images(self) -> int | None:
        """See `Batches`."""
        return self._data.expected_images

    def __iter__(self) -> Iterator[Tensor]:
        """Yield this rank's pieces, then its parts of shared ones; all ranks iterate together."""
        if self._ranks.size == 1:
            yield from self._data.pieces()
            return
        images, counts = self._counted()
        plan = Plan.of(counts, self._ranks.rank, piece_size(self._data.first))
        kept = {}
        for part, number in zip(cut_at(images, plan.cuts), plan.pieces, strict=False):
            if number in plan.shared:
                kept[number] = part
            else:
                yield part
        for turn in (plan.shared[::2], plan.shared[1::2]):
            if not turn:
                continue
            mine = next((number for number in turn if number in kept), None)
            if mine is None:
                for _ in range(self._meetings):
                    self._ranks.exchange(TOPIC, None)
                continue
            self._shared = mine
            yield kept.pop(mine)
            self._shared = None

    def moments(self, own: ChannelMoments) -> ChannelMoments:
        """Return a tap's moments on the whole of the piece that was yielded last.

        Args:
            own: those on this rank's part of it
        """
        if self._shared is None:
            return own
        everyone = self._ranks.exchange(TOPIC, (self._shared, own.to("cpu")))
        parts = [said[1] for said in everyone if said is not None and said[0] == self._shared]
        total = parts[0]
        for part in parts[1:]:
            total = total.merge(part)
        return total.to(own.mean.device)

    def _counted(self) -> tuple[Iterable[Tensor], list[int]]:
        """Return this rank's images, and how many each rank has."""
        counts = self._ranks.exchange("images to cut", self._data.n_images)
        known = [count for count in counts if count is not None]
        if len(known) == len(counts):
            return self._data, known
        held = [batch.cpu() for batch in self._data]
        counts = self._ranks.exchange("images that were kept", sum(map(len, held)))
        return self._again(held), counts

    def _again(self, held: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield batches that were kept; between them look after the others, as `Batches` does."""
        for batch in held:
            yield batch.to(self._data.device or "cpu", non_blocking=True)
            self._ranks.meet()
        self._ranks.wait()


def cut_at(batches: Iterable[Tensor], cuts: Sequence[int]) -> Iterator[Tensor]:
    """Yield the images of batches in parts that end at the cuts; the last has all that is left."""
    rest: list[Tensor] = []
    left, begin, n = list(cuts), 0, 0  # n images are read, the rest begins at image `begin`
    for batch in batches:
        rest.append(batch)
        n += len(batch)
        if not left or n < left[0]:
            continue
        joined, start = torch.cat(rest), begin
        while left and left[0] <= n:
            # Copies: a view would keep all of what it was cut from.
            yield joined[begin - start : left[0] - start].clone()
            begin = left.pop(0)
        rest = [joined[begin - start :].clone()]
    if n > begin:
        yield torch.cat(rest)
