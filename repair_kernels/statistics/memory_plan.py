"""How much memory statistics need, before they are computed; docs/memory.md has the formula.

    device:   weights + activations + sums of one batch + totals (unless they are on the host)
    totals:   8 bytes x Σ_taps (2 (c_a + c_b) + products),   products = c_a c_b for `cross`,
              + c_a² + c_b² for `joint`, c for `diagonal`

What libraries take for their own work, such as cuDNN's workspaces, is not counted.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.errors import ArgumentError, InsufficientMemoryError
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.graph.schedule import MAY_RETURN_INPUT
from repair_kernels.rules import packet

DOUBLE = 8
PLACES = ("auto", "device", "host")
"""Where totals may be kept."""
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a pass needs, besides what is there already.

    Attributes:
        device: where the networks run
        weights: both networks', where they are still to be brought there
        activations: of both networks on one batch, at most
        batch_sums: what one batch adds at the widest tap
        totals: means, m2 and sums of products of all taps
        images: how many a batch has
        on_host: whether totals are kept in the host's memory while the device is another
    """

    device: torch.device
    weights: int
    activations: int
    batch_sums: int
    totals: int
    images: int
    on_host: bool = False

    @property
    def device_bytes(self) -> int:
        """What is needed where the networks run."""
        return self.weights + self.activations + self.batch_sums + self.totals * (not self.on_host)

    @property
    def host_bytes(self) -> int:
        """What is needed in the host's memory for a device of its own."""
        return self.totals * self.on_host

    def check(self, free: Callable[[torch.device], int | None] | None = None) -> None:
        """Raise an error if there is less memory than that.

        Args:
            free: tells how much is free on a device; default: `free_memory`
        Raises:
            InsufficientMemoryError: what is needed for what, and how much there is
        """
        host = torch.device("cpu")
        for place, needed in ((self.device, self.device_bytes), (host, self.host_bytes)):
            there = (free or free_memory)(place)
            if there is None or needed <= there:
                continue
            parts = f"{in_words(self.weights)} of weights, {in_words(self.activations)} of "
            parts += f"activations of {self.images:,} images, {in_words(self.batch_sums)} of sums "
            parts += f"of one batch, {in_words(self.totals)} of totals"
            if place != self.device or self.on_host:
                parts += " on the host"
            advice = "use smaller batches, fewer taps in `cross`"
            if place.type != "cpu" and not self.on_host:
                advice += ', totals="host"'
            raise InsufficientMemoryError(
                f"these statistics need at least {in_words(needed)} on {place} ({parts}), but "
                f"{in_words(there)} are free; {advice}, or a machine with more memory"
            )


def plan_memory(
    graph: NetworkGraph,
    states: Iterable[State],
    batch: Tensor,
    products: Mapping[str, str],
    *,
    device: torch.device,
    totals: str = "auto",
    compile: bool = False,
    free: Callable[[torch.device], int | None] | None = None,
) -> MemoryPlan:
    """Return what statistics of two networks on a device need.

    Args:
        states: both networks' weights, wherever they are
        batch: the first one
        products: by tap what is kept there: "none", "diagonal", "cross" or "joint"
        totals: where they are kept: "device", "host", or "auto": on the host if there is a device
            on which they do not fit
        compile: whether a compiler decides what is alive: then only the batch is counted
        free: tells how much is free on a device; default: `free_memory`
    Raises:
        ArgumentError: `totals` is none of these
    """
    if totals not in PLACES:
        raise ArgumentError(
            f"`totals` must be one of {', '.join(map(repr, PLACES))}; got {totals!r}; leave it out"
        )
    widths = {tap: graph.tap(tap).channels for tap in products}
    kept = {tap: products_of(kind, widths[tap]) for tap, kind in products.items()}
    weights = [tensor for state in states for tensor in state.values() if tensor.device != device]
    together = [tap for tap, kind in products.items() if kind != "none"]
    alive = 0
    if not compile:
        alive = activation_peak(graph, len(batch), together, overwrite=device.type == "cpu")
    plan = MemoryPlan(
        device=device,
        weights=sum(tensor.nbytes for tensor in weights),
        activations=batch.nbytes + alive,
        batch_sums=DOUBLE * max(kept.values(), default=0) * (device.type != "cpu"),
        totals=DOUBLE * sum(4 * widths[tap] + kept[tap] for tap in products),
        images=len(batch),
        on_host=totals == "host" and device.type != "cpu",
    )
    there = (free or free_memory)(device)
    is_short = there is not None and plan.device_bytes > there
    if totals == "auto" and device.type != "cpu" and is_short:
        return replace(plan, on_host=True)
    return plan


def products_of(kind: str, channels: int) -> int:
    """Return how many sums of products a tap keeps, by their name and its width."""
    square = channels * channels
    return {"none": 0, "diagonal": channels, "cross": square, "joint": 3 * square}[kind]


def activation_peak(
    graph: NetworkGraph, images: int, together: Iterable[str] = (), *, overwrite: bool = False
) -> int:
    """Return the bytes of activations that are alive at once while two networks take turns.

    Between two taps that are read together, first a runs and then b: the peak of one that runs, and
    what the other holds at either end. Side by side, on a CPU, both may be at their peaks at once.
    The batch itself is not counted.

    Args:
        images: in a batch
        together: taps at which both networks' values are read at once
        overwrite: whether results take their inputs' place, as on a CPU; see `overwriting`
    """
    ends = {graph.tap(tap).node for tap in together}
    roots: dict[Node, set[Node]] = {}
    holders: dict[Node, set[Node]] = {}
    alive = most = peak = at_start = 0
    for node, unused in graph.schedule:
        roots[node] = _roots(graph, node, roots, overwrite=overwrite)
        if node in roots[node]:
            alive += _bytes(node.meta.get("val"), images)
        for root in roots[node]:
            holders.setdefault(root, set()).add(node)
        most = max(most, alive)
        if node.name in ends or node.op == "output":
            peak = max(peak, most + at_start, most + alive)
        for value in unused:
            for root in roots.get(value, ()):
                holders[root].discard(value)
                if not holders[root]:
                    alive -= _bytes(root.meta.get("val"), images)
        if node.name in ends:
            at_start = most = alive
    return peak


def _roots(
    graph: NetworkGraph, node: Node, roots: Mapping[Node, set[Node]], *, overwrite: bool
) -> set[Node]:
    """Return whose memory a value is in: its own, or that of values it is a view of."""
    schema = getattr(node.target, "_schema", None)
    is_view = schema is not None and any(one.alias_info is not None for one in schema.returns)
    is_handed_on = packet(node) in MAY_RETURN_INPUT or schema is None
    in_place = overwrite and node.name in graph.overwriting
    if not (is_view or is_handed_on or in_place):
        return {node}
    inputs = node.all_input_nodes if schema is None else node.all_input_nodes[:1]
    return set().union(*(roots.get(value, set()) for value in inputs))


def _bytes(value: Any, images: int) -> int:
    """Return the size of a node's tensors, for a batch of so many images."""
    if isinstance(value, tuple | list):
        return sum(_bytes(one, images) for one in value)
    if not isinstance(value, Tensor):
        return 0
    count = 1
    for size in value.shape:
        count *= _evaluated(size, images)
    return count * value.element_size()


def _evaluated(size: Any, images: int) -> int:
    if not isinstance(size, torch.SymInt):
        return int(size)
    expression = size.node.expr
    return int(expression.xreplace(dict.fromkeys(expression.free_symbols, images)))


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes are free on a device, or on the host; None where nobody tells."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu":
        return None
    return _least(_available(Path("/proc/meminfo")), _in_group(Path("/sys/fs/cgroup")))


def _available(meminfo: Path) -> int | None:
    """Return what Linux takes for free, caches included."""
    if not meminfo.exists():
        return None
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def _in_group(cgroup: Path) -> int | None:
    """Return what is left of a container's limit, caches included."""
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        if not (cgroup / limit).exists() or not (cgroup / used).exists():
            continue
        allowed = (cgroup / limit).read_text().strip()
        if not allowed.isdigit():
            return None
        stat = (cgroup / limit).with_name("memory.stat")
        lines = stat.read_text().splitlines() if stat.exists() else []
        spare = sum(int(line.split()[1]) for line in lines if line.split()[0] == cached)
        return max(0, int(allowed) - int((cgroup / used).read_text()) + spare)
    return None


def _least(*amounts: int | None) -> int | None:
    return min((amount for amount in amounts if amount is not None), default=None)


def in_words(count: float) -> str:
    """Say a number of bytes.

    Example:
        >>> in_words(3 * 2**30), in_words(10)
        ('3.0 GiB', '10 bytes')
    """
    power = 0
    while count >= 1024 and power < len(UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.1f} {UNITS[power]}" if power else f"{count:.0f} {UNITS[0]}"
