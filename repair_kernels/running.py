"""Moments of a stream, batch by batch, in memory that is written over and over.

Moments are values: `merge` returns new ones, which at 2,048 x 2,048 channels costs 32 MiB of fresh
memory per batch. A loop over batches adds to a running total instead, by the same rule and with the
same bits. Nothing here waits for the device.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from repair_kernels.errors import CalibrationDataError
from repair_kernels.moments import ChannelMoments, PairedMoments, channels, pairs
from repair_kernels.ops import ChannelSums, PairedSums

M = TypeVar("M", ChannelMoments, PairedMoments)


class _Running(Generic[M]):
    def __init__(self, merge_: Callable[[M, M], M]) -> None:
        self._merge_ = merge_
        self._total: M | None = None
        self._is_lent = False

    def _add(self, more: M) -> None:
        if self._total is None:
            self._total = more.clone()
            return
        own = self._total.clone() if self._is_lent else self._total
        self._total, self._is_lent = self._merge_(own, more), False

    def value(self) -> M:
        """Return the moments of all samples so far; what is added later does not change them.

        Raises:
            CalibrationDataError: nothing was added
        """
        if self._total is None:
            raise CalibrationDataError(
                "running moments need at least one batch, and none was added. Check that the data "
                "holds batches."
            )
        self._is_lent = True
        return self._total


class RunningChannels(_Running[ChannelMoments]):
    """The moments of one network's channels at one tap, so far.

    Example:
        >>> import torch
        >>> from repair_kernels import ops
        >>> running = RunningChannels()
        >>> for batch in torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]]):
        ...     running.add(len(batch), ops.channel_moments(batch))
        >>> running.value().n_samples, running.value().mean.tolist()
        (4, [4.0])
    """

    def __init__(self) -> None:
        super().__init__(channels.merge_)

    def add(self, n_samples: int, sums: ChannelSums) -> None:
        """Merge what `ops.channel_moments` returned for `n_samples` more samples; it is copied."""
        self._add(ChannelMoments.from_sums(n_samples, sums))


class RunningPaired(_Running[PairedMoments]):
    """The moments of two networks' channels at one tap, so far; of one kind of sums throughout."""

    def __init__(self) -> None:
        super().__init__(pairs.merge_)

    def add(self, n_samples: int, sums: PairedSums) -> None:
        """Merge what `ops.paired_moments` returned for `n_samples` more samples; it is copied."""
        self._add(PairedMoments.from_sums(n_samples, sums))
