"""What processes send each other: the collectives of `all_reduce`, recorded, and what they cost.

A ring or a tree moves, for a tensor of S bytes over n ranks, in `passes` passes,

    bytes sent by all ranks together = passes · (n - 1) · S
    time = start(n) + passes · (n - 1) / n · S / bandwidth

where an all-reduce has two passes (reduce-scatter, all-gather), a reduction to one rank one, and a
broadcast one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch.distributed as dist
from torch import Tensor

from repair_kernels.paired_stats import PairedStats, all_reduce

PASSES = {
    "reduce": 1,
    "broadcast": 1,
    "all_reduce": 2,
    "reduce_scatter_tensor": 1,
    "all_gather_into_tensor": 1,
}


@dataclass(frozen=True)
class Collective:
    """One call of torch.distributed, with the bytes of its tensor."""

    name: str
    bytes: int

    @property
    def passes(self) -> int:
        """How often the tensor goes round."""
        return PASSES[self.name]


@contextmanager
def recording() -> Iterator[list[Collective]]:
    """Note the collectives that are called on tensors, and let them do their work."""
    calls: list[Collective] = []

    def noting(name: str) -> Any:
        call = getattr(dist, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            size = max(tensor.numel() * tensor.element_size() for tensor in tensors)
            calls.append(Collective(name, size))
            return call(*args, **kwargs)

        return noted

    with ExitStack() as patches:
        for name in PASSES:
            patches.enter_context(mock.patch.object(dist, name, noting(name)))
        yield calls


@contextmanager
def pretending(ranks: int) -> Iterator[list[Collective]]:
    """Be the first of `ranks` processes that all say the same; note collectives, send nothing."""

    def all_say_the_same(everyone: list, said: Any, group: Any = None) -> None:
        everyone[:] = [said] * ranks

    answers = {
        "get_world_size": lambda group=None: ranks,
        "get_rank": lambda group=None: 0,
        "get_backend": lambda group=None: "gloo",
        "get_global_rank": lambda group, rank: rank,
        "all_gather_object": all_say_the_same,
        **dict.fromkeys(PASSES, lambda *args, **kwargs: None),
    }
    with ExitStack() as patches:
        for name, answer in answers.items():
            patches.enter_context(mock.patch.object(dist, name, answer))
        yield patches.enter_context(recording())


STAND_IN: Any = mock.Mock(spec=dist.ProcessGroup)
"""What is handed over as the group while pretending."""


def exchange_of(stats: PairedStats, group: dist.ProcessGroup | None = None) -> Exchange:
    """Return what merging the statistics of all processes sends.

    Args:
        group: to do it in; None: pretend to be the first of two processes
    """
    with pretending(2) if group is None else recording() as calls:
        all_reduce(stats, STAND_IN if group is None else group)
    return Exchange.of(calls)


@dataclass(frozen=True)
class Exchange:
    """All collectives of one exchange: how many, and bytes x passes.

    Example:
        >>> Exchange.of([Collective("all_reduce", 100), Collective("reduce", 10)])
        Exchange(collectives=2, moved=210)
    """

    collectives: int
    moved: int

    @classmethod
    def of(cls, calls: Sequence[Collective]) -> Exchange:
        """Sum up recorded calls."""
        return cls(len(calls), sum(call.passes * call.bytes for call in calls))

    def sent_bytes(self, ranks: int) -> int:
        """Return the bytes that all ranks together send.

        Example:
            >>> Exchange(1, 200).sent_bytes(3)
            400
        """
        return self.moved * (ranks - 1)

    def seconds(self, ranks: int, *, start: float, bandwidth: float) -> float:
        """Return how long the collectives take, one after the other.

        Args:
            start: seconds of a collective that moves next to nothing
            bandwidth: bytes per second that a rank sends

        Example:
            >>> Exchange(2, 100).seconds(2, start=1.0, bandwidth=50.0)
            3.0
        """
        if ranks == 1:
            return 0.0
        return self.collectives * start + self.moved * (ranks - 1) / ranks / bandwidth
