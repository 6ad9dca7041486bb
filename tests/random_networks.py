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
    kinds = [
        lambda: nn.ReLU(inplace=True),
        nn.GELU,
        lambda: nn.PReLU(c),
        nn.PReLU,
        nn.Hardswish,
        lambda: nn.SiLU(inplace=True),
        lambda: nn.Softmax(1),
    ]
    return draw(st.sampled_from(kinds))(), c


def pooling(draw: st.DrawFn, c: int) -> Block:
    kinds = [
        lambda: nn.MaxPool2d(3, stride=1, padding=1),
        lambda: nn.AvgPool2d(3, stride=1, padding=1),
        lambda: nn.AdaptiveMaxPool2d(4),
        lambda: nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")),
    ]
    return draw(st.sampled_from(kinds))(), c


def blur(draw: st.DrawFn, c: int) -> Block:
    def run(self: nn.Module, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), self.k.expand(c, 1, 3, 3), groups=c)

    return Calls(run, k=nn.Parameter(torch.ones(1, 1, 3, 3), requires_grad=False)), c


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


def rms_norm(draw: st.DrawFn, c: int) -> Block:
    def run(self: nn.Module, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return Calls(run, norm=nn.RMSNorm(c)), c


def instance_norm(draw: st.DrawFn, c: int) -> Block:
    return nn.InstanceNorm2d(c, affine=draw(st.booleans())), c


def response_norm(draw: st.DrawFn, c: int) -> Block:
    def run(self: nn.Module, x: Tensor) -> Tensor:
        length = x.norm(dim=(2, 3), keepdim=True)
        return x + self.g * (x * (length / (length.mean(1, keepdim=True) + 1e-6)))

    return Calls(run, g=nn.Parameter(torch.ones(c, 1, 1))), c


def spatial_gate(draw: st.DrawFn, c: int) -> Block:
    def run(self: nn.Module, x: Tensor) -> Tensor:
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.gate(seen).sigmoid()

    return Calls(run, gate=_conv(2, 1)), c


def dilated_convolution(draw: st.DrawFn, c: int) -> Block:
    c_out, mode = draw(WIDTHS), draw(st.sampled_from(["zeros", "reflect", "circular"]))
    return nn.Conv2d(c, c_out, 3, padding="same", dilation=2, padding_mode=mode), c_out


def transposed_convolution(draw: st.DrawFn, c: int) -> Block:
    groups, factor = draw(_divisors(c)), draw(st.integers(1, 2))
    return nn.ConvTranspose2d(c, groups * factor, 3, padding=1, groups=groups), groups * factor


def depthwise_with_multiplier(draw: st.DrawFn, c: int) -> Block:
    return nn.Sequential(_conv(c, 2 * c, groups=c), nn.ReLU(), _conv(2 * c, c)), c


def standardised_convolution(draw: st.DrawFn, c: int) -> Block:
    c_out = draw(WIDTHS)

    def run(self: nn.Module, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(self.w, (1, 2, 3), keepdim=True, correction=0)
        return F.conv2d(x, (self.w - mean) / (std + 1e-5) * self.gain, padding=1)

    w = nn.Parameter(torch.ones(c_out, c, 3, 3))
    return Calls(run, w=w, gain=nn.Parameter(torch.ones(c_out, 1, 1, 1))), c_out


def weight_norm(draw: st.DrawFn, c: int) -> Block:
    c_out = draw(WIDTHS)
    layer = nn.Conv2d(c, c_out, 1)
    return nn.utils.parametrizations.weight_norm(layer, dim=draw(st.integers(0, 1))), c_out


def gated_linear_unit(draw: st.DrawFn, c: int) -> Block:
    c_out = draw(WIDTHS)
    return nn.Sequential(_conv(c, 2 * c_out), nn.GLU(1)), c_out


def tokens(draw: st.DrawFn, c: int) -> Block:
    inner = draw(WIDTHS)

    def run(self: nn.Module, x: Tensor) -> Tensor:
        y = x.flatten(2).transpose(1, 2)
        y = y + self.scale * self.mlp(self.norm(y))
        return y.transpose(1, 2).unflatten(2, (4, 4))

    mlp = nn.Sequential(nn.Linear(c, inner), nn.GELU(), nn.Linear(inner, c))
    return Calls(run, norm=nn.LayerNorm(c), mlp=mlp, scale=nn.Parameter(torch.ones(c))), c


def patches(draw: st.DrawFn, c: int) -> Block:
    c_out = draw(WIDTHS)

    def run(self: nn.Module, x: Tensor) -> Tensor:
        return self.mix(F.unfold(x, 3, padding=1).unflatten(2, (4, 4)))

    return Calls(run, mix=nn.Conv2d(9 * c, c_out, 1)), c_out


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
    rms_norm,
    instance_norm,
    response_norm,
    spatial_gate,
    blur,
    dilated_convolution,
    transposed_convolution,
    depthwise_with_multiplier,
    standardised_convolution,
    weight_norm,
    gated_linear_unit,
    tokens,
    patches,
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
