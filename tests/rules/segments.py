"""Cases of the rules in `rules/segments.py`: pad, slice, split, cat, select."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rules.case import Case, around, calls, conv


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
}

PINNED = {
    "one channel": Case(around(lambda _, y: y + y[:, 2].unsqueeze(1)), pinned_by="aten.select"),
    "reflection of channels": Case(around(padded_along_tokens, c=8), pinned_by="aten.pad"),
    "roll": Case(around(lambda _, y: y.roll(1, 1)), pinned_by="aten.roll"),
    "stack": Case(around(lambda _, y: torch.stack([y, y]).sum(0)), pinned_by="aten.stack"),
}
