"""Random small networks, put together from the blocks that image networks are made of."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.equivariance import Calls

WIDTHS = st.integers(2, 6)
Block = tuple[nn.Module, int]
"""A layer, and the number of channels that it returns."""


def _conv(c_in: int, c_out: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1, groups=groups)


def _divisors(c: int) -> st.SearchStrategy[int]:
    return st.sampled_from([groups for groups in range(1, c + 1) if c % groups == 0])


def convolution(draw: st.DrawFn, c: int) -> Block:
    c_out = draw(WIDTHS)
    return _conv(c, c_out), c_out


def grouped_convolution(draw: st.DrawFn, c: int) -> Block:
    groups, factor = draw(_divisors(c)), draw(st.integers(1, 2))
    return _conv(c, groups * factor, groups), groups * factor


def group_norm(draw: st.DrawFn, c: int) -> Block:
    return nn.GroupNorm(draw(_divisors(c)), c), c


def batch_norm(draw: st.DrawFn, c: int) -> Block:
    return nn.BatchNorm2d(c), c


def activation(draw: st.DrawFn, c: int) -> Block:
    kinds = [lambda: nn.ReLU(inplace=True), nn.GELU, lambda: nn.PReLU(c), lambda: nn.Softmax(1)]
    return draw(st.sampled_from(kinds))(), c


def pooling(draw: st.DrawFn, c: int) -> Block:
    return draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))(3, stride=1, padding=1), c


def residual(draw: st.DrawFn, c: int) -> Block:
    inner = draw(WIDTHS)
    branch = nn.Sequential(_conv(c, inner), nn.BatchNorm2d(inner), nn.ReLU(), _conv(inner, c))
    return Calls(lambda self, x: F.relu(x + self.branch(x)), branch=branch), c


def widening_residual(draw: st.DrawFn, c: int) -> Block:
    before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    wider = c + before + after

    def run(self: nn.Module, x: Tensor) -> Tensor:
        return F.relu(F.pad(x, (0, 0, 0, 0, before, after)) + self.branch(x))

    return Calls(run, branch=_conv(c, wider)), wider


def dense(draw: st.DrawFn, c: int) -> Block:
    growth = draw(WIDTHS)
    return Calls(lambda self, x: torch.cat([x, self.more(x)], 1), more=_conv(c, growth)), c + growth


def doubled(draw: st.DrawFn, c: int) -> Block:
    return Calls(lambda _, x: torch.cat([x, x.tanh()], 1)), 2 * c


def squeeze_excite(draw: st.DrawFn, c: int) -> Block:
    inner = draw(WIDTHS)

    def run(self: nn.Module, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()))

    return Calls(run, squeeze=nn.Conv2d(c, inner, 1), excite=nn.Conv2d(inner, c, 1)), c


def split(draw: st.DrawFn, c: int) -> Block:
    first = draw(st.integers(1, c - 1))

    def run(self: nn.Module, x: Tensor) -> Tensor:
        one, other = x.split([first, c - first], 1)
        return torch.cat([one, self.branch(other)], 1)

    return Calls(run, branch=_conv(c - first, c - first)), c


def gate(draw: st.DrawFn, c: int) -> Block:
    half = c // 2
    return Calls(lambda _, x: x[:, :half] * x[:, half : 2 * half].sigmoid()), half


def strided(draw: st.DrawFn, c: int) -> Block:
    return Calls(lambda _, x: x[:, ::2]), (c + 1) // 2


def shuffle(draw: st.DrawFn, c: int) -> Block:
    return nn.ChannelShuffle(draw(_divisors(c))), c


def layer_norm(draw: st.DrawFn, c: int) -> Block:
    def run(self: nn.Module, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return Calls(run, norm=nn.LayerNorm(c)), c


def twice(draw: st.DrawFn, c: int) -> Block:
    return Calls(lambda self, x: self.layer(self.layer(x).relu()), layer=_conv(c, c)), c


BLOCKS: list[Callable[[st.DrawFn, int], Block]] = [
    convolution,
    grouped_convolution,
    group_norm,
    batch_norm,
    activation,
    pooling,
    residual,
    widening_residual,
    dense,
    doubled,
    squeeze_excite,
    split,
    gate,
    strided,
    shuffle,
    layer_norm,
    twice,
]
NARROWING = (gate, strided, split)
HIDDEN = 7
"""Width of the last hidden layer, which nothing else has: it can always move."""


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """Draw a network for images of 3 x 4 x 4 with a stem, up to five blocks and a classifier."""
    c = draw(st.integers(3, 6))
    layers: list[nn.Module] = [_conv(3, c)]
    for block in draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=5)):
        if c < 2 and block in NARROWING:
            continue
        layer, c = block(draw, c)
        layers.append(layer)
    pool = draw(st.sampled_from([nn.Identity, lambda: nn.AdaptiveAvgPool2d(1)]))()
    features = c if isinstance(pool, nn.AdaptiveAvgPool2d) else 16 * c
    head = [pool, nn.Flatten(), nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 4)]
    return nn.Sequential(*layers, *head)
