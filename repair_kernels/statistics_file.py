"""Statistics files: the moments of every tap on disk, bit for bit.

A statistics file is safetensors, whatever its suffix: per tap the tensors `<tap>/mean_a`, `/m2_a`,
`/mean_b`, `/m2_b` and, where recorded, `/cross`, `/diagonal`, `/within_a` and `/within_b`, all
float64, and one metadata entry of JSON with the format version, the number of images, and the taps
in order with their sample counts.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from repair_kernels.atomic import atomic_path
from repair_kernels.errors import CheckpointError
from repair_kernels.moments import PairedMoments
from repair_kernels.moments.pairs import SUMS, VECTORS
from repair_kernels.moments.totals import check_count

FORMAT = "repair_kernels.paired_stats"
VERSION = 1
MAX_SAMPLES = 2**63 - 1


def write(
    path: str | os.PathLike[str], moments: Mapping[str, PairedMoments], *, n_images: int
) -> None:
    """Write a statistics file, at once or not at all: a reader never sees half of it.

    Raises:
        CheckpointError: the file cannot be written there
    """
    tensors = {
        f"{tap}/{name}": tensor.detach().cpu().contiguous().numpy()
        for tap, held in moments.items()
        for name, tensor in held.tensors.items()
    }
    taps = {tap: held.n_samples for tap, held in moments.items()}
    content = {"version": VERSION, "n_images": n_images, "taps": taps}
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(save(tensors, metadata={FORMAT: json.dumps(content)}))
    except OSError as error:
        raise CheckpointError(f"cannot write statistics to {str(path)!r}: {error}") from error


def read(path: str | os.PathLike[str]) -> tuple[dict[str, PairedMoments], int]:
    """Read a statistics file; nothing of it is executed.

    Returns:
        the moments of every tap, and the number of images; all of it is checked
    Raises:
        CheckpointError: the file is missing, broken, or holds no statistics
    """
    if not Path(path).is_file():
        raise CheckpointError(f"expected a statistics file at {str(path)!r}, but none is there.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{str(path)!r} is no whole safetensors file: {error}. Statistics files are "
            "written by `PairedStats.save`."
        ) from error
    try:
        return _parsed(metadata, tensors)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} holds no valid statistics: {error}") from error


def _parsed(
    metadata: Mapping[str, str], tensors: dict[str, Tensor]
) -> tuple[dict[str, PairedMoments], int]:
    if FORMAT not in metadata:
        raise CheckpointError(
            f"it has no {FORMAT!r} in its metadata. A checkpoint of weights is not a statistics "
            "file; make one with `compute_stats(...).save(path)`."
        )
    content = json.loads(metadata[FORMAT])
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise CheckpointError(
            f"expected format version {VERSION}, got {version!r}. Read it with the release of "
            "this package that wrote it."
        )
    taps = content.get("taps")
    if not isinstance(taps, dict):
        raise CheckpointError(f"expected taps with their sample counts, got {taps!r}.")
    moments = {}
    for tap, n_samples in taps.items():
        if not isinstance(n_samples, int) or not 0 <= n_samples <= MAX_SAMPLES:
            raise CheckpointError(f"tap {tap!r} has {n_samples!r} for its number of samples.")
        products = [name for name in SUMS if f"{tap}/{name}" in tensors]
        held = {name: _popped(tensors, tap, name) for name in (*VECTORS, *products)}
        moments[tap] = PairedMoments(n_samples, **held)
    if tensors:
        raise CheckpointError(f"it holds the tensor {next(iter(tensors))!r}, which is of no tap.")
    n_images: Any = content.get("n_images")
    check_count("n_images", n_images)
    return moments, n_images


def _popped(tensors: dict[str, Tensor], tap: str, name: str) -> Tensor:
    value = tensors.pop(f"{tap}/{name}", None)
    if value is None:
        raise CheckpointError(f"`{name}` of tap {tap!r} is missing.")
    if not value.isfinite().all() or (name.startswith("m2") and (value < 0).any()):
        allowed = "finite and not negative" if name.startswith("m2") else "finite"
        raise CheckpointError(f"`{name}` of tap {tap!r} must be {allowed}, and is not.")
    return value
