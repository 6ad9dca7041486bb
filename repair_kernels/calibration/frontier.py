"""A whole data set on its way through one network, node by node; what is alive is kept in pieces.

The data is cut into *pieces* of some images. All of them run up to the same point of the graph,
where their values are read together, before any goes on: each node is computed once for each
image, and what is read last is freed. Between two points a piece holds only what later nodes read.
Pieces stay on the device as far as the budget allows; the others wait in host memory and visit the
device once for each stretch of the graph.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_map_only

from repair_kernels.graph.execution import Run, as_mapping
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.progress import Meter

FREE_SHARE = 0.5
"""How much of a device's free memory may hold waiting pieces; the rest is for the one at work."""

Schedule = Sequence[tuple[Node, list[Node]]]
Read = Callable[[Tensor], None]
Change = Callable[[Run], None]


class Frontier:
    """The live values of all pieces of a data set at one point of the graph.

    Args:
        graph, state: what runs
        data: pieces, on the device where to run; read once, when the frontier first advances
        budget: bytes of waiting values that may stay on the device; default: `FREE_SHARE` of what
            is free on a GPU when it first advances, and all of them on a CPU
        done: where images are counted, at each advance in part
        advances: how many there will be
    Attributes:
        held: bytes on the device
        spilled: bytes in host memory
    """

    def __init__(
        self,
        graph: NetworkGraph,
        state: State,
        data: Iterable[Tensor],
        budget: int | None = None,
        *,
        done: Meter | None = None,
        advances: int = 1,
    ):
        self._graph = graph
        self._state = state
        self._data: Iterable[Tensor] | None = data
        self._budget = budget
        self._done, self._advances = done, max(1, advances)
        self._waiting: list[Waiting] = []
        self._shared: set[int] = set()
        self.held = self.spilled = 0

    def advance(self, nodes: Schedule, value: str, read: Read, change: Change | None) -> None:
        """Let every piece compute some nodes, and read a value before it can be freed.

        Args:
            nodes: what to compute, each with the values that are not read after it
            value: name of the value to read
            read: called with each piece's value, in order
            change: called with each piece before, to put other values in place of those it holds
        """
        pieces, self._waiting = self._pieces(self._waiting), []
        self.held = self.spilled = 0
        for run in pieces:
            if change is not None:
                change(run)
            for node, unused in nodes:
                run.step(node)
                if node is not nodes[-1][0]:
                    run.free(unused)
            read(run.values[value])
            if nodes:
                run.free(nodes[-1][1])
            self._wait(run)
            if self._done is not None:
                self._done.update(run.n_images / self._advances)

    def _pieces(self, waiting: list["Waiting"]) -> Iterator[Run]:
        """Yield each piece on the device, the first time as it is loaded."""
        if self._data is not None:
            data, self._data = self._data, None
            placed = None
            for batch in data:
                if placed is None:
                    placed = as_mapping(self._state, batch.device)
                    if self._budget is None:
                        self._budget = free_bytes(batch.device)
                yield self._loaded(Run(self._graph, placed, batch))
            return
        waiting.reverse()
        while waiting:
            yield waiting.pop().resumed()

    def _loaded(self, run: Run) -> Run:
        if not self._shared:
            own = self._graph.overwritten
            names = (n for n in self._graph.sources if n not in own)
            self._shared = {run.values[n].untyped_storage().data_ptr() for n in names}
        return run

    def _wait(self, run: Run) -> None:
        waiting = Waiting(run, self._shared)
        if self._budget is not None and self.held + waiting.nbytes > self._budget:
            waiting.spill()
            self.spilled += waiting.nbytes
        else:
            self.held += waiting.nbytes
        self._waiting.append(waiting)


class Waiting:
    """A piece that waits, and the memory that is its own.

    Values that share memory share it still after the way to the host and back: an operator that
    writes to one of them writes to all.
    """

    def __init__(self, run: Run, shared: set[int]):
        self._run = run
        self._own: dict[int, torch.UntypedStorage] = {}
        for tensor in tensors_in(run.values):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in shared:
                self._own[storage.data_ptr()] = storage
        self.nbytes = sum(storage.nbytes() for storage in self._own.values())
        self._is_spilled = False

    def spill(self) -> None:
        """Move what is the piece's own to host memory."""
        self._move(torch.device("cpu"))
        self._is_spilled = True

    def resumed(self) -> Run:
        """Return the piece, on its device."""
        if self._is_spilled:
            self._move(self._run.device)
        return self._run

    def _move(self, device: torch.device) -> None:
        moved = {key: _copied(storage, device) for key, storage in self._own.items()}

        def elsewhere(tensor: Tensor) -> Tensor:
            storage = moved.get(tensor.untyped_storage().data_ptr())
            if storage is None:
                return tensor
            empty = torch.empty(0, dtype=tensor.dtype, device=device)
            return empty.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())

        self._run.values = tree_map_only(Tensor, elsewhere, self._run.values)
        self._own = {storage.data_ptr(): storage for storage in moved.values()}


def tensors_in(values: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors of a piece's values, also those in lists and tuples."""
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, dict(values))
    return found


def free_bytes(device: torch.device) -> int | None:
    """Return how many bytes may wait on a device; None: as many as there are."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(FREE_SHARE * (free + cached))


def _copied(storage: torch.UntypedStorage, device: torch.device) -> torch.UntypedStorage:
    pinned = device.type == "cpu" and storage.device.type == "cuda"
    target = torch.empty(storage.nbytes(), dtype=torch.uint8, device=device, pin_memory=pinned)
    return target.untyped_storage().copy_(storage, non_blocking=False)
