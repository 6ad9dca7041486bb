"""ImageNet's networks and images, brought by the user.

    IMAGES/train/<class>/*, IMAGES/val/<class>/*          python -m bench.paper --imagenet IMAGES
    CHECKPOINTS/resnet50_a.pth, resnet50_b.pth                            --checkpoints CHECKPOINTS

Images are scaled and cropped as `bench/imagenet_stats.py` does. A checkpoint may have any suffix
that `repair_kernels.checkpoints` reads.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from bench.imagenet_stats import CROPPED, ImageFolder
from models.resnet import imagenet_resnet18, imagenet_resnet50
from repair_kernels.checkpoints import load_into, load_state_dict

NETWORKS = {
    "resnet18": imagenet_resnet18,
    "resnet50": imagenet_resnet50,
    "resnet50x2": partial(imagenet_resnet50, width=2),
}


class MissingError(Exception):
    """What an experiment needs of the user is not there; the message says what."""


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """The images of `root/<class>/` with the number of their class, in the order of names."""

    def __init__(self, root: Path, size: int) -> None:
        self.images = ImageFolder(root, size)
        names = [path.relative_to(root).parts[0] for path in self.images.paths]
        number = {name: place for place, name in enumerate(sorted(set(names)))}
        self.labels = [number[name] for name in names]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]


def loader(folder: Path, n: int | None, *, size: int = CROPPED, workers: int = 0) -> DataLoader:
    """Return batches of `n` images of all classes, drawn once and for all; None: all of them."""
    images = LabelledImages(folder, size)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen = Subset(images, order[: n or len(order)].sort().values.tolist())
    return DataLoader(chosen, batch_size=100, num_workers=workers)


def networks(name: str, checkpoints: Path | None, device: torch.device) -> list[nn.Module]:
    """Return both networks of the user.

    Raises:
        MissingError: when there is none
    """
    models = []
    for end in ("a", "b"):
        found = [] if checkpoints is None else sorted(checkpoints.glob(f"{name}_{end}.*"))
        if not found:
            raise MissingError(
                f"needs two trained networks: --checkpoints with {name}_a.* and {name}_b.*"
            )
        state = load_state_dict(found[0])
        model = NETWORKS[name](classes=len(state["fc.bias"]))
        load_into(model, state, name=found[0].name)
        models.append(model.eval().to(device))
    return models


def images_of(folder: Path | None, calibration: int, size: int) -> tuple[Any, Any]:
    """Return the batches that calibrate, and those that measure.

    Raises:
        MissingError: when the folder is not there
    """
    if folder is None or not (folder / "train").is_dir() or not (folder / "val").is_dir():
        raise MissingError("needs ImageNet: --imagenet with `train` and `val`")
    workers = 8 if torch.cuda.is_available() else 0
    return (
        loader(folder / "train", calibration, size=size, workers=workers),
        loader(folder / "val", None, size=size, workers=workers),
    )
