"""Moments of a stream of batches at many taps, in memory that is written over and over.

Moments are values: `merge` returns new ones, for each tap by a dozen small operations and, at 2,048
channels, 32 MiB of fresh memory. A loop over batches instead keeps the means and m2 of all taps
in two long vectors and merges a whole batch at once, by the same rule; only the products of a tap
are added on their own. Nothing here waits for the device.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from repair_kernels.errors import CalibrationDataError
from repair_kernels.moments import ChannelMoments, PairedMoments
from repair_kernels.moments.totals import add_outer_
from repair_kernels.ops import ChannelSums, PairedSums
from repair_kernels.statistics.finite import FiniteWatch, Place

Key = tuple[str, int]
PRODUCTS = ("cross", "diagonal", "within_a", "within_b")
"""The sums of `PairedSums` that the spread between two means adds to."""


class RunningState(NamedTuple):
    """All that is to be kept of `RunningMoments` between two batches.

    Attributes:
        batches: how many there were
        n: for each tap and network the number of samples, in the order of `mean`
        channels: how many each of these has
        mean, m2: those of all taps and networks
        products: the sums of products by tap and name
    """

    batches: int
    n: dict[Key, int]
    channels: dict[Key, int]
    mean: Tensor
    m2: Tensor
    products: dict[str, dict[str, Tensor]]


class RunningMoments:
    """The moments of one or several networks at some taps, so far.

    Each batch adds the same taps, in any order, and ends with `end_batch`.

    Args:
        networks: what messages call the networks

    Example:
        >>> from repair_kernels import ops
        >>> running = RunningMoments(["merged"])
        >>> for batch in torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]]):
        ...     running.add("conv1", 0, len(batch), ops.channel_moments(batch))
        ...     running.end_batch()
        >>> running.channels("conv1").n_samples, running.channels("conv1").mean.tolist()
        (4, [4.0])
    """

    def __init__(self, networks: Sequence[str]):
        self._networks = networks
        self._watch = FiniteWatch()
        self._batches = 0
        self._batch = self._empty_batch()
        self._products: dict[str, dict[str, Tensor]] = {}
        self._place: torch.device | None = None
        self._n: dict[Key, int] = {}
        self._places: list[Place] = []
        self._slices: dict[Key, slice] = {}
        self._mean = self._m2 = torch.empty(0)
        self._relative: tuple[float, ...] = ()
        self._weights = torch.empty(0)

    def add(self, tap: str, network: int, n_samples: int, sums: ChannelSums) -> None:
        """Take what `ops.channel_moments` returned for one network at a tap."""
        self._batch[network][tap, network] = n_samples, sums

    def add_pair(self, tap: str, n_samples: int, sums: PairedSums) -> None:
        """Take what `ops.paired_moments` returned for networks 0 and 1 at a tap.

        A `cross` that was added to `onto` already is not added again.
        """
        self.add(tap, 0, n_samples, ChannelSums(sums.mean_a, sums.m2_a))
        self.add(tap, 1, n_samples, ChannelSums(sums.mean_b, sums.m2_b))
        held = {name: getattr(sums, name) for name in PRODUCTS}
        held = {name: total for name, total in held.items() if total is not None}
        products = self._products.setdefault(tap, {})
        for name, total in held.items():
            if name not in products:
                products[name] = total.to(self._place or total.device, copy=True)
            elif products[name] is not total:
                products[name].add_(total.to(products[name].device))

    def _empty_batch(self) -> list[dict[Key, tuple[int, ChannelSums]]]:
        """Return one dict per network: networks may be added to side by side."""
        return [{} for _ in self._networks]

    @property
    def n_batches(self) -> int:
        """How many batches there were."""
        return self._batches

    def added(self, tap: str) -> tuple[ChannelSums, ChannelSums] | None:
        """Return what this batch gave for networks 0 and 1 at a tap, if it is there already."""
        a, b = (self._batch[network].get((tap, network)) for network in (0, 1))
        return None if a is None or b is None else (a[1], b[1])

    def onto(self, tap: str, c_a: int, c_b: int, device: torch.device) -> Tensor | None:
        """Return the sums of products between two networks so far, for `cross` to be added to.

        None where they are kept on another device: the sums of a batch are brought there.
        """
        if self._place not in (None, device):
            return None
        products = self._products.setdefault(tap, {})
        if "cross" not in products:
            products["cross"] = torch.zeros(c_a, c_b, dtype=torch.float64, device=device)
        return products["cross"]

    def end_batch(self) -> None:
        """Merge what was added since the last batch ended.

        Raises:
            NonFiniteActivationError: on a CPU, when a channel's moments are not finite
        """
        batch = {key: sums for one in self._batch for key, sums in one.items()}
        self._batch = self._empty_batch()
        if not batch:
            return
        if not self._places:
            self._lay_out({key: len(sums.mean) for key, (_, sums) in batch.items()})
        n = {key: batch[key][0] for key in self._slices}
        mean = torch.cat([batch[key][1].mean for key in self._slices])
        m2 = torch.cat([batch[key][1].m2 for key in self._slices])
        self._watch.see(self._places, mean + m2, self._batches)
        if self._batches == 0:
            self._n, self._mean, self._m2 = n, mean, m2
        else:
            self._merge(n, mean, m2)
        self._batches += 1

    def _lay_out(self, channels: dict[Key, int]) -> None:
        """Give every tap of every network its place in the vectors."""
        self._places = [
            Place(tap, self._networks[network], count) for (tap, network), count in channels.items()
        ]
        ends = accumulate(channels.values())
        self._slices = {
            key: slice(end - count, end)
            for (key, count), end in zip(channels.items(), ends, strict=True)
        }

    def keep_products_on(self, device: torch.device) -> None:
        """Keep the sums of products, the largest of all totals, on a device of their own."""
        self._place = device
        self._products = {
            tap: {name: total.to(device) for name, total in held.items()}
            for tap, held in self._products.items()
        }

    def state(self) -> RunningState:
        """Return what `resumed` goes on from, after the last batch; tensors are not copied.

        Raises:
            NonFiniteActivationError: in some batch a channel's moments were not finite
        """
        self._watch.check()
        channels = {key: own.stop - own.start for key, own in self._slices.items()}
        return RunningState(self._batches, self._n, channels, self._mean, self._m2, self._products)

    @classmethod
    def resumed(
        cls, networks: Sequence[str], state: RunningState, device: torch.device
    ) -> "RunningMoments":
        """Go on from a state, to the same bits as without a stop; its tensors are written over.

        The sums of products stay where they are; see `keep_products_on`.
        """
        running = cls(networks)
        if state.batches:
            running._lay_out(state.channels)
            running._n, running._batches = dict(state.n), state.batches
            running._mean, running._m2 = state.mean.to(device), state.m2.to(device)
            running._products = {tap: dict(held) for tap, held in state.products.items()}
        return running

    def _merge(self, n: dict[Key, int], mean: Tensor, m2: Tensor) -> None:
        """Merge one batch by Chan's rule, see `moments`."""
        delta = mean.sub_(self._mean)
        both = {key: max(self._n[key] + n[key], 1) for key in n}
        shares = {key: n[key] / both[key] for key in n}
        weights = {key: self._n[key] * shares[key] for key in n}
        share = next(iter(shares.values()))
        if all(value == share for value in shares.values()):
            self._mean.add_(delta, alpha=share)
        else:  # images of several sizes: each tap has grown by another share
            self._mean.addcmul_(delta, self._expanded(shares.values()))
        unit = max(weights.values()) or 1.0
        relative = tuple(weight / unit for weight in weights.values())
        if relative != self._relative:  # the same for all batches of one image size
            self._relative, self._weights = relative, self._expanded(relative)
        for tap, products in self._products.items():
            a, b = delta[self._slices[tap, 0]], delta[self._slices[tap, 1]]
            self._spread(products, a, b, weights[tap, 0])
        self._m2.add_(m2).add_(delta.square_().mul_(self._weights), alpha=unit)
        self._n = {key: self._n[key] + n[key] for key in n}

    def _spread(self, products: dict[str, Tensor], a: Tensor, b: Tensor, weight: float) -> None:
        """Add to sums of products what the difference of the means contributes."""
        for name, total in products.items():
            a, b = a.to(total.device), b.to(total.device)
            if name == "cross":
                total.addr_(a, b, alpha=weight)
            elif name == "diagonal":
                total.addcmul_(a, b, value=weight)
            else:
                add_outer_(total, a if name == "within_a" else b, weight)

    def _expanded(self, values: Iterable[float]) -> Tensor:
        """Repeat one value per tap for each of its channels."""
        places = zip(values, self._places, strict=True)
        each = [value for value, place in places for _ in range(place.channels)]
        return torch.tensor(each, dtype=torch.float64).to(self._mean.device, non_blocking=True)

    def channels(self, tap: str, network: int = 0) -> ChannelMoments:
        """Return one network's moments at a tap, after the last batch.

        Raises:
            CalibrationDataError: there was no batch
            NonFiniteActivationError: in some batch a channel's moments were not finite
        """
        self._watch.check()
        if (tap, network) not in self._slices:
            raise CalibrationDataError(
                f"running moments need at least one batch with tap {tap!r}, and none was added; "
                "check that the data holds batches"
            )
        own = self._slices[tap, network]
        return ChannelMoments(self._n[tap, network], self._mean[own].clone(), self._m2[own].clone())

    def pair(self, tap: str) -> PairedMoments:
        """Return the moments of networks 0 and 1 at a tap, after the last batch.

        They are where sums of products are kept.
        """
        home = self._place or self._mean.device
        a, b = self.channels(tap, 0).to(home), self.channels(tap, 1).to(home)
        held = {name: total.to(home) for name, total in self._products.get(tap, {}).items()}
        products = {"cross": None, **held}
        return PairedMoments(a.n_samples, a.mean, a.m2, b.mean, b.m2, **products)
