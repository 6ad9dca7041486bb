"""A network around one operator, and what its rule must make of it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.equivariance import Calls

IMAGE = (3, 8, 8)
Build = Callable[[], nn.Module]
Run = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """A network, the sizes of its groups in graph order, and the shape of an input.

    In a network that has no groups, `pinned_by` must stand in the report.
    """

    build: Build
    sizes: tuple[int, ...] = ()
    shape: tuple[int, ...] = IMAGE
    pinned_by: str = ""


def conv(c_in: int, c_out: int, size: int = 1, **options) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, size, **options)


def vector(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


def calls(run: Run, **members: nn.Module | Tensor) -> Build:
    """Build the network whose forward is `run(self, x)`."""
    return lambda: Calls(run, **members)


def chain(*layers: nn.Module) -> Build:
    """Build the network of layers one after the other."""
    return lambda: nn.Sequential(*layers)


def between(*layers: nn.Module, c: int = 6, bias: bool = True) -> Build:
    """Build layers between a convolution to 6 channels and one from `c`.

    Norms that take a channel's mean away need `bias=False`: they take the bias away with it.
    """
    return chain(conv(3, 6, 3, bias=bias), *layers, conv(c, 4, 3))


def around(run: Run, c: int = 6, **members: nn.Module | Tensor) -> Build:
    """Build `run(self, y)` between a 1x1 convolution to 6 channels and one from `c`."""
    members = {"first": conv(3, 6), **members, "last": conv(c, 4)}
    return calls(lambda self, x: self.last(run(self, self.first(x))), **members)
