"""What processes send each other: the collectives of `all_reduce`, recorded, and what they cost.

A ring or a tree moves, for a tensor of S bytes over n ranks, in `passes` passes,

    bytes sent by all ranks together = passes · (n - 1) · S
    time = start(n) + passes · (n - 1) / n · S / bandwidth

where an all-reduce has two passes (reduce-scatter, all-gather), a reduction to one rank one, and a
broadcast one. Messages (what each rank has seen, pickled) go from every rank to every other one, in
n - 1 steps of a ring:

    bytes sent by all ranks together = n (n - 1) · M        time = (n - 1) · (step + M / bandwidth)

Before and after, each rank shifts its totals to the common means, and copies them to where they
are sent from and back: `merging_of` counts these operators.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch.distributed as dist
from torch import Tensor

from bench.scaling.workload import Operator, OperatorCount
from repair_kernels.statistics.all_reduce import all_reduce
from repair_kernels.statistics.paired_stats import PairedStats

PASSES = {
    "reduce": 1,
    "broadcast": 1,
    "all_reduce": 2,
    "reduce_scatter_tensor": 1,
    "all_gather_into_tensor": 1,
}
MESSAGE = "all_gather_object"


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
            values = (*args, *kwargs.values())
            tensors = [value for value in values if isinstance(value, Tensor)]
            sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
            size = max(sizes) if sizes else len(pickle.dumps(args[1]))
            calls.append(Collective(name, size))
            return call(*args, **kwargs)

        return noted

    with ExitStack() as patches:
        for name in (*PASSES, MESSAGE):
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
        MESSAGE: all_say_the_same,
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


def merging_of(stats: PairedStats) -> list[Operator]:
    """Return the operators that each of several ranks runs to merge its statistics with others'."""
    with pretending(2), OperatorCount() as count:
        all_reduce(stats, STAND_IN)
    return count.operators


@dataclass(frozen=True)
class Exchange:
    """All collectives of one exchange: of tensors how many and bytes x passes, and of messages.

    Example:
        >>> Exchange.of([Collective("all_reduce", 100), Collective(MESSAGE, 10)])
        Exchange(collectives=1, moved=200, messages=1, message_bytes=10)
    """

    collectives: int
    moved: int
    messages: int = 0
    message_bytes: int = 0

    @classmethod
    def of(cls, calls: Sequence[Collective]) -> Exchange:
        """Sum up recorded calls."""
        tensors = [call for call in calls if call.name != MESSAGE]
        messages = [call.bytes for call in calls if call.name == MESSAGE]
        moved = sum(call.passes * call.bytes for call in tensors)
        return cls(len(tensors), moved, len(messages), sum(messages))

    def sent_bytes(self, ranks: int) -> int:
        """Return the bytes that all ranks together send.

        Example:
            >>> Exchange(1, 200).sent_bytes(3)
            400
        """
        return (self.moved + ranks * self.message_bytes) * (ranks - 1)

    def seconds(
        self, ranks: int, *, start: float, bandwidth: float, step: float, message_bandwidth: float
    ) -> float:
        """Return how long the collectives take, one after the other.

        Args:
            start: seconds of a collective that moves next to nothing
            bandwidth: bytes per second that a rank sends of tensors
            step: seconds of a message from one rank to the next
            message_bandwidth: bytes per second that a rank sends of messages

        Example:
            >>> Exchange(2, 100).seconds(
            ...     2, start=1.0, bandwidth=50.0, step=1.0, message_bandwidth=1.0
            ... )
            3.0
        """
        if ranks == 1:
            return 0.0
        tensors = self.collectives * start + self.moved * (ranks - 1) / ranks / bandwidth
        messages = self.messages * step + self.message_bytes / message_bandwidth
        return tensors + messages * (ranks - 1)
