"""Every reader of files, each with sound files of its kind and with hostile ones."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.robustness import configurations, hostile, hostile_archives
from repair_kernels.checkpoints import load_metadata, load_state_dict, save_state_dict
from repair_kernels.cli import main as command_line
from repair_kernels.digests import digest_of_tensors
from repair_kernels.errors import RepairKernelsError
from repair_kernels.images import open_images
from repair_kernels.statistics import checkpoint_file
from repair_kernels.statistics.collecting import compute_stats
from repair_kernels.statistics.paired_stats import PairedStats
from repair_kernels.statistics.resuming import Checkpointing

Make = Callable[[Path], Path]
Read = Callable[[Path], Any]
Edit = Callable[[bytes, random.Random], tuple[str, bytes]]
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Target:
    """A reader, and sound files for it.

    Attributes:
        make: writes files into a folder, and returns the one that is damaged
        read: reads it (or the folder that it lies in)
        attacks: hostile files of its kind
        checked: what `read` returns is the contents' digest, and a file that has one vouches for it
        edit: names and makes changes some of which leave a file sound; half of the files have them
    """

    make: Make
    read: Read
    attacks: Callable[[Path], dict[str, bytes]]
    checked: bool = False
    edit: Edit | None = None


def _network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))


def _batches() -> list[torch.Tensor]:
    return list(torch.randn(24, 4, generator=torch.Generator().manual_seed(0)).split(8))


def _statistics(folder: Path) -> Path:
    for number in (1, 2):
        stats = compute_stats(
            _network(0), _network(1), _batches(), joint=True, shard=f"{number}/2", backend="torch"
        )
        stats.save(folder / f"part{number}.safetensors")
    return folder / "part1.safetensors"


def _read_statistics(path: Path) -> str:
    stats = PairedStats.load(path)
    tensors = {f"{tap} {name}": x for tap, m in stats.items() for name, x in m.tensors.items()}
    return digest_of_tensors(tensors, str(stats.n_images), repr(stats.fingerprint))


def _merge_on_the_command_line(path: Path) -> str:
    """Merge a damaged part with a sound one; return what was written, which is removed again."""
    output = path.with_name("merged")
    words = ["merge-stats", str(path), str(path.with_name("part2.safetensors")), "-o", str(output)]
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as said,
    ):
        code = command_line([*words, "--quiet"])
    if code:
        raise RepairKernelsError(said.getvalue())
    found = _read_statistics(output)
    output.unlink()
    return found


def _checkpoint(folder: Path) -> Path:
    path = folder / "run.partial"
    compute_stats(
        _network(0), _network(1), _batches(), backend="torch", checkpointing=Checkpointing(path)
    )
    return path


def _read_checkpoint(path: Path) -> str:
    held = checkpoint_file.read(path)
    products = {f"{t} {n}": x for t, one in held.running.products.items() for n, x in one.items()}
    tensors = {"mean": held.running.mean, "m2": held.running.m2, **products}
    return digest_of_tensors(tensors, repr(held._replace(running=None)))


def _saved(name: str, save: Callable[[State, Path], Any]) -> Make:
    def make(folder: Path) -> Path:
        save(dict(_network(0).state_dict()), folder / name)
        return folder / name

    return make


def _save_safetensors(state: State, path: Path) -> None:
    save_state_dict(state, path, metadata={"alpha": "0.5"})


def _save_training(state: State, path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)


def _save_run(state: State, path: Path) -> None:
    options = argparse.Namespace(lr=0.1, output=Path("runs"))
    torch.save({"options": options, "state_dict": OrderedDict(state)}, path)


def _save_legacy(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def _save_npz(state: State, path: Path) -> None:
    np.savez_compressed(path, **{name: tensor.numpy() for name, tensor in state.items()})


def _sharded(damaged: str) -> Make:
    def make(folder: Path) -> Path:
        state = dict(_network(0).state_dict())
        halves = [dict(list(state.items())[:2]), dict(list(state.items())[2:])]
        weight_map = {}
        for number, half in enumerate(halves):
            _save_safetensors(half, folder / f"model-{number}.safetensors")
            weight_map |= dict.fromkeys(half, f"model-{number}.safetensors")
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {"total_size": 9}, "weight_map": weight_map}))
        return folder / damaged

    return make


def _distributed(damaged: str) -> Make:
    def make(folder: Path) -> Path:
        import torch.distributed.checkpoint as dcp

        dcp.save({"model": dict(_network(0).state_dict())}, checkpoint_id=folder)
        return next(folder.glob(damaged))

    return make


def _picture() -> bytes:
    from PIL import Image

    held = io.BytesIO()
    pixels = np.arange(40 * 36 * 3, dtype=np.uint8).reshape(36, 40, 3)
    Image.fromarray(pixels).save(held, "JPEG")
    return held.getvalue()


def _image_folder(folder: Path) -> Path:
    (folder / "class").mkdir()
    (folder / "class" / "0.jpg").write_bytes(_picture())
    return folder / "class" / "0.jpg"


def _tar_shard(folder: Path) -> Path:
    import tarfile

    path = folder / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in (("0.jpg", _picture()), ("0.cls", b"3"), ("1.jpg", _picture())):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def _read_images(data: Path) -> int:
    source = open_images(data, image_size=16)
    labels = [source.label(number) for number in range(len(source))] if source.has_labels else []
    return sum(len(batch) for batch in source.loader(2)) + len(labels)


def _configuration(folder: Path) -> Path:
    path = folder / "run.toml"
    path.write_text(configurations.SOUND)
    return path


def _folder_of(read: Read) -> Read:
    return lambda path: read(path.parent)


def _index_of(read: Read) -> Read:
    return lambda path: read(path.with_name("model.safetensors.index.json"))


def _load(path: Path) -> None:
    load_state_dict(path)
    load_metadata(path)


TARGETS = {
    "statistics": Target(_statistics, _read_statistics, hostile.safetensors_files, checked=True),
    "merge-stats": Target(
        _statistics, _merge_on_the_command_line, hostile.safetensors_files, checked=True
    ),
    "run checkpoint": Target(
        _checkpoint, _read_checkpoint, hostile.safetensors_files, checked=True
    ),
    "safetensors": Target(
        _saved("model.safetensors", _save_safetensors), _load, hostile.safetensors_files
    ),
    "pt": Target(_saved("model.pt", _save_training), _load, hostile.torch_files),
    "pt beside objects": Target(_saved("model.pt", _save_run), _load, hostile_archives.archives),
    "legacy pth": Target(_saved("model.pth", _save_legacy), _load, hostile.torch_files),
    "npz": Target(_saved("model.npz", _save_npz), _load, hostile.numpy_files),
    "sharded index": Target(_sharded("model.safetensors.index.json"), _load, hostile.texts),
    "sharded part": Target(
        _sharded("model-1.safetensors"), _index_of(_load), hostile.safetensors_files
    ),
    "DCP metadata": Target(_distributed(".metadata"), _folder_of(_load), hostile.payloads),
    "DCP data": Target(_distributed("*.distcp"), _folder_of(_load), hostile.torch_files),
    "image": Target(_image_folder, lambda path: _read_images(path.parents[1]), hostile.images),
    "tar shard": Target(_tar_shard, _read_images, hostile.payloads),
    "configuration": Target(
        _configuration, configurations.read, hostile.texts, edit=configurations.edited
    ),
}
