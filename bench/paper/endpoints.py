"""Pairs of trained networks, kept by the hash of how they were trained.

    CACHE/<hash>/seed<seed>.safetensors, .json (what was run and what came out), .resume.pt

A training that was cut off goes on from its last epoch; one that is done is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.measuring.provenance import device_name
from bench.paper.images import ImageData
from models.recipes import Recipe
from models.run import replacing
from models.train import save_checkpoint, train_side_by_side
from repair_kernels.checkpoints import load_into, load_state_dict

ROOT = Path(__file__).resolve().parents[2]
RESUME_SECONDS = 20.0
SAID_EVERY = 10.0


class OutOfTimeError(Exception):
    """The time given to a run is over; what was done so far is kept."""


def cache_folder() -> Path:
    """Return where endpoints are kept: `$REPAIR_ENDPOINTS`, else `runs/paper` of the repository."""
    return Path(os.environ.get("REPAIR_ENDPOINTS") or ROOT / "runs" / "paper")


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe sets, without what is left at its default."""
    found = {}
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        value = dict(value) if isinstance(value, Mapping) else value
        value = settings_of(value) if isinstance(value, Recipe) else value
        if value != field.default and field.name != "source":
            found[field.name] = value
    return found


def default_precision(device: torch.device) -> str:
    """Return in what to train: bf16 (mixed) on a GPU, else float32."""
    return "bf16" if device.type == "cuda" else "float32"


def key_of(recipe: Recipe, images: Mapping[str, Any], precision: str) -> str:
    """Return the hash of a training, but for its seed."""
    training = {"recipe": settings_of(recipe), "images": dict(images), "precision": precision}
    text = json.dumps(training, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trained(
    recipe: Recipe,
    data: Sequence[tuple[Tensor, Tensor]],
    seeds: Sequence[int],
    *,
    images: Mapping[str, Any],
    device: torch.device,
    precision: str | None = None,
    compiled: bool = False,
    deadline: float | None = None,
    cache: Path | None = None,
) -> tuple[list[nn.Module], list[dict[str, Any]]]:
    """Return networks of a recipe, trained side by side unless they are kept, and their reports.

    Those of the recipe that it comes after are trained and kept likewise.

    Args:
        recipe: how they are trained
        data: the images and labels of each
        seeds: of each
        images: what the images are, in words and numbers: part of the hash
        device: where to train
        precision: see `default_precision`
        compiled: whether to compile the networks
        deadline: `time.monotonic()` at which training stops
        cache: folder; default: `cache_folder()`
    Returns:
        the networks on `device`, in evaluation mode, and for each a report
    Raises:
        OutOfTimeError: when the deadline comes first
    """
    precision = precision or default_precision(device)
    # Networks of one training that see different images are told apart by `images`, not by seed.
    folder = (cache or cache_folder()) / key_of(recipe, images, precision)
    files = [folder / f"seed{seed}.safetensors" for seed in seeds]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    if missing:
        begun = None
        if recipe.after is not None:
            begun, _ = trained(
                recipe.after,
                [data[number] for number in missing],
                [seeds[number] for number in missing],
                images=images,
                device=device,
                precision=precision,
                compiled=compiled,
                deadline=deadline,
                cache=cache,
            )
        watch = _Watch(recipe, [seeds[number] for number in missing], deadline)
        models = train_side_by_side(
            recipe,
            [data[number] for number in missing],
            seeds=[seeds[number] for number in missing],
            device=device,
            precision=precision,
            compiled=compiled,
            resume_files=[files[number].with_suffix(".resume.pt") for number in missing],
            resume_seconds=RESUME_SECONDS,
            starts=None if begun is None else [model.state_dict() for model in begun],
            after_epoch=watch.after_epoch,
        )
        for number, model in zip(missing, models, strict=True):
            report = {
                "key": folder.name,
                "recipe": settings_of(recipe),
                "source": recipe.source,
                "images": dict(images),
                "precision": precision,
                "seed": seeds[number],
                "device": device_name(device),
                "last_epoch": watch.last.get(missing.index(number)),
            }
            write_json(files[number].with_suffix(".json"), report)
            save_checkpoint(model, files[number])
            files[number].with_suffix(".resume.pt").unlink(missing_ok=True)
    networks = [_read(recipe.build, file).to(device) for file in files]
    return networks, [json.loads(file.with_suffix(".json").read_text()) for file in files]


def _read(build: Callable[[], nn.Module], file: Path) -> nn.Module:
    with torch.random.fork_rng():
        model = build()
    load_into(model, load_state_dict(file), name=file.name)
    return model.eval()


def write_json(file: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


class _Watch:
    """Says now and then how training goes, and stops it when time is up."""

    def __init__(self, recipe: Recipe, seeds: Sequence[int], deadline: float | None) -> None:
        self.recipe, self.seeds, self.deadline = recipe, seeds, deadline
        self.last: dict[int, dict[str, float]] = {}
        self.said = time.monotonic()

    def after_epoch(self, number: int, report: dict[str, float]) -> None:
        self.last[number] = report
        if time.monotonic() - self.said > SAID_EVERY or report["epoch"] == self.recipe.epochs:
            self.said = time.monotonic()
            print(
                f"    seed {self.seeds[number]}: epoch {report['epoch']}/{self.recipe.epochs}, "
                f"loss {report['loss']:.3f}, accuracy {report['accuracy']:.2%}, "
                f"{report['seconds']:.1f} s",
                flush=True,
            )
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTimeError


def labelled(data: ImageData) -> tuple[Tensor, Tensor]:
    """Return the images and labels to train on."""
    return data.train, data.train_labels
