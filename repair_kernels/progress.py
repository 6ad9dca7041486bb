"""How far a pass over the data is: images, images per second and time left, on standard error.

Whoever starts the work says that it shall be shown; every pass below it then is, however deep:

    with progress.shown():
        repair(...)             # statistics, calibration, distillation, assessment
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

FORMAT = (
    "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}, {rate_noinv_fmt}, {remaining} left"
)
FORMAT_WITHOUT_TOTAL = "{desc}: {n_fmt} images, {rate_noinv_fmt}, {elapsed} so far"
SECONDS_BETWEEN, SECONDS_BETWEEN_LINES = 0.2, 5.0
"""Between two looks of a bar on a terminal; and in a file, where each stays."""

_stream: ContextVar[TextIO | None] = ContextVar("progress_stream", default=None)
_Batch = TypeVar("_Batch")


@contextmanager
def shown(wanted: bool = True, stream: TextIO | None = None) -> Iterator[None]:
    """Let every pass over data within the block show its progress.

    Args:
        wanted: if not, the block is as it would be without
        stream: where; default: standard error
    """
    if not wanted:
        yield
        return
    token = _stream.set(stream or sys.stderr)
    try:
        yield
    finally:
        _stream.reset(token)


class Meter:
    """Where images are counted that a stage is done with.

    Args:
        bar: what shows them; None: nothing does
    """

    def __init__(self, bar: tqdm | None = None):
        self._bar, self._done = bar, 0.0

    def update(self, images: float) -> None:
        """Count images, or a part of an image that was done in part."""
        if self._bar is not None:
            self._done += images
            self._bar.update(round(self._done) - self._bar.n)

    def end(self) -> None:
        """Say that all is done, also where fewer or more images were expected."""
        if self._bar is not None and self._bar.total != self._bar.n:
            self._bar.total = self._bar.n
            self._bar.refresh()


@contextmanager
def meter(stage: str, images: float | None, *, keep: bool = True) -> Iterator[Meter]:
    """Show the progress of a stage, if it shall be shown.

    Args:
        stage: what is being done ("calibration")
        images: how many there are; None where that is not known
        keep: whether the bar stays on the terminal when the stage is over
    """
    stream = _stream.get()
    if stream is None:
        yield Meter()
        return
    is_terminal = stream.isatty()
    with tqdm(
        total=images,
        desc=stage,
        unit=" images",
        file=stream,
        bar_format=FORMAT if images else FORMAT_WITHOUT_TOTAL,
        mininterval=SECONDS_BETWEEN if is_terminal else SECONDS_BETWEEN_LINES,
        dynamic_ncols=is_terminal,
        leave=keep or not is_terminal,
    ) as bar:
        done = Meter(bar)
        yield done
        done.end()


def counted(
    batches: Iterable[_Batch], stage: str, images: float | None = None, *, keep: bool = True
) -> Iterator[_Batch]:
    """Yield batches, and count the images of each when it is done with.

    Args:
        batches: tensors, or what has the length of one
        images: how many there are; default: what `batches.expected_images` says, if it does
        keep: see `meter`
    """
    expected = getattr(batches, "expected_images", None) if images is None else images
    with meter(stage, expected, keep=keep) as done:
        for batch in batches:
            yield batch
            done.update(_images(batch))


def _images(batch: Any) -> int:
    first = batch
    if isinstance(batch, Mapping):
        first = next(iter(batch.values()))
    elif isinstance(batch, Sequence):
        first = batch[0]
    return len(first)
