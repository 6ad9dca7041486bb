"""Which rows of which matrices each rank keeps, and how many bytes that is.

    rank r of R keeps rows  r q, ..., (r + 1) q - 1  of every c x c matrix,   q = ceil(c / R)

Taps whose sums fit into `BUFFER_BYTES` are merged together; a wider one is a group of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from repair_kernels.moments.pairs import PRODUCTS
from repair_kernels.ranks import BUFFER_BYTES

DOUBLE = 8
MATRICES = {kind: PRODUCTS[kind] for kind in ("cross", "joint")}


@dataclass(frozen=True)
class RowLayout:
    """Which rows every rank keeps of what, and which taps are merged together.

    Args:
        channels: at every tap, of a and of b
        products: by tap what is kept there, in the order of the graph: "cross" or "joint"; other
            taps have no matrices
        ranks: how many there are

    Example:
        >>> layout = RowLayout({"conv": 5, "fc": 2}, {"conv": "joint", "fc": "none"}, ranks=3)
        >>> layout.matrices, layout.rows("conv", 2), layout.row_bytes
        ({'conv': ('cross', 'within_a', 'within_b')}, slice(4, 5, None), 240)
    """

    channels: Mapping[str, int]
    products: Mapping[str, str]
    ranks: int

    @cached_property
    def matrices(self) -> dict[str, tuple[str, ...]]:
        """The names of the sums at each tap that has any."""
        return {tap: MATRICES[kind] for tap, kind in self.products.items() if kind in MATRICES}

    def share(self, tap: str) -> int:
        """Return how many rows of a tap's matrices a rank keeps, at most."""
        return -(-self.channels[tap] // self.ranks)

    def rows(self, tap: str, rank: int) -> slice:
        """Return which rows of a tap's matrices one rank keeps; there may be none."""
        share, last = self.share(tap), self.channels[tap]
        return slice(min(rank * share, last), min((rank + 1) * share, last))

    @cached_property
    def groups(self) -> list[tuple[str, ...]]:
        """Taps that are merged together, in order."""
        groups: list[tuple[str, ...]] = []
        room = 0
        for tap in self.matrices:
            if not groups or self._bytes(tap) > room:
                groups.append(())
                room = BUFFER_BYTES
            groups[-1] = (*groups[-1], tap)
            room -= self._bytes(tap)
        return groups

    def at_once(self, tap: str) -> int:
        """Return how many of each rank's rows are sent at once."""
        most = BUFFER_BYTES // max(1, DOUBLE * self.ranks * self.channels[tap])
        return max(1, min(self.share(tap), most))

    @property
    def row_bytes(self) -> int:
        """What one rank keeps, at most."""
        share = {tap: self.share(tap) * self.channels[tap] for tap in self.matrices}
        return DOUBLE * sum(share[tap] * len(names) for tap, names in self.matrices.items())

    @property
    def step_bytes(self) -> int:
        """What a step takes: one group's sums, and two buffers to send and receive."""
        sums = max((sum(map(self._bytes, group)) for group in self.groups), default=0)
        sent = (self.ranks * self.at_once(tap) * self.channels[tap] for tap in self.matrices)
        return sums + 2 * DOUBLE * max(sent, default=0)

    def _bytes(self, tap: str) -> int:
        return DOUBLE * self.channels[tap] ** 2 * len(self.matrices[tap])
