"""Where a point's networks and images come from: trained here, by others, or by the user.

A source says what it is before anything is trained or read, so that what is measured already is
not opened at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.paper import imagenet
from bench.paper.baselines import split_baselines
from bench.paper.endpoints import ROOT, default_precision, labelled, settings_of, trained
from bench.paper.experiments import Experiment
from bench.paper.images import SHARE, ImageData, split_by_class
from bench.paper.points import Point
from bench.paper.sizes import Size, recipe_at, with_second_cycle
from bench.real_pairs import PAIRS, Pair
from models import datasets
from models.recipes import RECIPES, Recipe

OTHERS = {"resnet20_dansun": PAIRS[0]}
# CIFAR-100's experiment on CIFAR-10, five classes and five, where that is all there is.
IN_PLACE_OF = {"cifar100": "cifar10"}


@dataclass
class Settings:
    """What a run is given.

    Attributes:
        size: of every experiment
        out: folder of the results
        device: where everything is computed
        kind: of recipe at full size: "fast" or "paper"
        epochs: of every recipe; None: as it says
        second_cycle: epochs of second cycles; None: see `sizes.with_second_cycle`
        pairs: how many pairs of seeds
        precision: to train in; None: see `endpoints.default_precision`
        compiled: whether networks are compiled for training
        deadline: `time.monotonic()` at which to stop
        cache: folder of endpoints; None: see `endpoints.cache_folder`
        imagenet, checkpoints: folders of the user
        image_size: side of ImageNet's images
        train_only: whether endpoints are trained and nothing is measured
    """

    size: Size
    out: Path = ROOT / "bench" / "results" / "paper"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    kind: str = "fast"
    epochs: int | None = None
    second_cycle: int | None = None
    pairs: int = 1
    precision: str | None = None
    compiled: bool = False
    deadline: float | None = None
    cache: Path | None = None
    imagenet: Path | None = None
    checkpoints: Path | None = None
    image_size: int = 224
    train_only: bool = False

    def training(self, recipe: Recipe, images: dict[str, Any]) -> dict[str, Any]:
        """Return what identifies endpoints that are trained so on these images."""
        precision = self.precision or default_precision(self.device)
        return {"recipe": settings_of(recipe), "images": images, "precision": precision}

    def recipe(self, point: Point) -> Recipe:
        """Return how a point's endpoints are trained."""
        recipe = recipe_at(self.size, RECIPES[point.recipe], point.epochs, self.kind)
        if self.epochs is not None:
            recipe = replace(recipe, epochs=self.epochs)
        values = {name: getattr(recipe, name) for name, _ in point.factors}
        changed = {name: type(values[name])(values[name] * by) for name, by in point.factors}
        recipe = replace(recipe, **changed)
        full_and_fast = self.size.name == "full" and self.kind == "fast"
        if not point.second_cycle or not full_and_fast:
            return recipe
        return with_second_cycle(recipe, self.second_cycle)


@dataclass(frozen=True)
class Opened:
    """Both endpoints, their images, and what is to be said of them."""

    models: Sequence[nn.Module]
    calibration: Any
    tests: Any
    facts: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Endpoints that can be opened.

    Attributes:
        identity: what decides the result, besides the ways to merge
        open: trains or reads the endpoints
    """

    identity: dict[str, Any]
    open: Callable[[], Opened]


def source_of(
    experiment: Experiment, point: Point, seeds: tuple[int, int], settings: Settings
) -> Source:
    """Return where a point's endpoints come from.

    Raises:
        DataNotFoundError, MissingError: when its images or networks are not there
    """
    if experiment.source == "others":
        return _of_others(OTHERS[point.recipe], settings)
    if experiment.source == "imagenet":
        return _of_the_user(point, settings)
    if experiment.split:
        return _split(point, seeds, settings)
    return _trained(point, seeds, settings)


def _images(name: str, size: Size) -> ImageData:
    if size.name == "smoke":
        return ImageData.stand_in(name, size.train or 300, size.test or 200)
    return ImageData.load(name, size.train, size.test)


def _trained(point: Point, seeds: tuple[int, int], settings: Settings) -> Source:
    recipe, size, device = settings.recipe(point), settings.size, settings.device
    data = _images(recipe.dataset, size)
    images = {"set": recipe.dataset, "train": len(data.train)}

    def open_pair() -> Opened:
        models, reports = trained(
            recipe,
            [labelled(data)] * 2,
            seeds,
            images=images,
            device=device,
            precision=settings.precision,
            compiled=settings.compiled,
            deadline=settings.deadline,
            cache=settings.cache,
        )
        if point.fused:
            models = [model.fused() for model in models]
        facts = {"training": _trainings(reports), "test": len(data.test)}
        calibration = data.calibration(point.calibration or size.calibration, device)
        return Opened(models, calibration, data.tests(device), facts)

    fused = {"fused": True} if point.fused else {}
    return Source(settings.training(recipe, images) | fused, open_pair)


def _trainings(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return of each training what the identity of the pair does not say."""
    names = ("key", "seed", "precision", "device", "last_epoch", "stored_as")
    return [{name: report[name] for name in names if name in report} for report in reports]


def _split(point: Point, seeds: tuple[int, int], settings: Settings) -> Source:
    """Return two networks, each trained on its own half of the classes, 80/20."""
    recipe, size, device = settings.recipe(point), settings.size, settings.device
    try:
        data = _images(recipe.dataset, size)
    except datasets.DataNotFoundError:
        name = IN_PLACE_OF[recipe.dataset]
        data = _images(name, size)
        options = {**recipe.options, "classes": datasets.image_set_of(name).classes}
        recipe = replace(recipe, dataset=name, options=options)
    images = {"set": recipe.dataset, "train": len(data.train)}
    parts = [data.part(which) for which in split_by_class(data.train_labels)]

    def train(of: Sequence[ImageData], with_seeds: Sequence[int], part: str):
        # The seed says which part a network sees: even ones have the lower half of the classes.
        return trained(
            recipe,
            [labelled(part) for part in of],
            with_seeds,
            images=images | ({"part": part} if part else {}),
            device=device,
            precision=settings.precision,
            compiled=settings.compiled,
            deadline=settings.deadline,
            cache=settings.cache,
        )

    def open_pair() -> Opened:
        models, reports = train(parts, seeds, f"{SHARE:.0%} of half the classes")
        baselines = split_baselines(
            models,
            [part.train_labels for part in parts],
            lambda: train([data], seeds[:1], "")[0][0],
            data.tests(device),
            size.curve,
        )
        facts = {"training": _trainings(reports), "test": len(data.test), "baselines": baselines}
        return Opened(models, data.calibration(size.calibration, device), data.tests(device), facts)

    return Source({**settings.training(recipe, images), "split": SHARE}, open_pair)


def _of_others(pair: Pair, settings: Settings) -> Source:
    folders = [folder / "checkpoints" for folder in datasets.search_path()]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise imagenet.MissingError(
            "needs the networks of others: `checkpoints` of the data folder"
        )
    facts = {"training": [{"file": file} for file in pair.checkpoints]}

    def open_pair() -> Opened:
        models = [model.to(settings.device) for model in pair.models(folder)]
        calibration = pair.inputs("train", settings.size.calibration)
        return Opened(models, calibration, pair.inputs("test", settings.size.test), facts)

    return Source({"files": list(pair.checkpoints), "images": {"set": pair.dataset}}, open_pair)


def _of_the_user(point: Point, settings: Settings) -> Source:
    device = settings.device
    models = imagenet.networks(point.recipe, settings.checkpoints, device)
    calibration, tests = imagenet.images_of(
        settings.imagenet, settings.size.calibration, settings.image_size
    )
    identity = {"network": point.recipe, "images": {"set": "imagenet", "test": len(tests)}}
    facts = {"training": [{"file": f"{point.recipe}_{end}"} for end in "ab"]}
    workers = 8 if device.type == "cuda" else 0

    def open_pair() -> Opened:
        batches = [
            source.loader(100, workers=workers, device=device, labels=True)
            for source in (calibration, tests)
        ]
        return Opened(models, *batches, facts)

    return Source(identity, open_pair)
