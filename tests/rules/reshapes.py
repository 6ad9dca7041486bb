"""Cases of the rules in `rules/reshapes.py`: change of shape, repetition."""

import torch.nn.functional as F
from torch import Tensor, nn

from tests.rules.case import Case, around, between, chain, conv, vector


def channels_last(self: nn.Module, y: Tensor) -> Tensor:
    return self.fc(self.norm(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def tokens(self: nn.Module, y: Tensor) -> Tensor:
    return self.fc(y.flatten(2).transpose(1, 2)).mT.unflatten(2, (8, 8))


def flat_channels_last(self: nn.Module, y: Tensor) -> Tensor:
    return self.fc(y[:, :, :2, :2].permute(0, 2, 3, 1).flatten(1))[:, :, None, None]


def spread(self: nn.Module, y: Tensor) -> Tensor:
    return self.one(y).mean((2, 3), True).expand(-1, -1, 8, 8)


def windows(self: nn.Module, y: Tensor) -> Tensor:
    """Cut the image into windows of 4 x 4, roll it before and back after."""
    y = y.permute(0, 2, 3, 1).roll((1, 2), (1, 2)).view(-1, 2, 4, 2, 4, 6)
    y = self.fc(y.permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 6))
    y = y.view(-1, 2, 2, 4, 4, 6).permute(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, 6)
    return y.roll((-1, -2), (1, 2)).permute(0, 3, 1, 2)


def standardised(self: nn.Module, y: Tensor) -> Tensor:
    """Convolve with weights that are scaled in rows."""
    rows = self.w.reshape(5, -1)
    return F.conv2d(y, (rows * 2).reshape_as(self.w))


MOVING = {
    "flatten before a classifier": Case(
        chain(conv(3, 6), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(24, 5), nn.Linear(5, 4)), (6, 5)
    ),
    "flatten of channels last": Case(around(flat_channels_last, fc=nn.Linear(24, 6)), (6, 6)),
    "channels last": Case(
        around(channels_last, c=5, norm=nn.LayerNorm(6), fc=nn.Linear(6, 5)), (6, 5)
    ),
    "tokens": Case(around(tokens, c=5, fc=nn.Linear(6, 5)), (6, 5)),
    "unsqueeze and squeeze": Case(around(lambda _, y: y.unsqueeze(2).squeeze(2)), (6,)),
    "view of space": Case(around(lambda _, y: y.view(-1, 6, 64).view(-1, 6, 4, 16)), (6,)),
    "view of channels with space": Case(around(lambda _, y: y.view(-1, 48, 8, 1), c=48), (6,)),
    "expand": Case(around(spread, one=conv(6, 6)), (6, 6)),
    "expand to the shape of another": Case(
        around(lambda _, y: y * y.mean((2, 3), True).expand_as(y)), (6,)
    ),
    "expand along new dimensions": Case(
        around(lambda self, y: y + self.v.expand(2, 6, 1, 1)[0], v=vector(6, 1, 1)), (6,)
    ),
    "repeat of channels": Case(around(lambda _, y: y.repeat(1, 2, 1, 1), c=12), (6,)),
    "tile of space": Case(around(lambda _, y: y.tile((2, 1))), (6,)),
    "repeat of each channel": Case(around(lambda _, y: y.repeat_interleave(2, 1), c=12), (6,)),
    "sum over a part of the channels": Case(
        around(lambda _, y: y.tanh().view(-1, 2, 3, 8, 8).sum(1), c=3), (2, 2, 2, 3)
    ),
    "sum over blocks of channels": Case(
        around(lambda _, y: y.tanh().view(-1, 2, 3, 8, 8).sum(2), c=2), (3, 3, 2)
    ),
    "channels seen as images": Case(
        around(lambda self, y: self.one(y.view(-1, 1, 8, 8)).view(-1, 6, 8, 8), one=conv(1, 1)),
        (6,),
    ),
    "channel shuffle": Case(between(nn.ChannelShuffle(2)), (6,)),
    "channel shuffle by views": Case(
        around(lambda _, y: y.view(-1, 2, 3, 8, 8).transpose(1, 2).reshape(-1, 6, 8, 8)), (6,)
    ),
    "channel shuffle before a grouped convolution": Case(
        between(nn.ChannelShuffle(2), nn.ReLU(), conv(6, 6, groups=3)), (2, 2, 2, 3)
    ),
    "pixel shuffle": Case(between(conv(6, 12), nn.PixelShuffle(2), c=3), (6, 3)),
    "pixel unshuffle": Case(between(nn.PixelUnshuffle(2), c=24), (6,)),
    "windows": Case(around(windows, fc=nn.Linear(6, 6)), (6, 6)),
    "weights seen as rows": Case(around(standardised, w=vector(5, 6, 3, 3), c=5), (6, 5)),
}

PINNED = {
    "view across the bounds of channels": Case(
        around(lambda _, y: y.flatten(1).view(-1, 4, 12, 8), c=4), pinned_by="aten.view"
    ),
}
