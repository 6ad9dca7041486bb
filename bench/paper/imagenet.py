"""ImageNet's networks and images, brought by the user.

    IMAGES/train/<class>/*, IMAGES/val/<class>/*          python -m bench.paper --imagenet IMAGES
    CHECKPOINTS/resnet50_a.pth, resnet50_b.pth                            --checkpoints CHECKPOINTS

Images are prepared as torchvision's published weights expect them. A checkpoint may have any suffix
that `repair_kernels.checkpoints` reads.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from models.resnet import imagenet_resnet18, imagenet_resnet50
from repair_kernels.checkpoints import load_into, load_state_dict
from repair_kernels.images import ImageSource, open_images

NETWORKS = {
    "resnet18": imagenet_resnet18,
    "resnet50": imagenet_resnet50,
    "resnet50x2": partial(imagenet_resnet50, width=2),
}


class MissingError(Exception):
    """What an experiment needs of the user is not there; the message says what."""


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


def images_of(folder: Path | None, calibration: int, size: int) -> tuple[ImageSource, ImageSource]:
    """Return the images that calibrate, drawn once and for all, and those that measure.

    Raises:
        MissingError: when the folder is not there
    """
    if folder is None or not (folder / "train").is_dir() or not (folder / "val").is_dir():
        raise MissingError("needs ImageNet: --imagenet with `train` and `val`")
    every = open_images(folder / "train", image_size=size)
    samples = min(calibration, len(every))
    drawn = open_images(folder / "train", samples=samples, image_size=size)
    return drawn, open_images(folder / "val", image_size=size)
