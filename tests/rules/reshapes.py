"""Cases of the rules in `rules/reshapes.py`: permute, transpose, view, flatten, expand."""

from torch import Tensor, nn

from tests.rules.case import Case, around, between, chain, conv


def channels_last(self: nn.Module, y: Tensor) -> Tensor:
    return self.fc(self.norm(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def tokens(self: nn.Module, y: Tensor) -> Tensor:
    return self.fc(y.flatten(2).transpose(1, 2)).mT.unflatten(2, (8, 8))


def flat_channels_last(self: nn.Module, y: Tensor) -> Tensor:
    return self.fc(y[:, :, :2, :2].permute(0, 2, 3, 1).flatten(1))[:, :, None, None]


def spread(self: nn.Module, y: Tensor) -> Tensor:
    return self.one(y).mean((2, 3), True).expand(-1, -1, 8, 8)


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
}

PINNED = {
    "view that splits channels": Case(
        around(lambda _, y: y.view(-1, 2, 3, 8, 8).sum(1), c=3), pinned_by="aten.view"
    ),
    "view of channels with the batch": Case(
        around(lambda self, y: self.one(y.view(-1, 1, 8, 8)).view(-1, 6, 8, 8), one=conv(1, 1)),
        pinned_by="aten.view",
    ),
    "channel shuffle": Case(between(nn.ChannelShuffle(2)), pinned_by="aten.channel_shuffle"),
}
