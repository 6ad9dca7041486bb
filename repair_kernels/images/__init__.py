"""Image data on the way to a network: folders, tar shards or synthetic images, in one order.

An `ImageSource` is a numbered selection of images: image 17 is the same on every machine and with
any number of workers, processes or images per batch. So a shard is a range of numbers, and a run
that was stopped goes on from a number.

Decoding needs Pillow, and patterns of shards need braceexpand: the extra `images` installs both.
"""

from repair_kernels.images.loading import ImageLoader
from repair_kernels.images.opening import open_images
from repair_kernels.images.preprocessing import IMAGENET, NONE, Preprocessing
from repair_kernels.images.source import ImageSource
from repair_kernels.images.synthetic import SyntheticImages

__all__ = [
    "open_images",
    "ImageSource",
    "ImageLoader",
    "SyntheticImages",
    "Preprocessing",
    "IMAGENET",
    "NONE",
]
