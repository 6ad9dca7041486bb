"""Checkpoints of a pass over the data: all that it needs to go on, to the same bits.

A checkpoint is safetensors: the running vectors `mean` and `m2`, the sums of products
`<tap>/cross`, `/diagonal`, `/within_a`, `/within_b`, all float64, and one metadata entry of JSON:
what the run is of, how far it has come, the taps with their sample counts, and the SHA-256 of all.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from repair_kernels.atomic import atomic_path
from repair_kernels.digests import digest_of_tensors
from repair_kernels.errors import CheckpointError
from repair_kernels.moments.pairs import SUMS
from repair_kernels.moments.totals import is_count
from repair_kernels.statistics.fingerprint import Coverage, Fingerprint
from repair_kernels.statistics.numbered import Position
from repair_kernels.statistics.running import RunningState

FORMAT = "repair_kernels.checkpoint"
VERSION = 1
NETWORKS = (0, 1)


class RunCheckpoint(NamedTuple):
    """A pass over the data between two batches.

    Attributes:
        fingerprint: what the run is of, without its coverage
        options: what else decides its bits
        position: how far the data has been read
        first_size: images in the first batch
        running: the totals
    """

    fingerprint: Fingerprint
    options: dict[str, Any]
    position: Position
    first_size: int
    running: RunningState


def write(path: str | os.PathLike[str], checkpoint: RunCheckpoint) -> None:
    """Write a checkpoint, at once or not at all: a reader finds the one before, or this one.

    Raises:
        CheckpointError: the file cannot be written there
    """
    running, position = checkpoint.running, checkpoint.position
    tensors = {"mean": running.mean, "m2": running.m2}
    tensors |= {
        f"{tap}/{name}": total
        for tap, held in running.products.items()
        for name, total in held.items()
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = {
        "version": VERSION,
        "fingerprint": checkpoint.fingerprint.to_json(),
        "options": checkpoint.options,
        "position": [position.batches, position.images, [list(one) for one in position.ranges]],
        "first_size": checkpoint.first_size,
        "batches": running.batches,
        "taps": [[*key, running.channels[key], n] for key, n in running.n.items()],
    }
    content["sha256"] = digest_of_tensors(tensors, json.dumps(content))
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={FORMAT: json.dumps(content)})
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error  # not the temporary file's name
        raise CheckpointError(
            f"cannot write a checkpoint to {str(path)!r}: {reason}; name a file in a folder that "
            "exists, can be written to and has room"
        ) from error


def read(path: str | os.PathLike[str]) -> RunCheckpoint:
    """Read a checkpoint; nothing of it is executed, and all of it is checked.

    Raises:
        CheckpointError: the file is missing, broken, or no checkpoint of a run
    """
    if not Path(path).is_file():
        raise CheckpointError(
            f"expected a checkpoint at {str(path)!r}, but none is there; check the path, or start "
            "anew without one"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{str(path)!r} is no whole checkpoint of a run: {error}. Remove it to start anew."
        ) from error
    try:
        return _parsed(metadata.get(FORMAT), tensors)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{str(path)!r} holds no valid checkpoint of a run: {error}. Remove it to start anew."
        ) from error


def _parsed(text: str | None, tensors: dict[str, Tensor]) -> RunCheckpoint:
    content = {} if text is None else json.loads(text)
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION or isinstance(version, bool):
        raise CheckpointError(f"expected format version {VERSION}, got {version!r}")
    sha256 = content.pop("sha256", None)
    if sha256 != digest_of_tensors(tensors, json.dumps(content)):
        raise CheckpointError("what it holds is not what was written there (its SHA-256 differs)")
    options, first_size = content.get("options"), content.get("first_size")
    if not isinstance(options, dict) or not is_count(first_size):
        raise CheckpointError("expected options, and the size of the first batch")
    return RunCheckpoint(
        fingerprint=Fingerprint.from_json(content.get("fingerprint")),
        options=options,
        position=_position(content.get("position")),
        first_size=first_size,
        running=_running(content, tensors),
    )


def _position(held: Any) -> Position:
    if not isinstance(held, list) or len(held) != 3 or not all(map(is_count, held[:2])):
        raise CheckpointError(f"expected a position in the data, got {str(held)[:80]}")
    coverage = Coverage.from_json(held[2])
    return Position(held[0], held[1], coverage.ranges)


def _running(content: dict[str, Any], tensors: dict[str, Tensor]) -> RunningState:
    rows, batches = content.get("taps"), content.get("batches")
    if not isinstance(rows, list) or not is_count(batches):
        raise CheckpointError("expected taps, and the number of batches")
    n: dict[tuple[str, int], int] = {}
    channels: dict[tuple[str, int], int] = {}
    for row in rows:
        is_row = isinstance(row, list) and len(row) == 4 and isinstance(row[0], str)
        if not is_row or row[1] not in NETWORKS or not all(map(is_count, row[1:])):
            raise CheckpointError(f"expected a tap with its counts, got {str(row)[:80]}")
        channels[row[0], row[1]], n[row[0], row[1]] = row[2:]
    width = (sum(channels.values()),)
    vectors = [tensors.pop(name, None) for name in ("mean", "m2")]
    products: dict[str, dict[str, Tensor]] = {}
    for name, total in tensors.items():
        tap, _, kind = name.rpartition("/")
        c_a, c_b = (channels.get((tap, network), -1) for network in NETWORKS)
        shapes = {"cross": (c_a, c_b), "diagonal": (c_a,)}
        shapes |= {"within_a": (c_a, c_a), "within_b": (c_b, c_b)}
        if kind not in SUMS or total.shape != shapes[kind]:
            raise CheckpointError(f"the tensor {name!r} does not belong to the taps")
        products.setdefault(tap, {})[kind] = total
    for total in (*vectors, *(total for held in products.values() for total in held.values())):
        if total is None or str(total.dtype) != "torch.float64" or not total.isfinite().all():
            raise CheckpointError("expected finite float64 totals")
    mean, m2 = vectors
    if mean is None or m2 is None or mean.shape != width or m2.shape != width:
        raise CheckpointError(f"expected means and m2 of {width[0]} channels")
    return RunningState(batches, n, channels, mean, m2, products)
