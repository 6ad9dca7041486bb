"""Cases of the rules in `rules/elementwise.py`: functions of one value, and of several."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rules.case import Case, around, between, calls, chain, conv, vector

ACTIVATIONS = [
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.GELU(),
    nn.SiLU(inplace=True),
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
RARER = [
    nn.GELU(approximate="tanh"),
    nn.Tanh(),
    nn.Hardtanh(),
    nn.SELU(),
    nn.CELU(),
    nn.RReLU(),
    nn.Softsign(),
    nn.Tanhshrink(),
    nn.LogSigmoid(),
    nn.Hardshrink(1e-3),
    nn.Softshrink(1e-3),
    nn.Threshold(-2.0, 0.2),
    nn.Softmin(dim=1),
]
FUNCTIONS = """
    neg abs sign exp exp2 expm1 log1p square reciprocal rsqrt sin cos tan atan sinh cosh asinh
    erf erfc sinc ceil floor round trunc frac nan_to_num positive logit log10 digamma lgamma
"""
"""Functions of one value, by their name in `torch`."""
PAIRS = """
    add sub mul div pow fmod remainder floor_divide maximum minimum fmax fmin atan2 hypot copysign
    logaddexp logaddexp2 xlogy ge logical_xor
"""
"""Functions of two values, by their name in `torch`."""


def all_functions(_, y: Tensor) -> Tensor:
    z = 0.1 + 0.8 * y.sigmoid()
    return sum((getattr(torch, name)(z) for name in FUNCTIONS.split()), y)


def all_pairs(self: nn.Module, y: Tensor) -> Tensor:
    z, v = y.sigmoid() + 0.1, self.v.exp()
    return sum((getattr(torch, name)(z, v) for name in PAIRS.split()), y)


def assembled(self: nn.Module, y: Tensor) -> Tensor:
    """Write halves into zeros of the network's own."""
    whole = torch.zeros(y.shape[0], 6, 8, 8, dtype=y.dtype)
    whole[:, :3] = y[:, 3:]
    whole[:, 3:].add_(y[:, :3]).mul_(2)
    return whole


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
    **{type(f).__name__.lower(): Case(between(f), (6,)) for f in ACTIVATIONS},
    "rarer activations": Case(between(*RARER), (6,)),
    "functions of one value": Case(around(all_functions), (6,)),
    "functions of two values": with_vector(all_pairs),
    "glu": Case(between(nn.GLU(1), c=3), (3,)),
    "glu of vectors": Case(
        chain(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 5), nn.SiLU(), nn.Linear(5, 2)), (4, 5), (3,)
    ),
    "gates of half the channels": Case(
        around(lambda _, y: y[:, :3] * y[:, 3:].sigmoid(), c=3), (3,)
    ),
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
    "lerp": with_vector(lambda self, y: torch.lerp(y, y.tanh(), self.v)),
    "masked fill": with_vector(lambda self, y: y.masked_fill(y < self.v, 0.5)),
    "cast, clone and detach": Case(
        around(lambda _, y: y.clone().double().detach().contiguous().type_as(y)), (6,)
    ),
    "learned numbers": Case(
        around(lambda self, y: y * self.a + self.b.exp(), a=vector(), b=vector(1)), (6,)
    ),
    "layer scale": with_vector(lambda self, y: y + self.v * y.tanh()),
    "sum in place": Case(around(lambda _, y: y.clone().add_(1).mul_(y.tanh()).relu_()), (6,)),
    "sum with zeros and ones": Case(
        around(lambda _, y: y + torch.zeros_like(y) + y.new_ones(6, 1, 1) + torch.full((8,), 2.0)),
        (6,),
    ),
    "assembled in zeros": Case(around(assembled), (3, 3)),
    "power by a vector": with_vector(lambda self, y: y.abs() ** self.v.exp()),
}

PINNED = {
    "constant": Case(
        around(lambda _, y: y * torch.arange(6.0).view(6, 1, 1)), pinned_by="aten.mul"
    ),
    "positions counted": Case(
        around(lambda _, y: y + torch.linspace(0, 1, 6).view(6, 1, 1)), pinned_by="aten.add"
    ),
    "an operator without a rule": Case(
        around(lambda _, y: y.renorm(2, 1, 1.0)), pinned_by="aten.renorm"
    ),
    "sum with the image": Case(
        calls(lambda self, x: self.last(self.first(x) + x), first=conv(3, 3), last=conv(3, 4)),
        pinned_by="aten.add",
    ),
}
