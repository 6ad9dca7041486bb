"""Cases of the rules in `rules/elementwise.py`: functions of one value, and of several."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rules.case import Case, around, between, calls, conv, vector

ACTIVATIONS = [
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.GELU(),
    nn.SiLU(),
    nn.Sigmoid(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.ELU(),
    nn.LeakyReLU(),
    nn.Mish(),
    nn.Softplus(),
    nn.Softmax(dim=1),
    nn.LogSoftmax(dim=1),
]


def gated(self: nn.Module, y: Tensor) -> Tensor:
    """Squeeze and excite."""
    squeezed = F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))
    return y * torch.sigmoid(self.excite(squeezed))


def two_sums(self: nn.Module, y: Tensor) -> Tensor:
    z = y + self.one(y)
    return z + self.two(z)


def used_twice(self: nn.Module, y: Tensor) -> Tensor:
    return y.sin() * self.v + self.v


def with_buffer() -> nn.Module:
    model = around(lambda self, y: y * self.factor)()
    model.register_buffer("factor", torch.zeros(6, 1, 1), persistent=False)
    return model


def with_vector(run) -> Case:
    """Run an operator on the 6 channels and a parameter `self.v` of theirs."""
    return Case(around(run, v=vector(6, 1, 1)), (6,))


MOVING = {
    **{f"{type(f).__name__.lower()}": Case(between(f), (6,)) for f in ACTIVATIONS},
    "dropout": Case(between(nn.Dropout2d(), nn.Dropout(), nn.AlphaDropout()), (6,)),
    "residual sum": Case(around(lambda self, y: y + self.branch(y), branch=conv(6, 6)), (6,)),
    "residual sums": Case(around(two_sums, one=conv(6, 6), two=conv(6, 6)), (6,)),
    "sum with a vector": with_vector(lambda self, y: y + self.v),
    "sum with a row of the image": Case(around(lambda self, y: y + self.v, v=vector(8)), (6,)),
    "sum with its mean over space": Case(around(lambda _, y: y + y.mean((2, 3), True)), (6,)),
    "difference from a number": Case(around(lambda _, y: 1 - y), (6,)),
    "product with a vector": with_vector(lambda self, y: y * self.v),
    "product with a viewed vector": Case(
        around(lambda self, y: y * self.v.view(1, -1, 1, 1), v=vector(6)), (6,)
    ),
    "product with a buffer": Case(with_buffer, (6,)),
    "vector of two uses": with_vector(used_twice),
    "squeeze and excite": Case(around(gated, squeeze=conv(6, 3), excite=conv(3, 6)), (6, 3)),
    "clamp at numbers": Case(around(lambda _, y: y.clamp(-0.5, 0.5)), (6,)),
    "clamp at a vector": with_vector(lambda self, y: torch.clamp(y, min=self.v)),
    "clamp at two vectors": with_vector(lambda self, y: y.clamp(self.v - 1, self.v)),
    "clamp_min at a vector": with_vector(lambda self, y: y.clamp_min(self.v)),
    "maximum": with_vector(lambda self, y: torch.maximum(y, self.v)),
    "where": with_vector(lambda self, y: torch.where(y > self.v, y, 0.1 * y)),
    "addcmul": with_vector(lambda self, y: torch.addcmul(self.v, y, y)),
    "power by a vector": with_vector(lambda self, y: y.abs() ** self.v.exp()),
}

PINNED = {
    "constant": Case(
        around(lambda _, y: y * torch.arange(6.0).view(6, 1, 1)), pinned_by="aten.mul"
    ),
    "sum with the image": Case(
        calls(lambda self, x: self.last(self.first(x) + x), first=conv(3, 3), last=conv(3, 4)),
        pinned_by="aten.add",
    ),
}
