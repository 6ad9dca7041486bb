"""Passes over the data that can be killed at any moment and go on where they were."""

import glob
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from repair_kernels.atomic import remove_leftovers
from repair_kernels.errors import ArgumentError, CheckpointError
from repair_kernels.statistics import checkpoint_file
from repair_kernels.statistics.checkpoint_file import RunCheckpoint
from repair_kernels.statistics.fingerprint import Fingerprint
from repair_kernels.statistics.numbered import NumberedBatches
from repair_kernels.statistics.paired_stats import PairedStats
from repair_kernels.statistics.row_sharded import RowShardedProducts
from repair_kernels.statistics.running import RunningMoments

NETWORKS = ("a", "b")


@dataclass(frozen=True)
class Checkpointing:
    """Where and how often a pass over the data is kept, so that it can go on after a kill.

    The file is left when the pass is done, and holds all of it: remove it once the result is safe.

    Args:
        path: the file; it is replaced as a whole, never half written
        seconds: how long at most to go on without a checkpoint
        batches: how many batches at most to go on without one
        resume: whether to go on from the file, where there is one; without this, a file that is
            there is an error, since it may hold hours of work
    """

    path: str | os.PathLike[str]
    seconds: float = 60.0
    batches: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if not self.seconds >= 0 or (self.batches is not None and self.batches < 1):
            raise ArgumentError(
                "a checkpoint needs at least 0 seconds and 1 batch between two; got "
                f"{self.seconds} and {self.batches}; leave them out for one each minute"
            )

    def of_rank(self, rank: int, world: int) -> "Checkpointing":
        """Return the same with a file of its own for one process of a group."""
        path = Path(f"{os.fspath(self.path)}.{rank + 1}-of-{world}")
        return Checkpointing(path, self.seconds, self.batches, self.resume)

    def check_processes(self, world: int) -> None:
        """Refuse to start beside what another number of processes left.

        Raises:
            CheckpointError: there are checkpoints of as many or as few as cannot go on from them
        """
        path = Path(self.path)
        left = {path: 1} if path.exists() else {}
        for file in sorted(path.parent.glob(f"{glob.escape(path.name)}.*-of-*")):
            of = re.fullmatch(r"\.\d+-of-(\d+)", file.name.removeprefix(path.name))
            left |= {file: int(of[1])} if of else {}
        others = {file: count for file, count in left.items() if count != world}
        if others:
            file, count = next(iter(others.items()))
            raise CheckpointError(
                f"expected no checkpoint of another number of processes than {world}, but "
                f"{str(file)!r} is one of {count}; go on with {count} (torchrun "
                f"--nproc-per-node={count}), or remove {len(others)} such "
                f"file{'s' if len(others) > 1 else ''} to start anew"
            )


class Passage:
    """One pass over the data: its totals, and how many images they are of.

    Attributes:
        running: the totals
        n_images: images so far
        first_size: images in the first batch; None before
        rows: where the sums of products are, if ranks keep them by rows; None: in `running`
    """

    is_kept = False
    """Whether it is kept in a file, to go on from there."""

    def __init__(self) -> None:
        self.running = RunningMoments(NETWORKS)
        self.rows: RowShardedProducts | None = None
        self.n_images = 0
        self.first_size: int | None = None

    def end_batch(self, n_images: int) -> None:
        """Merge a batch into the totals."""
        self.first_size = n_images if self.first_size is None else self.first_size
        self.running.end_batch()
        self.n_images += n_images

    def end(self) -> None:
        """Say that there are no more batches."""

    def stats(self, taps: Sequence[str]) -> PairedStats:
        """Return what was counted; without any image, statistics without taps."""
        moments = {tap: self.running.pair(tap) for tap in taps} if self.n_images else {}
        return PairedStats(moments, n_images=self.n_images)


class ResumablePassage(Passage):
    """A pass that is kept in a file, and starts from there.

    Args:
        checkpointing: where and how often
        data: the batches; they are brought to where the file is
        fingerprint: what the pass is of
        options: what else decides its bits
        device: where the totals shall be
    Raises:
        CheckpointError: the file is broken, of another run, or not expected to be there
    """

    is_kept = True

    def __init__(
        self,
        checkpointing: Checkpointing,
        data: NumberedBatches,
        fingerprint: Fingerprint,
        options: dict[str, Any],
        device: torch.device,
    ):
        super().__init__()
        self._every = checkpointing
        self._data, self._fingerprint, self._options = data, fingerprint, options
        remove_leftovers(checkpointing.path)
        if Path(checkpointing.path).exists():
            self._go_on(device)
        self._kept_at = time.monotonic()
        self._not_kept = 0

    def end_batch(self, n_images: int) -> None:
        """Merge a batch into the totals, and keep them when it is time."""
        super().end_batch(n_images)
        self._not_kept += 1
        is_due = self._every.batches is not None and self._not_kept >= self._every.batches
        if is_due or time.monotonic() - self._kept_at >= self._every.seconds:
            self._keep()

    def end(self) -> None:
        """Keep what came since the last time."""
        if self._not_kept:
            self._keep()

    def _keep(self) -> None:
        checkpoint = RunCheckpoint(
            self._fingerprint,
            self._options,
            self._data.position,
            self.first_size or 0,
            self.running.state(),
        )
        checkpoint_file.write(self._every.path, checkpoint)
        self._kept_at = time.monotonic()
        self._not_kept = 0

    def _go_on(self, device: torch.device) -> None:
        path = str(self._every.path)
        if not self._every.resume:
            raise CheckpointError(
                f"expected no checkpoint at {path!r}, but one is there; give `resume=True` "
                "(`--resume`) to go on from it, or remove it to start anew"
            )
        held = checkpoint_file.read(path)
        other = [
            words
            for field, words in IDENTITY.items()
            if getattr(held.fingerprint, field) != getattr(self._fingerprint, field)
        ]
        other += [
            f"option `{name}` ({held.options.get(name)!r} there, {self._options.get(name)!r} here)"
            for name in sorted({*held.options, *self._options})
            if held.options.get(name) != self._options.get(name)
        ]
        if other:
            raise CheckpointError(
                f"expected a checkpoint of this run at {path!r}, but it differs in "
                f"{', '.join(other)}; resume with what it was started with, or remove it to start "
                "anew"
            )
        self._data.go_to(held.position)
        self.running = RunningMoments.resumed(NETWORKS, held.running, device)
        self.n_images = self._data.coverage.n_images
        self.first_size = held.first_size


IDENTITY = {
    "architecture": "the architecture",
    "weights_a": "the weights of a",
    "weights_b": "the weights of b",
    "taps": "the taps or the products kept there",
    "data": "the data",
}
