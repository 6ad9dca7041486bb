"""Images of which each marks one number: sums over the data then count every single image.

Image `n` has one bright value, the n-th of its `VALUES`, so that the sum over the data of the n-th
value is how often image `n` was counted. The networks' first layer hands the values on.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from repair_kernels.checkpoints import save_state_dict
from repair_kernels.statistics.paired_stats import PairedStats

SIDE = 16
VALUES = 3 * SIDE * SIDE
"""Of an image, and so the most images that can be told apart."""
CLASSES = 3
IN_SHARD = 100
MARKS, HIDDEN = "1", "3"
"""The taps where the values are, and where products between the networks are kept."""


def picture(number: int) -> bytes:
    """Return the file of an image."""
    values = np.zeros((3, SIDE, SIDE), dtype=np.uint8)
    values.reshape(-1)[number] = 255
    held = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0))).save(held, "PNG")
    return held.getvalue()


def write_folder(folder: Path, count: int) -> None:
    """Write the images as files in class folders."""
    for number in range(count):
        file = folder / f"class{number % CLASSES}" / f"{number:05}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))


def write_shards(folder: Path, count: int) -> None:
    """Write the images as members of tar files, as WebDataset has them."""
    folder.mkdir(parents=True)
    for start in range(0, count, IN_SHARD):
        with tarfile.open(folder / f"{start // IN_SHARD:03}.tar", "w") as archive:
            for number in range(start, min(count, start + IN_SHARD)):
                label = str(number % CLASSES).encode()
                for ending, content in ((".png", picture(number)), (".cls", label)):
                    member = tarfile.TarInfo(f"{number:05}{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def network(seed: int = 0) -> nn.Module:
    """Return a network whose first layer hands on the values of its images."""
    first = nn.Linear(VALUES, VALUES, bias=False)
    rest = nn.Linear(VALUES, 32), nn.ReLU(), nn.Linear(32, CLASSES)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        first.weight.copy_(torch.eye(VALUES))
        for parameter in nn.ModuleList(rest).parameters():
            parameter.normal_(generator=generator)
    return nn.Sequential(nn.Flatten(), first, *rest)


def write_networks(folder: Path) -> list[str]:
    """Write two networks; return the options that name them and the taps."""
    options = ["--model", f"{__name__}:network", "--cross", HIDDEN]
    for seed, name in enumerate("ab"):
        file = folder / f"{name}.safetensors"
        save_state_dict(network(seed).state_dict(), file)
        options += [f"--{name}", str(file)]
    return options


def count_images(stats: PairedStats, images: int) -> dict[str, int]:
    """Return how many images were counted, how many never, and how many more than once."""
    tap = stats[MARKS]
    found = (tap.mean_a * tap.n_samples).round().long().cpu()
    difference = found - (torch.arange(VALUES) < images).long()
    return {
        "counted": tap.n_samples,
        "lost": int(difference.clamp(max=0).neg().sum()),
        "doubled": int(difference.clamp(min=0).sum()),
    }
