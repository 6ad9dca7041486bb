"""What a merged checkpoint says of how it was made."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from repair_kernels.checkpoints import sha256_of
from repair_kernels.cli.networks import checkpoint_of
from repair_kernels.cli.processes import Process
from repair_kernels.version import __version__

STRUCTURED = ("sources", "explicit_layers", "options", "data", "model", "computing")
"""Entries that are JSON."""


def made_by(alpha: float, variant: str, explicit: Sequence[str]) -> dict[str, str]:
    """Return what every merged checkpoint says: the version, alpha, variant and explicit layers."""
    return {
        "made_by": f"repair-kernels {__version__}",
        "version": __version__,
        "alpha": str(alpha),
        "variant": variant,
        "explicit_layers": json.dumps(list(explicit)),
    }


def computing(options: argparse.Namespace, process: Process) -> str:
    """Return where and by how many it was computed, which decides how sums are rounded."""
    found = {
        "processes": process.size,
        "batch_size": options.batch_size,
        "device": options.device or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return json.dumps(found)


def sources(options: argparse.Namespace) -> str:
    """Return where both networks came from: names, hashes, and keys where any were given."""
    found = []
    for name in "ab":
        reference = getattr(options, name)
        source = {"path": reference, "sha256": sha256_of(checkpoint_of(reference))}
        key = getattr(options, f"key_{name}") or options.key
        found.append({**source, "key": key} if key else source)
    return json.dumps(found)


def readable(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return a file's metadata with what is JSON parsed; what is broken stays text."""
    found: dict[str, Any] = dict(metadata)
    for name in STRUCTURED:
        if name in found:
            try:
                found[name] = json.loads(found[name])
            except (ValueError, RecursionError):
                continue
    return found
