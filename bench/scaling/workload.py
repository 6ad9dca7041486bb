"""What one batch of `compute_stats` asks for: operators, bytes, flops, launches and totals.

Operators are counted where they are dispatched, on tensors without storage or on real ones; taps
and totals come from the captured graph, and launches from the launchers. Nothing is typed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import repair_kernels as rk
from bench.shapes import Tap

FLOAT64 = 8


@dataclass(frozen=True)
class Operator:
    """One operator of a batch: what it is called, moves and multiplies."""

    name: str
    bytes: int
    flops: int


class OperatorCount(TorchDispatchMode):
    """Note every operator that is dispatched; views move nothing and are left out.

    Example:
        >>> x = torch.empty(2, 3, device="meta")
        >>> with OperatorCount() as count:
        ...     _ = x.relu()
        >>> count.operators
        [Operator(name='relu', bytes=48, flops=0)]
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Operator] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run the operator and note it."""
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        moved = _bytes((args, kwargs)) + _bytes(result)
        if not func.is_view and moved:
            self.operators.append(Operator(packet.__name__, moved, _flops(packet, args, result)))
        return result


def _bytes(values: Any) -> int:
    leaves = (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves)


def _flops(packet: Any, args: tuple, result: Any) -> int:
    if packet in flop_registry:
        return flop_registry[packet](*args, out_val=result)
    if packet.__name__ == "_linear_pointwise":  # (n, c_in) by (c_out, c_in), as oneDNN has it
        return 2 * args[0].numel() * args[1].shape[0]
    return 0


@dataclass(frozen=True)
class Workload:
    """What `compute_stats` does with its default taps on one batch of a pair of networks."""

    network: str
    forward: tuple[Operator, ...]  # of one network
    taps: tuple[Tap, ...]  # where moments are taken
    crossed: tuple[Tap, ...]  # those of them where the full matrix is kept as well
    parameter_bytes: int

    @property
    def batch(self) -> int:
        """Images."""
        return self.taps[0].batch

    @property
    def forward_flops(self) -> int:
        """Flops of one image in both networks."""
        return 2 * sum(operator.flops for operator in self.forward) // self.batch

    @property
    def forward_bytes(self) -> int:
        """Bytes that the operators of both networks move for one image."""
        return 2 * sum(operator.bytes for operator in self.forward) // self.batch

    @property
    def statistics_flops(self) -> int:
        """Flops of the products of one image."""
        return sum(tap.paired_flops() for tap in self.crossed) // self.batch

    def statistics_bytes(self, itemsize: int = 4) -> int:
        """Bytes of one image's activations at all taps, each read once."""
        return sum(tap.paired_bytes(itemsize) for tap in self.taps) // self.batch

    @property
    def total_bytes(self) -> int:
        """Bytes of the totals, which processes exchange and files hold."""
        return total_bytes(self.taps, self.crossed)


def total_bytes(taps: Iterable[Tap], crossed: Iterable[Tap]) -> int:
    """Return the bytes of float64 totals: mean and m2 of a and b at all taps, c x c at some.

        8 · ( Σ_taps 4 c + Σ_crossed c² )

    Example:
        >>> total_bytes([Tap("net", "fc", 1, 10)], [Tap("net", "fc", 1, 10)])
        1120
    """
    vectors = sum(4 * tap.channels for tap in taps)
    return FLOAT64 * (vectors + sum(tap.channels**2 for tap in crossed))


def count(name: str, model: nn.Module, *, batch: int, pixels: int) -> Workload:
    """Count a network's work on a batch of `batch` images of `pixels` x `pixels`.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU())
        >>> work = count("net", net, batch=4, pixels=10)
        >>> work.forward_flops == 2 * 2 * (8 * 8 * 8) * (3 * 3 * 3)
        True
    """
    model = model.eval()
    graph = rk.trace(model, torch.zeros(2, 3, pixels, pixels))
    shapes = {node.name: node.meta["val"].shape for node in graph.nodes if "val" in node.meta}

    def tap(label: str) -> Tap:
        found = graph.tap(label)
        shape = shapes[found.node]
        places = [int(n) for i, n in enumerate(shape) if i not in (0, found.channel_dim)]
        return Tap(name, label, batch, found.channels, prod(places[:1]), prod(places[1:]))

    names = [*graph.default_taps, *(n for n in graph.match_taps if n not in graph.default_taps)]
    on_meta = deepcopy(model).to("meta")
    with torch.no_grad(), OperatorCount() as counted:
        on_meta(torch.empty(batch, 3, pixels, pixels, device="meta"))
    return Workload(
        network=name,
        forward=tuple(operator for operator in counted.operators if operator.name != "empty"),
        taps=tuple(map(tap, names)),
        crossed=tuple(map(tap, graph.match_taps)),
        parameter_bytes=_bytes(list(model.state_dict().values())),
    )
