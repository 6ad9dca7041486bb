"""A numbered selection of images, whatever holds them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from repair_kernels.errors import ArgumentError
from repair_kernels.images.loading import ImageLoader
from repair_kernels.shard import Shard


class ImageSource(ABC):
    """Images 0, 1, 2, ... of a selection: the same ones in every run and process.

    Attributes:
        description: what they are and how they are prepared, for people
        is_synthetic: whether they are made up
        has_labels: whether each image has a class number
    """

    description: str
    is_synthetic: bool = False
    has_labels: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that decides which images these are, in which order, and how prepared."""
        found = hashlib.sha256()
        for part in self.identity():
            found.update(b"%d " % len(part) + part)
        return found.hexdigest()

    @abstractmethod
    def identity(self) -> Iterator[bytes]:
        """Yield what the fingerprint is a hash of."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many images are selected."""

    @abstractmethod
    def image(self, number: int) -> Tensor:
        """Return an image as `normalised` takes it; called in worker processes."""

    def label(self, number: int) -> int | None:
        """Return an image's class number, if it has one; called in worker processes."""
        return None

    def name(self, number: int) -> str:
        """Return what messages call an image."""
        return f"image {number}"

    def normalised(self, batch: Tensor) -> Tensor:
        """Return stacked images as networks read them; called where the networks run."""
        return batch

    def indices(self, shard: int = 0, n_shards: int = 1, batch_size: int = 1) -> range:
        """Return the numbers of one shard's images.

        Shards are disjoint, hold every image once, follow one another, and differ in size by one
        batch at most.

        Args:
            shard: in [0, n_shards)
            n_shards: how many shards there are; with more shards than images some are empty
            batch_size: shards are made of whole batches of so many images, where there are as many
                batches as shards: then each batch is one that a single process would have
        """
        is_valid = all(isinstance(n, int) for n in (shard, n_shards)) and 0 <= shard < n_shards
        if not is_valid:
            raise ArgumentError(
                "expected a shard k of n shards with whole numbers 0 <= k < n; got "
                f"{shard!r} of {n_shards!r}; shards are counted from 0"
            )
        return Shard(shard + 1, n_shards).of(range(len(self)), batch_size)

    def loader(
        self,
        batch_size: int,
        *,
        start: int = 0,
        stop: int | None = None,
        workers: int = 0,
        device: torch.device | str | None = None,
        labels: bool = False,
    ) -> ImageLoader:
        """Return the batches of images `start` to `stop`, in order; may be read again and again.

        Args:
            batch_size: images in each batch but the last
            start, stop: which images; default: all
            workers: processes that load and decode; 0: this one does
            device: where batches shall be; on a GPU the next one is copied during the work on one
            labels: yield pairs (images, class numbers) instead of images
        Raises:
            ArgumentError: a number is out of range, or there are no labels
        """
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise ArgumentError(
                f"`start` and `stop` must be in order and within the {len(self)} images; got "
                f"{start} and {stop}; take them from `indices`"
            )
        if labels and not self.has_labels:
            raise ArgumentError(
                f"`labels` needs images with class numbers; {self.description} has none; leave it "
                "out, or use data in class folders or with `.cls` members"
            )
        return ImageLoader(self, batch_size, range(start, stop), workers, device, labels)
