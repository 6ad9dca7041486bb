"""Image sets as tensors: CIFAR-10, CIFAR-100, FashionMNIST, MNIST and SVHN.

    images, labels = load("fashion", "test")            # uint8 (10000, 1, 28, 28), int64 (10000,)
    for x, y in batches(images, labels, 500, normalise="fashion"): ...

Nothing is downloaded. `load` looks in `$REPAIR_DATA`, else in the folders `../shared/data` and
`data` of the repository; each may hold the packed format (`packed.py`) or torchvision's folders
(`folders.py`). A part of FashionMNIST comes with the repository (`load_embedded_fashion`).
"""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.folders import FOLDERS, read_folder
from models.packed import has_packed, read_packed

REPOSITORY = Path(__file__).resolve().parent.parent
EMBEDDED_FASHION = Path(__file__).resolve().parent / "pretrained" / "fashion_subset.npz"
SPLITS = ("train", "test")


class DataNotFoundError(FileNotFoundError):
    """The image set is in none of the folders searched; the message says what to do."""


class EmbeddedSubsetWarning(UserWarning):
    """Only the embedded part of FashionMNIST was found and is used in place of the whole."""


@dataclass(frozen=True)
class ImageSet:
    """What is known of a set: its shape, and the mean and std of its training pixels in [0, 1]."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGE_SETS = {
    image_set.name: image_set
    for image_set in (
        ImageSet("cifar10", (3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ImageSet("cifar100", (3, 32, 32), 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        ImageSet("fashion", (1, 28, 28), 10, (0.2860,), (0.3530,)),
        ImageSet("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,)),
        ImageSet("svhn", (3, 32, 32), 10, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    )
}


def load(
    name: str,
    split: str = "train",
    *,
    n: int | None = None,
    root: str | Path | None = None,
    embedded: bool = True,
) -> tuple[Tensor, Tensor]:
    """Load the first `n` images and labels of a set, in the official order.

    Args:
        name: "cifar10", "cifar100", "fashion", "mnist" or "svhn".
        split: "train" or "test".
        n: number of images; all by default.
        root: the only folder to look in; by default those of the module's docstring.
        embedded: whether the embedded part of FashionMNIST may stand in, with a warning.

    Returns:
        Images uint8 (n, channels, h, w) and labels int64 (n,).

    Raises:
        ValueError: when `name` or `split` is unknown, or `n` is more than there are.
        DataNotFoundError: when no folder has the set.
    """
    image_set = image_set_of(name)
    _check_split(split)
    if n is not None and n < 1:
        raise ValueError(f"`n` must be positive, got {n}")
    found = None
    for folder in search_path(root):
        if has_packed(folder, f"{name}_{split}"):
            found = read_packed(folder, f"{name}_{split}", n)
            break
        found = read_folder(folder, name, split)
        if found is not None:
            break
    if found is None:
        if name == "fashion" and embedded and EMBEDDED_FASHION.is_file():
            message = "FashionMNIST was not found; its embedded part is used (2,000 images a split)"
            warnings.warn(message, EmbeddedSubsetWarning, stacklevel=2)
            images, labels = load_embedded_fashion(split)
            return _first(images, labels, n, name)
        raise DataNotFoundError(_advice(name, split, root))
    images, labels = found
    images = torch.from_numpy(np.ascontiguousarray(images[:n]))
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    if tuple(images.shape[1:]) != image_set.shape:
        raise ValueError(
            f"{name} images must be {image_set.shape}, those found are {tuple(images.shape[1:])}; "
            "check the folder"
        )
    return _first(images, torch.from_numpy(labels.astype(np.int64)), n, name)


def load_embedded_fashion(split: str = "train") -> tuple[Tensor, Tensor]:
    """Load the part of FashionMNIST that comes with the repository: 2,000 images of each split.

    It holds the first 200 images of each class, in the official order of their file; the official
    indices are in the file's `train_indices` and `test_indices`.

    Args:
        split: "train" or "test".

    Returns:
        Images uint8 (2000, 1, 28, 28) and labels int64 (2000,).

    Example:
        >>> images, labels = load_embedded_fashion("test")
        >>> tuple(images.shape), torch.bincount(labels).tolist()[:3]
        ((2000, 1, 28, 28), [200, 200, 200])
    """
    _check_split(split)
    with np.load(EMBEDDED_FASHION, allow_pickle=False) as stored:
        images = torch.from_numpy(stored[f"{split}_images"]).unsqueeze(1)
        labels = torch.from_numpy(stored[f"{split}_labels"].astype(np.int64))
    return images, labels


def normalise(images: Tensor, name: str) -> Tensor:
    """Return (images / 255 - mean) / std as float32, with the constants of the set `name`."""
    image_set = image_set_of(name)
    mean = torch.tensor(image_set.mean, device=images.device).view(-1, 1, 1)
    std = torch.tensor(image_set.std, device=images.device).view(-1, 1, 1)
    return (images.float() / 255 - mean) / std


def batches(
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    *,
    normalise: str | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> "Batches":
    """Cut a set into batches that can be gone through any number of times.

    Args:
        images: uint8 or float (n, channels, h, w).
        labels: (n,).
        batch_size: images of a batch; the last may have fewer.
        normalise: set whose constants normalise the images; by default they stay as they are.
        generator: draws a new order at every pass; by default the order stays.
        device: where the batches go; by default where the images are.

    Returns:
        An iterable of (images, labels) with a length.

    Raises:
        ValueError: when the lengths differ, or `batch_size` is not positive.

    Example:
        >>> [len(y) for _, y in batches(torch.zeros(5, 1, 2, 2), torch.zeros(5), 2)]
        [2, 2, 1]
    """
    if len(images) != len(labels):
        raise ValueError(f"got {len(images)} `images` but {len(labels)} `labels`")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be positive, got {batch_size}")
    if normalise is not None:
        image_set_of(normalise)
    return Batches(images, labels, batch_size, normalise, generator, device)


@dataclass(frozen=True)
class Batches:
    """The batches of one set; made by `batches`."""

    images: Tensor
    labels: Tensor
    batch_size: int
    normalise: str | None = None
    generator: torch.Generator | None = None
    device: torch.device | str | None = None

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = None
        if self.generator is not None:
            order = torch.randperm(len(self.images), generator=self.generator)
        for start in range(0, len(self.images), self.batch_size):
            chosen = slice(start, start + self.batch_size) if order is None else None
            if chosen is None:
                chosen = order[start : start + self.batch_size].to(self.images.device)
            x, y = self.images[chosen].to(self.device), self.labels[chosen].to(self.device)
            yield (x if self.normalise is None else normalise(x, self.normalise)), y


def image_set_of(name: str) -> ImageSet:
    """Return what is known of the set `name`.

    Raises:
        ValueError: when it is unknown.
    """
    if name not in IMAGE_SETS:
        raise ValueError(f"the image set must be one of {sorted(IMAGE_SETS)}, got {name!r}")
    return IMAGE_SETS[name]


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}, got {split!r}")


def search_path(root: str | Path | None = None) -> list[Path]:
    """Return the folders to look in; a folder that the user names is the only one."""
    chosen = root if root is not None else os.environ.get("REPAIR_DATA")
    if chosen:
        return [Path(chosen).expanduser()]
    return [REPOSITORY.parent / "shared" / "data", REPOSITORY / "data"]


def _first(images: Tensor, labels: Tensor, n: int | None, name: str) -> tuple[Tensor, Tensor]:
    """Return the first `n` of both, or say that there are too few."""
    if n is not None and n > len(images):
        raise ValueError(f"`n` is {n}, but only {len(images)} images of {name} were found")
    return images[:n], labels[:n]


def _advice(name: str, split: str, root: str | Path | None) -> str:
    """Return the message for absent data: what was sought, where, and what to do."""
    folders = ", ".join(str(folder) for folder in search_path(root))
    return (
        f"the {split} images of {name} were not found in: {folders}. Get them with torchvision "
        f"(`torchvision.datasets.{FOLDERS[name].torchvision_class}(root, download=True)`) or from "
        f"{FOLDERS[name].homepage}, so that `root` holds `{FOLDERS[name].folder}`, and set the "
        "environment variable REPAIR_DATA to `root`"
    )
