"""Which images a path stands for."""

from __future__ import annotations

import os
from pathlib import Path

from repair_kernels.errors import CalibrationDataError
from repair_kernels.images.image_folder import ImageFolder
from repair_kernels.images.preprocessing import Preprocessing, named_preprocessing
from repair_kernels.images.source import ImageSource
from repair_kernels.images.stored import Store, StoredImages
from repair_kernels.images.web_dataset import WebDataset, expand_shards


def open_images(
    data: str | os.PathLike[str],
    *,
    samples: int | None = None,
    seed: int = 0,
    preprocessing: str | Preprocessing = "imagenet",
    image_size: int | None = None,
) -> ImageSource:
    """Return the images of a folder or of tar shards, ready to be loaded.

    Args:
        data: a folder of class folders (`DIR/<class>/<image>`); or WebDataset shards: a folder of
            `.tar` files, one of them, or a pattern (`DIR/train-{000..146}.tar`)
        samples: how many images to take at random; default: all, in their order
        seed: which ones
        preprocessing: "imagenet" (see `preprocessing.IMAGENET`), "none", or a `Preprocessing`
        image_size: side of the images, instead of "imagenet"'s 224; its 256 follows in proportion
    Raises:
        ArgumentError, CalibrationDataError, MissingExtraError
    """
    prepared = named_preprocessing(preprocessing, image_size)
    return StoredImages(_store(os.fspath(data)), prepared, samples=samples, seed=seed)


def _store(data: str) -> Store:
    path = Path(data)
    if path.is_dir():
        shards = sorted(path.glob("*.tar"))
        return WebDataset(shards) if shards else ImageFolder(path)
    if data.endswith(".tar") or "{" in data:
        return WebDataset(expand_shards(data))
    raise CalibrationDataError(
        f"expected a folder of images, or tar shards such as DIR/train-{{000..146}}.tar; {data} is "
        "neither; check the path"
    )
