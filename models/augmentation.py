"""Random changes of training images, a different one for every image of a batch.

Each takes and returns uint8 or float (n, channels, h, w), and draws from a given generator only.
"""

import torch
from torch import Tensor


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)


def alternate_flip(images: Tensor, indices: Tensor, seed: int, epoch: int) -> Tensor:
    """Mirror each image in every second epoch; which half begins is drawn from the seed.

    So every image is seen mirrored as often as not, which chance does not give.

    Args:
        images: (n, channels, h, w).
        indices: of the images in their set, (n,).
        seed: decides with an image's index whether it is mirrored in even epochs.
        epoch: counted from 0.

    Source: Jordan (2024), "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.6.
    """
    # A hash: the first bits of (index + seed) times odd numbers, mixed.
    mixed = (indices + 1_000_003 * seed) * 0x9E3779B1 % 2**32
    mixed = (mixed ^ (mixed >> 15)) * 0x85EBCA77 % 2**32
    mirrored = ((mixed >> 16) + epoch) % 2 == 1
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)


def translate(images: Tensor, pixels: int, generator: torch.Generator, fill: Tensor) -> Tensor:
    """Shift each image by up to `pixels` in both directions; what comes in has the colour `fill`.

    Args:
        images: (n, channels, h, w).
        pixels: largest shift.
        generator: on the CPU.
        fill: colour, (channels,).
    """
    n, channels, h, w = images.shape
    size = (n, channels, h + 2 * pixels, w + 2 * pixels)
    padded = fill.to(images).view(1, -1, 1, 1).expand(size).clone()
    padded[:, :, pixels : pixels + h, pixels : pixels + w] = images
    top, left = torch.randint(2 * pixels + 1, (2, n, 1), generator=generator).to(images.device)
    rows = top + torch.arange(h, device=images.device)  # [n, h]
    columns = left + torch.arange(w, device=images.device)  # [n, w]
    sample = torch.arange(n, device=images.device)[:, None, None]
    # Indexed axes around the sliced one come out first: [n, h, w, channels].
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def cutout(images: Tensor, size: int, generator: torch.Generator, fill: Tensor) -> Tensor:
    """Paint a square of `size` pixels with `fill`, its corner anywhere where it fits whole.

    Source: DeVries and Taylor (2017); theirs may stick out of the image.
    """
    n, _, h, w = images.shape
    top = torch.randint(h - size + 1, (n, 1), generator=generator).to(images.device)
    left = torch.randint(w - size + 1, (n, 1), generator=generator).to(images.device)
    rows = torch.arange(h, device=images.device) - top  # [n, h]
    columns = torch.arange(w, device=images.device) - left  # [n, w]
    inside_rows = (rows >= 0) & (rows < size)
    inside_columns = (columns >= 0) & (columns < size)
    hole = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.where(hole, fill.to(images).view(1, -1, 1, 1), images)
