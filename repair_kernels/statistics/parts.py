"""Statistics files of parts of the data, computed apart, merged into one."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from repair_kernels.errors import (
    ArchitectureMismatchError,
    ArgumentError,
    RepairKernelsError,
    StatisticsMismatchError,
)
from repair_kernels.moments.pairs import merge_
from repair_kernels.statistics.fingerprint import Coverage, Fingerprint, ranges_in_words
from repair_kernels.statistics.paired_stats import PairedStats
from repair_kernels.statistics.statistics_file import read_head

SHOWN = 8


def merge_files(paths: Sequence[str | os.PathLike[str]], *, partial: bool = False) -> PairedStats:
    """Merge the statistics files of disjoint parts of one data set.

    By Chan's rule in float64, in the order of their images, so that the result has the same bits
    whatever the order of `paths`. No more than two of them are in memory at a time; whether they
    belong together is known before the first is.

    Args:
        paths: files that `PairedStats.save` wrote, each with a fingerprint
        partial: whether images may be missing
    Raises:
        CheckpointError: a file is missing, broken, or holds no statistics
        ArchitectureMismatchError: they are of other architectures, or taps
        StatisticsMismatchError: they are of other networks or data, do not say of which images, or
            share images; or images are missing and `partial` is not set
    """
    files = [Path(path) for path in paths]
    if not files:
        raise ArgumentError("`paths` must name the statistics files to merge; it is empty")
    if len(set(files)) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise StatisticsMismatchError(
            f"each part is merged once; {str(twice)!r} is named several times; name it once"
        )
    parts = []
    for file in files:
        fingerprint = read_head(file).fingerprint
        if fingerprint is None or fingerprint.coverage is None:
            raise StatisticsMismatchError(
                "statistics to merge must say of which networks and images they are; "
                f"{str(file)!r} does not; compute it with `repair-kernels stats --shard`, or use "
                "`PairedStats.merge` where you know that they fit"
            )
        parts.append((file, fingerprint, fingerprint.coverage))
    # Parts without images come by their shards.
    parts.sort(key=lambda part: (part[2].ranges, part[2].shards))
    whole = _checked(parts)
    if not partial:
        _check_complete(whole)
    return _summed([file for file, _, _ in parts], replace(parts[0][1], coverage=whole))


def _checked(parts: Sequence[tuple[Path, Fingerprint, Coverage]]) -> Coverage:
    """Check that parts belong together, and return what they cover; errors name two files."""
    # The first that says how many images there are in all, if any does.
    first, fingerprint, coverage = min(parts, key=lambda part: part[2].total is None)
    for file, other, theirs in parts:
        with _between(first, file):
            fingerprint.check_same(other)
            coverage.check_total(theirs)
    ranges = sorted((*one, n) for n, (_, _, theirs) in enumerate(parts) for one in theirs.ranges)
    reach, owner = 0, 0
    for start, stop, n in ranges:
        if start < reach:
            with _between(parts[owner][0], parts[n][0]):
                parts[owner][2].merge(parts[n][2])
        if stop > reach:
            reach, owner = stop, n
    shards = [shard for _, _, theirs in parts for shard in theirs.shards]
    return Coverage.of([(start, stop) for start, stop, _ in ranges], coverage.total, shards)


@contextmanager
def _between(one: Path, other: Path) -> Iterator[None]:
    try:
        yield
    except RepairKernelsError as error:
        raise type(error)(f"{str(one)!r} and {str(other)!r}: {error}") from error


def _check_complete(whole: Coverage) -> None:
    if not whole.missing and not whole.missing_shards:
        return
    shards = whole.missing_shards
    named = f"shards {', '.join(shards[:SHOWN])}" if shards else ranges_in_words(whole.missing)
    more = f" and {len(shards) - SHOWN} more" if len(shards) > SHOWN else ""
    raise StatisticsMismatchError(
        f"statistics to merge must cover all images; they cover {whole}, and {named}{more} are "
        "missing; compute these, or allow a part with `partial=True` (`--partial`)"
    )


def _summed(files: Sequence[Path], fingerprint: Fingerprint) -> PairedStats:
    """Merge files in this order, each into the memory of the first that holds anything."""
    total = PairedStats({}, n_images=0)
    for file in files:
        part = PairedStats.load(file)
        if not total:
            total = part
            continue
        if part and list(part) != list(total):
            raise ArchitectureMismatchError(
                f"statistics to merge must have the same taps; {str(file)!r} has others; compute "
                "all parts with the same options"
            )
        merged = {tap: merge_(total[tap], moments) for tap, moments in part.items()} or total
        total = PairedStats(merged, n_images=total.n_images + part.n_images)
        del part
    return PairedStats(total, n_images=total.n_images, fingerprint=fingerprint)
