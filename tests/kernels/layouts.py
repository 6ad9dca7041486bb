"""The same activations in every memory layout that a network can hand over."""

from collections.abc import Callable

import torch
from torch import Tensor


def images(n: int, channels: int, dtype: torch.dtype) -> Tensor:
    """Return n positions in images of 1 × 7 if 7 divides n, else of 1 × 1."""
    width = 7 if n % 7 == 0 else 1
    return torch.randn(n // width, channels, 1, width).to(dtype)


# Each: (positions, channels, dtype) -> (activation, channel_dim).
LAYOUTS: dict[str, Callable[[int, int, torch.dtype], tuple[Tensor, int]]] = {
    "rows": lambda n, c, dtype: (torch.randn(n, c).to(dtype), -1),
    "columns": lambda n, c, dtype: (torch.randn(c, n).to(dtype), 0),
    "nchw": lambda n, c, dtype: (images(n, c, dtype), 1),
    "channels_last": lambda n, c, dtype: (
        images(n, c, dtype).contiguous(memory_format=torch.channels_last),
        1,
    ),
    "every_other": lambda n, c, dtype: (torch.randn(2 * n, 2 * c).to(dtype)[::2, 1::2], 1),
    "crop": lambda n, c, dtype: (torch.randn(n, c, 3, 4).to(dtype)[:, :, 1:, :1], 1),
    "expanded": lambda n, c, dtype: (torch.randn(1, c, 1).to(dtype).expand(n, c, 2), 1),
}
