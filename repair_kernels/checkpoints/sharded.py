"""A state dict in several files, under an index that says which tensor is in which.

`model.safetensors.index.json`: {"weight_map": {"conv1.weight": "model-00001-of-00003.safetensors"}}
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from repair_kernels.checkpoints.nesting import StoredTensor
from repair_kernels.errors import CheckpointError

INDEX_SUFFIX = ".index.json"
LARGEST_INDEX = 2**28


def is_index(path: Path) -> bool:
    """Tell whether a file is an index of shards, by its name."""
    return path.name.endswith(INDEX_SUFFIX)


def shards_of(index: Path) -> list[Path]:
    """Return the files that an index names, in order of their names.

    Raises:
        CheckpointError: when the index is no index, or a shard lies elsewhere
    """
    return [_beside(index, shard) for shard in sorted(set(_weight_map(index).values()))]


def read(index: Path, read_file: Callable[[Path], Any]) -> dict[str, Any]:
    """Read all shards of an index.

    Args:
        index: the file
        read_file: reads one shard
    Raises:
        CheckpointError: when the index is no index, a shard is missing or lies elsewhere, or lacks
            a tensor that it should have
    """
    weight_map = _weight_map(index)
    shards: dict[str, list[str]] = {}
    for name, shard in weight_map.items():
        shards.setdefault(shard, []).append(name)
    found: dict[str, Any] = {}
    for shard, names in shards.items():
        held = _shard(index, shard, read_file)
        for name in names:
            if not isinstance(held.get(name), Tensor | StoredTensor):
                raise CheckpointError(
                    f"expected {index.with_name(shard)} to hold `{name}`, as {index.name} says, "
                    "but it does not; copy all shards again, from one place"
                )
            found[name] = held[name]
    return {name: found[name] for name in weight_map}


def _weight_map(index: Path) -> Mapping[str, str]:
    if index.stat().st_size > LARGEST_INDEX:
        raise CheckpointError(
            f"expected {index} to be an index of at most {LARGEST_INDEX:,} bytes, but it is "
            "larger; name the file that lists the shards"
        )
    content = json.loads(index.read_bytes())
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(
            f"expected {index} to map names of tensors to files under 'weight_map', but it does "
            "not; name the index that was saved with the shards"
        )
    return weight_map


def _beside(index: Path, shard: str) -> Path:
    if not shard or Path(shard).name != shard:
        raise CheckpointError(
            f"expected {index} to name files beside it, but it names {shard!r}; copy the shards "
            "into its folder and save the index again"
        )
    return index.with_name(shard)


def _shard(index: Path, shard: str, read_file: Callable[[Path], Any]) -> Mapping[str, Any]:
    path = _beside(index, shard)
    if not path.is_file():
        raise CheckpointError(
            f"expected the shard {path}, as {index.name} says, but it is not there; copy all "
            "shards into one folder"
        )
    held = read_file(path)
    if not isinstance(held, Mapping):
        raise CheckpointError(
            f"expected the shard {path} to hold tensors by name, but it holds a "
            f"{type(held).__name__}; copy all shards again, from one place"
        )
    return held
