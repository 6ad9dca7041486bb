"""How much memory statistics need, before they are computed; docs/memory.md has the formula.

    device:   weights + activations + sums of one batch + totals (unless they are on the host)
    totals:   8 bytes x Σ_taps (2 (c_a + c_b) + products),   products = c_a c_b for `cross`,
              + c_a² + c_b² for `joint`, c for `diagonal`
    by rows over ranks:   a rank's rows instead of all totals, and the sums of one step of all ranks

What libraries take for their own work, such as cuDNN's workspaces, is not counted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from repair_kernels.errors import ArgumentError, InsufficientMemoryError
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.graph.schedule import MAY_RETURN_INPUT
from repair_kernels.ranks import ALONE, Ranks
from repair_kernels.rules import packet
from repair_kernels.statistics.row_layout import DOUBLE, RowLayout

PLACES = ("auto", "device", "host", "ranks")
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
        layout: which rows each rank keeps, if totals are kept by rows
        place: where totals are kept: "device", "host", or "ranks": by rows over them
    """

    device: torch.device
    weights: int
    activations: int
    batch_sums: int
    totals: int
    images: int
    layout: RowLayout
    place: str = "device"

    @property
    def by_rows(self) -> bool:
        """Whether each rank keeps some rows of the sums of products."""
        return self.place == "ranks"

    @property
    def on_host(self) -> bool:
        """Whether totals are kept in the host's memory while the device is another."""
        return self.place == "host" and self.device.type != "cpu"

    @property
    def own_rows(self) -> int:
        """What one rank keeps of totals by rows: its rows, and means and m2 of all channels."""
        channels = self.layout.channels
        means = 4 * sum(channels.values()) + 2 * sum(channels[tap] for tap in self.layout.matrices)
        return self.layout.row_bytes + DOUBLE * means

    @property
    def device_bytes(self) -> int:
        """What is needed where the networks run; on a CPU that is where the result is, too."""
        if not self.by_rows:
            kept = self.totals * (not self.on_host)
            return self.weights + self.activations + self.batch_sums + kept
        running = self.activations + self.layout.step_bytes + self.own_rows
        gathered = self.totals * (self.device.type == "cpu")
        return self.weights + max(running, gathered)

    @property
    def host_bytes(self) -> int:
        """What is needed in the host's memory for a device of its own."""
        return self.totals * (self.on_host or (self.by_rows and self.device.type != "cpu"))

    def needed(self) -> dict[torch.device, int]:
        """Return what is needed where."""
        needed = {self.device: self.device_bytes}
        return {**needed, torch.device("cpu"): self.host_bytes} if self.host_bytes else needed

    def fits(self, free: Callable[[torch.device], int | None] | None = None) -> bool:
        """Tell whether there is as much memory as that, or nobody knows."""
        return next(self._short(free), None) is None

    def check(self, free: Callable[[torch.device], int | None] | None = None) -> None:
        """Raise an error if there is less memory than that.

        Args:
            free: tells how much is free on a device; default: `free_memory`
        Raises:
            InsufficientMemoryError: what is needed for what, and how much there is
        """
        for place, needed, there in self._short(free):
            raise InsufficientMemoryError(
                f"these statistics need at least {in_words(needed)} on {place} ({self._parts()}), "
                f"but {in_words(there)} are free; {self._advice(place)}, or a machine with more "
                "memory"
            )

    def _short(
        self, free: Callable[[torch.device], int | None] | None
    ) -> Iterator[tuple[torch.device, int, int]]:
        """Yield each place with less memory than is needed there: how much of both."""
        for place, needed in self.needed().items():
            there = (free or free_memory)(place)
            if there is not None and needed > there:
                yield place, needed, there

    def _parts(self) -> str:
        """Say what is needed for what."""
        sums = self.layout.step_bytes if self.by_rows else self.batch_sums
        parts = f"{in_words(self.weights)} of weights, {in_words(self.activations)} of "
        parts += f"activations of {self.images:,} images, {in_words(sums)} of sums of one batch, "
        if self.by_rows:
            parts += f"{in_words(self.own_rows)} of rows of one of {self.layout.ranks} ranks; in "
            parts += "the end "
        parts += f"{in_words(self.totals)} of totals"
        return parts + " on the host" * (self.on_host or self.by_rows)

    def _advice(self, place: torch.device) -> str:
        """Say what needs less."""
        advice = "use smaller batches, fewer taps in `cross`"
        if place.type != "cpu" and not self.on_host:
            advice += ', totals="host"'
        if self.by_rows:
            return advice + ", more ranks" * (place.type != "cpu")
        if self.layout.ranks == 1 and place.type != "cpu" and not self.on_host:
            return f'{advice}, totals="ranks" over several processes'
        by_rows = replace(self, place="ranks").needed().get(place, 0)
        is_less = self.layout.ranks > 1 and by_rows < self.needed()[place]
        return advice + ', totals="ranks"' * is_less


def plan_memory(
    graph: NetworkGraph,
    states: Iterable[State],
    batch: Tensor,
    products: Mapping[str, str],
    *,
    device: torch.device,
    totals: str = "auto",
    compile: bool = False,
    ranks: Ranks = ALONE,
    by_rows: bool = True,
    free: Callable[[torch.device], int | None] | None = None,
) -> MemoryPlan:
    """Return what statistics of two networks on a device need.

    Args:
        states: both networks' weights, wherever they are
        batch: the first one
        products: by tap what is kept there: "none", "diagonal", "cross" or "joint"
        totals: where they are kept: "device", "host", "ranks" (by rows over them), or "auto": the
            first of device, ranks and host where they fit; by rows only if that is so on all ranks
        compile: whether a compiler decides what is alive: then only the batch is counted
        ranks: the processes that make this plan together
        by_rows: whether "auto" may choose rows
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
    layout = RowLayout(widths, dict(products), ranks.size)
    plan = MemoryPlan(
        device=device,
        weights=sum(tensor.nbytes for tensor in weights),
        activations=batch.nbytes + alive,
        batch_sums=DOUBLE * max(kept.values(), default=0) * (device.type != "cpu"),
        totals=DOUBLE * sum(4 * widths[tap] + kept[tap] for tap in products),
        images=len(batch),
        layout=layout,
    )
    if totals == "auto":
        totals = _chosen(plan, ranks, by_rows=by_rows, free=free)
    if totals == "ranks" and not layout.matrices:
        totals = "device"
    return replace(plan, place=totals)


def _chosen(
    plan: MemoryPlan,
    ranks: Ranks,
    *,
    by_rows: bool,
    free: Callable[[torch.device], int | None] | None,
) -> str:
    """Return where totals are kept, by what fits; whether by rows, all ranks decide together."""
    is_short = not plan.fits(free)
    if ranks.size > 1:
        may = by_rows and replace(plan, place="ranks").fits(free)
        everyone = ranks.exchange("memory", (is_short, may))
        if any(short for short, _ in everyone) and all(may for _, may in everyone):
            return "ranks"
    return "host" if is_short else "device"


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
