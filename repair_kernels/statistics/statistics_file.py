"""Statistics files: the moments of every tap on disk, bit for bit.

A statistics file is safetensors, whatever its suffix: per tap the tensors `<tap>/mean_a`, `/m2_a`,
`/mean_b`, `/m2_b` and, where recorded, `/cross`, `/diagonal`, `/within_a` and `/within_b`, all
float64, and one metadata entry of JSON with the format version, the number of images, the taps in
order with their sample counts, the fingerprint, or null, and the SHA-256 of all of that and of all
tensors. Files of version 1, which have neither fingerprint nor digest, are read.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from repair_kernels.atomic import atomic_path
from repair_kernels.digests import digest_of_tensors
from repair_kernels.errors import CheckpointError
from repair_kernels.moments import PairedMoments
from repair_kernels.moments.pairs import SUMS, VECTORS
from repair_kernels.moments.totals import check_count
from repair_kernels.statistics.fingerprint import Fingerprint

FORMAT = "repair_kernels.paired_stats"
VERSION = 2
READABLE = (1, 2)
MAX_SAMPLES = 2**63 - 1
ANEW = "copy it again, or compute it anew"


class Head(NamedTuple):
    """What a statistics file says before its tensors are read."""

    n_images: int
    taps: dict[str, int]
    fingerprint: Fingerprint | None
    text: str
    sha256: str | None


class Contents(NamedTuple):
    """What a statistics file holds."""

    moments: dict[str, PairedMoments]
    n_images: int
    fingerprint: Fingerprint | None


def write(
    path: str | os.PathLike[str],
    moments: Mapping[str, PairedMoments],
    *,
    n_images: int,
    fingerprint: Fingerprint | None = None,
) -> None:
    """Write a statistics file, at once or not at all: a reader never sees half of it.

    Raises:
        CheckpointError: the file cannot be written there
    """
    tensors = {
        f"{tap}/{name}": tensor.detach().cpu().contiguous()
        for tap, held in moments.items()
        for name, tensor in held.tensors.items()
    }
    content = {
        "version": VERSION,
        "n_images": n_images,
        "taps": {tap: held.n_samples for tap, held in moments.items()},
        "fingerprint": None if fingerprint is None else fingerprint.to_json(),
    }
    content["sha256"] = digest_of_tensors(tensors, json.dumps(content))
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(save(arrays, metadata={FORMAT: json.dumps(content)}))
    except OSError as error:
        raise CheckpointError(
            f"cannot write statistics to {str(path)!r}: {error.strerror or error}; name a file in "
            "a folder that exists, can be written to and has room"
        ) from error


def read(path: str | os.PathLike[str]) -> Contents:
    """Read a statistics file; nothing of it is executed, and all of it is checked.

    Raises:
        CheckpointError: the file is missing, broken, or holds no statistics
    """
    with _opened(path) as file:
        head = _head(file.metadata() or {})
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        moments = _moments(head.taps, dict(tensors))
        if head.sha256 is not None and head.sha256 != digest_of_tensors(tensors, head.text):
            raise CheckpointError(
                f"what it holds is not what was written there (its SHA-256 differs); {ANEW}"
            )
    return Contents(moments, head.n_images, head.fingerprint)


def read_head(path: str | os.PathLike[str]) -> Head:
    """Read what a statistics file is of, but not its moments.

    Raises:
        CheckpointError: the file is missing, broken, or holds no statistics
    """
    with _opened(path) as file:
        return _head(file.metadata() or {})


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a file of tensors, and say which one it is where it cannot be read."""
    if not Path(path).is_file():
        raise CheckpointError(
            f"expected a statistics file at {str(path)!r}, but none is there; check the path, or "
            "make one with `compute_stats(...).save(path)` or `repair-kernels stats`"
        )
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"expected a statistics file, but {str(path)!r} is no whole safetensors file: {error}; "
            f"{ANEW}"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"{str(path)!r} holds no valid statistics: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{str(path)!r} holds no valid statistics: {error}; {ANEW}"
        ) from error


def _head(metadata: Mapping[str, str]) -> Head:
    if FORMAT not in metadata:
        raise CheckpointError(
            f"it has no {FORMAT!r} in its metadata. A checkpoint of weights is not a statistics "
            "file; make one with `compute_stats(...).save(path)`."
        )
    content = json.loads(metadata[FORMAT])
    version = content.get("version") if isinstance(content, dict) else None
    if version not in READABLE or isinstance(version, bool):
        raise CheckpointError(
            f"expected format version 1 or {VERSION}, got {version!r}. Read it with the release of "
            "this package that wrote it."
        )
    sha256 = content.pop("sha256", None)
    if version > 1 and sha256 is None:
        raise CheckpointError("expected the SHA-256 of what it holds, got none. Compute it anew.")
    taps = content.get("taps")
    if not isinstance(taps, dict):
        raise CheckpointError(f"expected taps with their sample counts, got {taps!r}; {ANEW}")
    for tap, n_samples in taps.items():
        if not isinstance(n_samples, int) or not 0 <= n_samples <= MAX_SAMPLES:
            raise CheckpointError(
                f"tap {tap!r} has {n_samples!r} for its number of samples; {ANEW}"
            )
    n_images: Any = content.get("n_images")
    check_count("n_images", n_images)
    held = content.get("fingerprint")
    fingerprint = None if held is None else Fingerprint.from_json(held)
    covered = None if fingerprint is None else fingerprint.coverage
    if covered is not None and covered.n_images != n_images:
        raise CheckpointError(
            f"expected as many images as it says to cover, {covered}, but it counts {n_images:,}; "
            f"{ANEW}"
        )
    return Head(n_images, taps, fingerprint, json.dumps(content), sha256)


def _moments(taps: Mapping[str, int], tensors: dict[str, Tensor]) -> dict[str, PairedMoments]:
    """Take the moments of each tap out of `tensors`, until none are left."""
    moments = {}
    for tap, n_samples in taps.items():
        products = [name for name in SUMS if f"{tap}/{name}" in tensors]
        held = {name: _popped(tensors, tap, name) for name in (*VECTORS, *products)}
        moments[tap] = PairedMoments(n_samples, **held)
    if tensors:
        raise CheckpointError(
            f"it holds the tensor {next(iter(tensors))!r}, which is of no tap; {ANEW}"
        )
    return moments


def _popped(tensors: dict[str, Tensor], tap: str, name: str) -> Tensor:
    value = tensors.pop(f"{tap}/{name}", None)
    if value is None:
        raise CheckpointError(f"`{name}` of tap {tap!r} is missing; {ANEW}")
    if not value.isfinite().all() or (name.startswith("m2") and (value < 0).any()):
        allowed = "finite and not negative" if name.startswith("m2") else "finite"
        raise CheckpointError(f"`{name}` of tap {tap!r} must be {allowed}, and is not; {ANEW}")
    return value
