"""The first NaN or infinity that a pass over the data meets; a GPU is not waited for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repair_kernels.errors import NonFiniteActivationError


@dataclass(frozen=True)
class Place:
    """Where a vector comes from."""

    tap: str
    network: str
    channels: int


class FiniteWatch:
    """Remembers for each channel the first batch in which its moments were not finite.

    On a CPU, where waiting costs nothing, it is reported at once; on a GPU, where reading a flag
    would hold up the work that is queued, by `check`.
    """

    def __init__(self) -> None:
        self._first: dict[tuple[Place, ...], Tensor] = {}

    def see(self, places: Sequence[Place], values: Tensor, batch: int) -> None:
        """Take one value per channel of all `places`, not finite where the moments were not."""
        bad = ~values.isfinite()
        if values.device.type == "cpu" and not bool(bad.any()):
            return
        key = tuple(places)
        if key not in self._first:
            self._first[key] = torch.full(bad.shape, -1, dtype=torch.int32, device=bad.device)
        first = self._first[key]
        first.masked_fill_(bad & (first < 0), batch)
        if values.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise NonFiniteActivationError for the first batch and tap with anything non-finite."""
        found: list[tuple[int, Place]] = []
        for places, first in self._first.items():
            parts = first.cpu().split([place.channels for place in places])
            for place, part in zip(places, parts, strict=True):
                batches = part[part >= 0]
                if batches.numel():
                    found.append((int(batches.min()), place))
        if not found:
            return
        batch, place = min(found, key=lambda one: one[0])
        raise NonFiniteActivationError(
            f"activations must be finite; network {place.network} has NaN or infinity at tap "
            f"{place.tap!r} in batch {batch}; check that batch's inputs, and the network's weights "
            "for overflow"
        )
