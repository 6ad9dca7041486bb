"""Cases of computations on parameters: standardised, merged, tied and tabulated weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rules.case import Case, around, calls, conv, vector


def standardised(self: nn.Module, y: Tensor) -> Tensor:
    """Standardise a kernel's weights over its inputs and positions, as BiT and NFNet do."""
    std, mean = torch.std_mean(self.w, (1, 2, 3), keepdim=True, correction=0)
    return F.conv2d(y, (self.w - mean) / (std + 1e-5) * self.gain, self.b)


def standardised_by_norm(self: nn.Module, y: Tensor) -> Tensor:
    """Standardise by a batch norm of the flattened kernel, as timm does."""
    flat = self.w.reshape(1, 5, -1)
    w = F.batch_norm(flat, None, None, self.gain.view(-1) * 0.5, training=True, momentum=0.0)
    return F.conv2d(y, w.reshape_as(self.w), self.b)


def merged_branches(self: nn.Module, y: Tensor) -> Tensor:
    """Add the kernels of a 3x3, a 1x1 and an identity branch, as RepVGG does."""
    kernel = self.three.weight + F.pad(self.one.weight, (1, 1, 1, 1))
    return F.conv2d(y, kernel, self.three.bias + self.one.bias, padding=1)


def branches(self: nn.Module, y: Tensor) -> Tensor:
    return F.relu(self.three(y) + self.one(y) + self.norm(y))


def low_rank(self: nn.Module, x: Tensor) -> Tensor:
    hidden = F.linear(x, self.first.weight + self.up @ self.down, self.first.bias)
    return self.last(hidden.relu())


def positions(self: nn.Module, x: Tensor) -> Tensor:
    """Add what a table holds for each position."""
    tokens = self.first(x) + self.table(torch.arange(7))
    return self.last(tokens.tanh())


def vectors(self: nn.Module, y: Tensor) -> Tensor:
    """Weigh channels by what products of parameters alone say."""
    gate = torch.mv(self.matrix, self.v) * torch.dot(self.v, self.u)
    gate = torch.addmv(gate, self.matrix, self.u)
    return y * gate[:, None, None] * torch.outer(self.u, self.v).mean(1)[:, None, None]


_kernel = {"w": vector(5, 6, 3, 3), "gain": vector(5, 1, 1, 1), "b": vector(5)}
_linear = nn.Linear

MOVING = {
    "standardised weight": Case(around(standardised, c=5, **_kernel), (6, 5)),
    "weight standardised by a norm": Case(around(standardised_by_norm, c=5, **_kernel), (6, 5)),
    "merged kernels": Case(
        around(merged_branches, c=5, three=conv(6, 5, 3), one=conv(6, 5)), (6, 5)
    ),
    "branches": Case(
        around(branches, three=conv(6, 6, 3, padding=1), one=conv(6, 6), norm=nn.BatchNorm2d(6)),
        (6,),
    ),
    "one kernel for two layers": Case(
        around(lambda self, y: F.conv2d(F.conv2d(y, self.w).relu(), self.w), w=vector(6, 6, 1, 1)),
        (6,),
    ),
    "one norm for two layers": Case(
        around(
            lambda self, y: self.norm(self.two(self.norm(y).relu())),
            norm=nn.BatchNorm2d(6),
            two=conv(6, 6),
        ),
        (6,),
    ),
    "softmax of weights": Case(
        around(lambda self, y: y * self.v.softmax(0)[:, None, None], v=vector(6)), (6,)
    ),
    "added product": Case(
        calls(
            lambda self, x: self.last(torch.addmm(self.b, x, self.w).relu()),
            b=vector(6),
            w=vector(3, 6),
            last=_linear(6, 4),
        ),
        (6,),
        (3,),
    ),
    "bilinear map": Case(
        calls(
            lambda self, x: self.last(self.both(self.one(x).tanh(), self.two(x).tanh())),
            one=_linear(3, 6),
            two=_linear(3, 5),
            both=nn.Bilinear(6, 5, 7),
            last=_linear(7, 4),
        ),
        (6, 5, 7),
        (3,),
    ),
    "table of positions": Case(
        calls(positions, first=_linear(3, 6), table=nn.Embedding(7, 6), last=_linear(6, 4)),
        (6,),
        (7, 3),
    ),
    "vectors": Case(around(vectors, matrix=vector(6, 6), v=vector(6), u=vector(6)), (6,)),
}

PINNED = {
    "sums of a vector's elements": Case(
        around(lambda self, y: y * self.v.cumsum(0)[:, None, None], v=vector(6)),
        pinned_by="aten.cumsum",
    ),
}
