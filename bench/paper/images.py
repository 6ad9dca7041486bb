"""Image sets of the experiments, and parts of them.

    data = ImageData.load("cifar10", train=10_000, test=None)

In place of a set, `stand_in` gives the embedded images of FashionMNIST in the set's shape: for runs
that only show that everything runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from models import datasets

SHARE = 0.8
"""How much of its own half of the classes a network of split-data training is given."""


@dataclass(frozen=True)
class ImageData:
    """A set's images: uint8 (n, channels, h, w), and labels (n,).

    Attributes:
        name: of the set; its constants normalise the images
        train, train_labels: for training and, from the first on, for calibration
        test, test_labels: for measuring
    """

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @classmethod
    def load(cls, name: str, train: int | None = None, test: int | None = None) -> ImageData:
        """Load the first images of a set.

        Raises:
            DataNotFoundError: when it is not there
        """
        parts = [
            datasets.load(name, split, n=n, embedded=False)
            for split, n in (("train", train), ("test", test))
        ]
        return cls(name, *parts[0], *parts[1])

    @classmethod
    def stand_in(cls, name: str, train: int, test: int) -> ImageData:
        """Return embedded images of FashionMNIST, evenly from all classes, in a set's shape."""
        channels, side, _ = datasets.image_set_of(name).shape
        parts = []
        for split, n in (("train", train), ("test", test)):
            images, labels = datasets.load_embedded_fashion(split)
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:n]
            edge = (side - images.shape[-1]) // 2
            padded = F.pad(images[order], (edge,) * 4)
            parts += [padded.repeat(1, channels, 1, 1), labels[order]]
        return cls(name, *parts)

    def part(self, which: Tensor) -> ImageData:
        """Return the set with some of its training images."""
        return replace(self, train=self.train[which], train_labels=self.train_labels[which])

    def calibration(self, n: int, device: torch.device) -> datasets.Batches:
        """Return the first training images as they are, normalised, in batches."""
        return datasets.batches(
            self.train[:n], self.train_labels[:n], 500, normalise=self.name, device=device
        )

    def tests(self, device: torch.device) -> datasets.Batches:
        """Return the test images, normalised, in batches."""
        return datasets.batches(
            self.test, self.test_labels, 500, normalise=self.name, device=device
        )


def split_by_class(labels: Tensor, *, share: float = SHARE, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the indices of two disjoint parts of a set, each with its own half of the classes.

    The first part has `share` of the images of every class of the lower half, and the rest of those
    of the upper half; the second part has the others.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = int(labels.max()) + 1
    first, second = [], []
    for label in range(classes):
        of_class = torch.nonzero(labels == label).flatten()
        of_class = of_class[torch.randperm(len(of_class), generator=generator)]
        part = share if label < classes / 2 else 1 - share
        cut = round(part * len(of_class))
        first.append(of_class[:cut])
        second.append(of_class[cut:])
    return torch.cat(first).sort().values, torch.cat(second).sort().values
