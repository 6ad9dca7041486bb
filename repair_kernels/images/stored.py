"""A selection of the images that a folder or tar shards hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from repair_kernels.errors import ArgumentError, CalibrationDataError
from repair_kernels.images.preprocessing import Preprocessing
from repair_kernels.images.source import ImageSource


class Store(Protocol):
    """Encoded images by position, in an order that depends on their names alone.

    Attributes:
        description: what it is, for people
        has_labels: whether every image has a class number
    """

    description: str
    has_labels: bool

    def __len__(self) -> int:
        """Return how many images it holds."""
        ...

    def name(self, position: int) -> str:
        """Return what messages call an image: the file, and in a tar file the member."""
        ...

    def key(self, position: int) -> bytes:
        """Return an image's name and size in bytes, wherever the store itself lies."""
        ...

    def read(self, position: int) -> bytes:
        """Return an image's file."""
        ...

    def label(self, position: int) -> int | None:
        """Return an image's class number, if it has one."""
        ...


class StoredImages(ImageSource):
    """Images of a store: all in its order, or some at random.

    Some are taken in a random order, too: then any stretch of them is a fair sample of the data,
    which statistics of a shard or a batch need, where folders are in order of classes.

    Args:
        store: what holds them
        preprocessing: what happens to each
        samples: how many to take; with fewer in the store, all of them; None: all, in its order
        seed: which ones
    """

    def __init__(
        self,
        store: Store,
        preprocessing: Preprocessing,
        *,
        samples: int | None = None,
        seed: int = 0,
    ):
        self._store, self._preprocessing = store, preprocessing
        self._positions: Tensor | None = None
        taken = f"all {len(store):,}"
        if samples is not None:
            if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
                raise ArgumentError(
                    f"`samples` must be a whole number of at least 1; got {samples!r}; leave it "
                    "out to take all images"
                )
            order = torch.randperm(len(store), generator=torch.Generator().manual_seed(seed))
            self._positions = order[:samples].clone()
            taken = f"{len(self._positions):,} of {len(store):,} (seed {seed})"
        self.has_labels = store.has_labels
        self.description = f"{taken} images of {store.description}; {preprocessing}"

    def identity(self) -> Iterator[bytes]:
        """Yield the preprocessing, and the selected images' names and sizes, in order."""
        yield repr(self._preprocessing).encode()
        for number in range(len(self)):
            yield self._store.key(self._position(number))

    def __len__(self) -> int:
        return len(self._store) if self._positions is None else len(self._positions)

    def name(self, number: int) -> str:
        """Return the file of an image, and in a tar file the member."""
        return self._store.name(self._position(number))

    def image(self, number: int) -> Tensor:
        """Return an image's pixels, uint8."""
        position = self._position(number)
        name = self._store.name(position)
        try:
            contents = self._store.read(position)
        except OSError as error:
            raise CalibrationDataError(
                f"expected to read {name}; {error.strerror or error}; check that the data are "
                "still there"
            ) from error
        return self._preprocessing.pixels(contents, name)

    def label(self, number: int) -> int | None:
        """Return an image's class number, if it has one."""
        return self._store.label(self._position(number))

    def normalised(self, batch: Tensor) -> Tensor:
        """Scale pixels as the preprocessing says."""
        return self._preprocessing.normalised(batch)

    def _position(self, number: int) -> int:
        return number if self._positions is None else int(self._positions[number])
