"""Weights that torchvision publishes, by name: `torchvision:ResNet50_Weights.IMAGENET1K_V1`.

They are downloaded once, into torch.hub's folder, and checked against the hash in their name.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import torch.hub

from repair_kernels.errors import ArgumentError, CheckpointError, MissingExtraError

PREFIX = "torchvision:"
EXAMPLE = f"{PREFIX}ResNet50_Weights.IMAGENET1K_V1"


def is_published(reference: str) -> bool:
    """Tell whether a reference names published weights, and no file."""
    return reference.startswith(PREFIX)


def published_weights(reference: str, *, progress: bool = False) -> Path:
    """Return the file of published weights; download it, if it is not there yet.

    Args:
        reference: such as `EXAMPLE`
        progress: whether to show a progress bar
    Raises:
        MissingExtraError: torchvision is not installed, or not for this torch
        ArgumentError: it publishes no weights of this name
        CheckpointError: they cannot be downloaded
    """
    name = reference.removeprefix(PREFIX)
    try:
        models = importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:  # built for another torch, it fails at an operator
        raise MissingExtraError(
            f"published weights need torchvision; importing it failed: {error}; install the "
            'version that fits your torch with `pip install "repair-kernels[vision]"`, or give a '
            "file"
        ) from error
    try:
        url = models.get_weight(name).url
    except (ValueError, KeyError, AttributeError) as error:
        raise ArgumentError(
            f"expected the name of published weights, such as {EXAMPLE}; torchvision has no "
            f"{name!r}; see `torchvision.models`"
        ) from error
    file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not file.is_file():
        digest = re.search(r"-([0-9a-f]{8,})\.", file.name)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), digest and digest[1], progress)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"expected to download {reference} from {url}; that failed: {error}; go online, or "
                f"put the file at {file}"
            ) from error
    return file
