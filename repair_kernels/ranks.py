"""The processes that work on one result: what they tell one another, and what they add up.

Each rank works on its own images and meets the others now and then, in the same order. In front of
every sum they exchange messages, and a rank that has failed since the last one sends its error
instead: then all of them end, each with an error. During a pass over the data they meet once a
minute, so that none works or waits for long after another one failed.

A rank that is gone without a word ends the others as soon as torch.distributed sees it: with Gloo
when its connection closes, at the latest after the group's timeout. NCCL sees nothing, and kills
the process after its timeout: there the messages go through a Gloo group of the same ranks, and
tell who is gone in front of every sum.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from repair_kernels.errors import ArgumentError, FailedRankError, LostRankError, RankError

BUFFER_BYTES = 64 * 2**20
"""The most that is sent at once: what a sum takes beside the tensors that are added up."""
MEETING_SECONDS = 60.0
"""How long a rank works on its data at most before it looks after the others."""
KNOWN_TO = "_known_to"
"""The attribute of an error that says which groups know of it."""
Message = TypeVar("Message")
Failure = TypeVar("Failure", bound=Exception)


@dataclass(frozen=True)
class _Said:
    """One rank's part of an exchange: where it stands, and its message or its error."""

    topic: str
    message: object
    failure: str | None = None


class Ranks:
    """The processes of a torch.distributed group, or this one alone.

    Args:
        group: of which this process is a member; None: there are no others
        device: where results shall be on this rank, also if it has no images; None: where its
            images were

    Attributes:
        rank: this process's number within the group
        size: how many there are
        device: as given

    Example:
        >>> Ranks().exchange("counts", 5)
        [5]
    """

    def __init__(self, group: dist.ProcessGroup | None = None, device: torch.device | None = None):
        self._group = group
        self._talk: dist.ProcessGroup | None = group
        self.device = device
        self._met_at = time.monotonic()
        self.rank, self.size = 0, 1
        if group is None:
            return
        if not isinstance(group, dist.ProcessGroup) and group != dist.GroupMember.NON_GROUP_MEMBER:
            raise ArgumentError(
                "`process_group` must be a group of torch.distributed; got a "
                f"{type(group).__name__}; pass `torch.distributed.group.WORLD`, after "
                "`init_process_group`"
            )
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ArgumentError(
                "this process is not in `process_group`. Call it on the group's ranks only."
            )

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that shows progress and writes files."""
        return self.rank == 0

    def exchange(self, topic: str, message: Message) -> list[Message]:
        """Send a message to all ranks, and return everyone's in the order of ranks.

        Args:
            topic: what it is about; the same on every rank
            message: anything that can be pickled
        Raises:
            FailedRankError: another rank has failed since the last exchange
            LostRankError: another rank is gone
            ArgumentError: ranks are at different topics
        """
        everyone = self._gathered(_Said(topic, message))
        for rank, said in enumerate(everyone):
            if said.failure is not None:
                raise self._known(
                    FailedRankError(
                        f"all {self.size} ranks must come through; rank {rank} failed with "
                        f"{said.failure}\nMend that, and start all ranks again."
                    )
                )
        self._check_same([said.topic for said in everyone])
        return [said.message for said in everyone]  # type: ignore[misc]

    def meet(self) -> None:
        """Look after the others, if it is time; called between two batches.

        Raises:
            FailedRankError, LostRankError: as by `exchange`
        """
        if self.size > 1 and time.monotonic() - self._met_at >= MEETING_SECONDS:
            self.exchange("batches", False)

    def wait(self) -> None:
        """Wait until all have read their batches, however long that takes.

        Raises:
            FailedRankError, LostRankError: as by `exchange`
        """
        while self.size > 1 and not all(self.exchange("batches", True)):
            pass

    @contextmanager
    def together(self, call: str, **arguments: object) -> Iterator[None]:
        """Do something that ends well on all ranks, or on none; may be nested.

        Args:
            call: what it is
            arguments: what must be the same on every rank
        """
        if self._group is None:
            yield
            return
        said = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        with self._talking():
            try:
                self._check_same(self.exchange("call", f"{call}({said})"))
                yield
                self.exchange(f"end of {call}", None)
            except Exception as error:
                if id(self._group) not in getattr(error, KNOWN_TO, ()):
                    with suppress(RankError):
                        self._gathered(_Said("failure", None, f"{type(error).__name__}: {error}"))
                    self._known(error)
                raise

    def add_up_(self, tensors: Sequence[Tensor]) -> None:
        """Add tensors up over all ranks, in their own memory; every rank gets the same bits.

        The first rank adds up and broadcasts. All are sent as one, in parts of `BUFFER_BYTES`: on
        the ranks' CUDA devices with NCCL, through the CPU with any other backend. Exchange messages
        right before: then no rank is left waiting for one that failed.

        Args:
            tensors: contiguous, of one dtype; as many of the same shapes on every rank
        Raises:
            LostRankError: another rank is gone
        """
        if self._group is None or self.size == 1:
            return
        first = dist.get_global_rank(self._group, 0)
        for views in _parts([tensor.view(-1) for tensor in tensors]):
            buffer = torch.cat(views).to(self._road)
            with self._answering():
                dist.reduce(buffer, dst=first, group=self._group)
                dist.broadcast(buffer, src=first, group=self._group)
            for view, total in zip(views, buffer.split([len(v) for v in views]), strict=True):
                view.copy_(total)

    def add_up_shares(self, shares: Tensor) -> Tensor:
        """Return the sum over all ranks of what each has for this one: a reduce-scatter.

        Every rank sends each other one its share, and adds up what it gets in the order of ranks.
        Backends' own reduce-scatters begin with another rank for each share: a symmetric matrix
        that is shared by rows would not stay symmetric to the bit. As much is sent. Exchange
        messages right before, as for `add_up_`.

        Args:
            shares: contiguous, not above `BUFFER_BYTES` if it can be; `shares[r]` is for rank r
        Raises:
            LostRankError: another rank is gone
        """
        if self._group is None or self.size == 1:
            return shares[0]
        sent = shares.to(self._road)
        received = torch.empty_like(sent)
        with self._answering():
            dist.all_to_all_single(received, sent, group=self._group)
        total = received[0]
        for share in received[1:]:
            total.add_(share)
        return total.to(shares.device)

    def from_everyone(self, values: Tensor) -> list[Tensor]:
        """Return every rank's tensor, of one shape, in the order of ranks; where they travel.

        Raises:
            LostRankError: another rank is gone
        """
        if self._group is None or self.size == 1:
            return [values]
        sent = values.to(self._road).contiguous()
        received = [torch.empty_like(sent) for _ in range(self.size)]
        with self._answering():
            dist.all_gather(received, sent, group=self._group)
        return received

    def from_rank(self, rank: int, values: Tensor | None) -> Tensor:
        """Return one rank's tensor, on the CPU; the others give None.

        Raises:
            LostRankError: another rank is gone
        """
        held = [None if values is None else values.detach().cpu().clone()]
        if self._group is not None:
            with self._answering():
                source = dist.get_global_rank(self._group, rank)
                dist.broadcast_object_list(held, src=source, group=self._talk)
        return cast(Tensor, held[0])

    @property
    def _road(self) -> torch.device:
        """Where tensors must be to be sent: NCCL takes CUDA's, any other backend the CPU's."""
        if self._group is None or dist.get_backend(self._group) != "nccl":
            return torch.device("cpu")
        return self.device or torch.device("cuda")

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Exchange messages over Gloo, also where sums are those of NCCL."""
        if self._group is None or dist.get_backend(self._group) != "nccl":
            yield
            return
        members = dist.get_process_group_ranks(self._group)
        with self._answering():
            beside = dist.new_group(members, backend="gloo", use_local_synchronization=True)
        self._talk = cast(dist.ProcessGroup, beside)
        try:
            yield
        finally:
            self._talk = self._group
            dist.destroy_process_group(cast(dist.ProcessGroup, beside))

    def _gathered(self, said: _Said) -> list[_Said]:
        if self._group is None:
            return [said]
        everyone: list = [None] * self.size
        with self._answering():
            dist.all_gather_object(everyone, said, group=self._talk)
        self._met_at = time.monotonic()
        return everyone

    def _known(self, error: Failure) -> Failure:
        """Note that all ranks of this group know of an error: it is told once, at its innermost."""
        setattr(error, KNOWN_TO, {*getattr(error, KNOWN_TO, ()), id(self._group)})
        return error

    def _check_same(self, said: Sequence[str]) -> None:
        for rank, theirs in enumerate(said):
            if theirs != said[0]:
                raise self._known(
                    ArgumentError(
                        "all ranks must make the same calls with the same arguments; rank 0 is at "
                        f"{said[0]} and rank {rank} at {theirs}; start every rank with the same "
                        "program and options"
                    )
                )

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn what torch.distributed raises, when a rank does not answer, into our own error."""
        try:
            yield
        except RuntimeError as error:
            cause = str(error).strip().splitlines() or [type(error).__name__]
            raise self._known(
                LostRankError(
                    f"all {self.size} ranks must answer; one was ended, or did not within the "
                    f"group's timeout (on rank {self.rank}: {cause[0]}); see what the others "
                    "wrote, and start all ranks again"
                )
            ) from error


ALONE = Ranks()


def _parts(views: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut vectors, taken as one, into lists of at most `BUFFER_BYTES`."""
    held: list[Tensor] = []
    room = BUFFER_BYTES
    for view in views:
        while len(view):
            count = max(1, room // view.element_size())
            held.append(view[:count])
            room -= held[-1].nbytes
            view = view[count:]
            if room <= 0:
                yield held
                held, room = [], BUFFER_BYTES
    if held:
        yield held
