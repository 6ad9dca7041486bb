"""Activations seen as (images, channels, places), and cut into pieces that stay in the cache.

Every sum in this folder runs over a bounded number of positions in float32 and is added up in
float64. So no float64 copy of an activation is ever made.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .scratch import scratch

# Values of one operand of a product. Fewer would stay in the cache, but each operation has its
# price: 64 channels took four times as long in pieces of 1024 positions. Float32 sums longer than
# the most positions would miss 1e-6.
PRODUCT_VALUES = 1 << 21
POSITIONS = range(1024, 16385)
# Values of one block, and the longest row that PyTorch sums squares of without losing digits.
BLOCK_VALUES = 1 << 19
ROW = 2048


def channel_view(x: Tensor, channel_dim: int) -> Tensor:
    """View `x` as (images, channels, places); copy only if no strides can express that view."""
    channel_dim %= x.dim()
    before, after = x.shape[:channel_dim], x.shape[channel_dim + 1 :]
    return x.reshape(before.numel(), x.shape[channel_dim], after.numel())


def sum_dtype(x: Tensor) -> torch.dtype:
    """Return the precision in which pieces of `x` are summed and multiplied."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def blocks(view: Tensor) -> Iterator[Tensor]:
    """Yield views of all values, a bounded number in each, with rows of at most `ROW` places."""
    if view.numel() == 0:
        return
    images, channels, places = view.shape
    row = min(places, ROW if view.stride(2) == 1 else max(1, BLOCK_VALUES // channels))
    step = max(1, BLOCK_VALUES // (channels * row))
    if images <= step and places <= row:
        yield view
        return
    for image in range(0, images, step):
        for place in range(0, places, row):
            yield view[image : image + step, :, place : place + row]


def chunks(view: Tensor, width: int) -> Iterator[Tensor]:
    """Yield views of all positions, as many in each as a product of `width` channels takes.

    Without positions there is one, which is empty.
    """
    images, _, places = view.shape
    positions = min(POSITIONS[-1], max(POSITIONS[0], PRODUCT_VALUES // max(width, 1)))
    step = max(1, positions // max(places, 1))
    row = min(max(places, 1), positions)
    for image in range(0, max(images, 1), step):
        for place in range(0, max(places, 1), row):
            yield view[image : image + step, :, place : place + row]


def centred(chunk: Tensor, pivot: Tensor, slot: str) -> Tensor:
    """Return a chunk minus `pivot` as a (channels, positions) matrix, in memory of `scratch`."""
    images, channels, places = chunk.shape
    if chunk.stride(1) == 1:  # channels last: the matrix stays transposed in memory
        rows = scratch(slot, (images, places, channels), pivot)
        torch.sub(chunk.permute(0, 2, 1), pivot, out=rows)
        return rows.view(images * places, channels).t()
    columns = scratch(slot, (channels, images, places), pivot)
    torch.sub(chunk.transpose(0, 1), pivot[:, None, None], out=columns)
    return columns.view(channels, images * places)


def deviations(block: Tensor, pivot: Tensor) -> Tensor:
    """Return a block minus `pivot`, with the block's shape and order, in memory of `scratch`."""
    if block.stride(2) != 1 and block.stride(1) == 1:
        rows = block.transpose(1, 2)
        return torch.sub(rows, pivot, out=scratch("block", rows.shape, pivot)).transpose(1, 2)
    return torch.sub(block, pivot[:, None], out=scratch("block", block.shape, pivot))
