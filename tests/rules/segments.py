"""Cases of the rules in `rules/segments.py`: pad, slice, index, split, cat."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rules.case import Case, around, between, calls, chain, conv


def option_a(self: nn.Module, x: Tensor) -> Tensor:
    y = self.narrow(x)
    return self.last(F.relu(F.pad(y, (0, 0, 0, 0, 1, 2)) + self.wide(y)))


def padded_along_tokens(_, y: Tensor) -> Tensor:
    tokens = y.flatten(2).transpose(1, 2)
    return F.pad(tokens, (1, 1), mode="reflect").transpose(1, 2).unflatten(2, (8, 8))


def in_two(self: nn.Module, y: Tensor) -> Tensor:
    one, other = y.split([2, 4], dim=1)
    return torch.cat([self.of_two(one), self.of_four(other)], 1)


def chunked(self: nn.Module, y: Tensor) -> Tensor:
    one, other = y.chunk(2, dim=1)
    return self.one(one) + self.other(other)


def overwritten(_, y: Tensor) -> Tensor:
    y[:, ::2].relu_()
    return y


def with_image(self: nn.Module, x: Tensor) -> Tensor:
    return self.last(torch.cat([x, self.first(x)], 1))


def heads_apart(_, y: Tensor) -> Tensor:
    """Treat the second of three pairs of channels apart from the others."""
    one, two, three = y.view(-1, 3, 2, 8, 8).unbind(1)
    return torch.cat([one, two.relu(), three], 1)


MOVING = {
    "pad of channels": Case(
        calls(option_a, narrow=conv(3, 4), wide=conv(4, 7), last=conv(7, 4)), (4, 3)
    ),
    "pad with a value": Case(
        around(lambda _, y: F.pad(y, (0, 0, 0, 0, 1, 0), value=2.0), c=7), (6,)
    ),
    "pad of space": Case(around(lambda _, y: F.pad(y, (1, 2, 0, 1))), (6,)),
    "negative pad": Case(
        around(lambda self, y: F.pad(y, (0, 0, 0, 0, -1, -2)) + self.all(y), c=3, all=conv(6, 3)),
        (3, 3),
    ),
    "slice of channels": Case(
        around(lambda self, y: self.even(y[:, ::2]) + self.all(y), even=conv(3, 6), all=conv(6, 6)),
        (3, 3, 6),
    ),
    "slice of space": Case(around(lambda _, y: y[:, :, ::2, 1:]), (6,)),
    "write to a slice": Case(around(overwritten), (3, 3)),
    "split": Case(around(in_two, c=5, of_two=conv(2, 2), of_four=conv(4, 3)), (2, 4, 2, 3)),
    "chunk": Case(around(chunked, one=conv(3, 6), other=conv(3, 6)), (3, 3, 6)),
    "cat": Case(
        around(lambda self, y: torch.cat([y, self.more(y)], 1), c=11, more=conv(6, 5)), (6, 5)
    ),
    "cat with itself": Case(around(lambda _, y: torch.cat([y, y], 1), c=12), (6,)),
    "cat with the image": Case(calls(with_image, first=conv(3, 6), last=conv(9, 4)), (6,)),
    "cat along space": Case(
        around(lambda self, y: torch.cat([y, self.more(y)], 2), more=conv(6, 6)), (6,)
    ),
    "one row of the image": Case(around(lambda _, y: y[:, :, 1].unsqueeze(2)), (6,)),
    "one channel": Case(around(lambda _, y: y + y[:, 2].unsqueeze(1)), (5,)),
    "channels unbound": Case(around(lambda _, y: y.unbind(1)[4][:, None] * y), (5,)),
    "roll": Case(around(lambda _, y: y.roll(1, 1)), (6,)),
    "flip": Case(around(lambda _, y: y.flip(1, 3)), (6,)),
    "stack": Case(around(lambda _, y: torch.stack([y, y]).sum(0)), (6,)),
    "stack of two": Case(
        around(lambda self, y: torch.stack([y, self.more(y)], 1).sum(1), more=conv(6, 6)), (6,)
    ),
    "halves that gate each other": Case(around(lambda _, y: y[:, :3] * y[:, 3:], c=3), (3,)),
    "gated linear unit": Case(between(nn.GLU(1), c=3), (3,)),
    "gated linear unit of tokens": Case(
        chain(nn.Linear(3, 10), nn.GLU(), nn.Linear(5, 4)), (5,), (7, 3)
    ),
    "index of space": Case(around(lambda _, y: y[:, :, torch.tensor([0, 2, 2])]), (6,)),
    "index_select of space": Case(
        around(lambda _, y: y.index_select(2, torch.tensor([0, 2, 2]))), (6,)
    ),
    "heads apart and together": Case(around(heads_apart), (2, 2, 2)),
}

PINNED = {
    "roll against itself": Case(
        around(lambda _, y: y + y.roll(3, 1)),
        pinned_by="two channels of one block play the same part",
    ),
    "reflection of channels": Case(around(padded_along_tokens, c=8), pinned_by="aten.pad"),
    "index of channels": Case(
        around(lambda _, y: y[:, torch.tensor([0, 2, 1])], c=3), pinned_by="aten.index"
    ),
}
