"""Images that are made up, for timing and for tests."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from repair_kernels.images.source import ImageSource


class SyntheticImages(ImageSource):
    """Normal random numbers in the shape of images.

    Args:
        count: how many
        size: side of each image
        seed: image `i` of a seed is the same in every run

    Example:
        >>> images = SyntheticImages(5, 8)
        >>> [tuple(batch.shape) for batch in images.loader(3)]
        [(3, 3, 8, 8), (2, 3, 8, 8)]
    """

    is_synthetic = True

    def __init__(self, count: int, size: int = 224, seed: int = 0):
        self._count, self._size, self._seed = count, size, seed
        self.description = (
            f"{count:,} synthetic images (normal random numbers, seed {seed}) of 3 x {size} x "
            f"{size}"
        )

    def identity(self) -> Iterator[bytes]:
        """Yield their number, size and seed."""
        yield f"synthetic {self._count} {self._size} {self._seed}".encode()

    def __len__(self) -> int:
        return self._count

    def image(self, number: int) -> Tensor:
        """Return an image, float32."""
        generator = torch.Generator().manual_seed((self._seed << 32) + number)
        return torch.randn(3, self._size, self._size, generator=generator)
