"""Cases of the rules in `rules/layers.py`: linear maps and convolutions."""

import torch.nn.functional as F
from torch import nn

from tests.rules.case import Case, around, between, calls, chain, conv, vector

_linear = nn.Linear
_first, _last = nn.Linear(3, 6), nn.Linear(3, 4)
_up = nn.ConvTranspose2d


def computed(operator, *shape: int) -> Case:
    """Convolve with a weight that is a product of two parameters."""
    weights = {"w": vector(*shape), "mask": vector(*shape)}
    return Case(around(lambda self, y: operator(y, self.w * self.mask), c=5, **weights), (6, 5))


MOVING = {
    "conv": Case(between(nn.ReLU()), (6,)),
    "conv without bias": Case(between(bias=False), (6,)),
    "conv, stride": Case(between(conv(6, 5, 2, stride=2), c=5), (6, 5)),
    "conv, dilation": Case(between(conv(6, 5, 2, dilation=2), c=5), (6, 5)),
    "conv, padding same": Case(between(conv(6, 5, 3, padding="same"), c=5), (6, 5)),
    **{
        f"conv, padding {mode}": Case(
            between(conv(6, 5, 3, padding=1, padding_mode=mode), c=5), (6, 5)
        )
        for mode in ("reflect", "replicate", "circular")
    },
    "conv, padding same and reflect": Case(
        between(conv(6, 5, 4, padding="same", padding_mode="reflect"), c=5), (6, 5)
    ),
    "conv, depthwise": Case(between(conv(6, 6, 3, groups=6)), (6,)),
    "conv, depthwise, dilated": Case(between(conv(6, 6, 2, groups=6, dilation=2)), (6,)),
    # What one channel is multiplied to may stand in any order among itself.
    "conv, depthwise with multiplier": Case(
        between(conv(6, 12, 3, groups=6), c=12), (2, 2, 2, 2, 2, 2, 6)
    ),
    "conv, grouped": Case(between(conv(6, 9, 3, groups=3), c=9), (3, 3, 3, 3)),
    "conv, grouped, one output each": Case(between(conv(6, 3, 3, groups=3), c=3), (3,)),
    "conv, grouped, with a skip": Case(
        around(lambda self, y: y + self.g(y), g=conv(6, 6, groups=3)), (3,)
    ),
    "conv, grouped, twice": Case(
        between(conv(6, 6, groups=3), nn.ReLU(), conv(6, 6, groups=2)), (3, 3)
    ),
    "conv, weight times mask": computed(F.conv2d, 5, 6, 3, 3),
    "transposed conv, weight times mask": computed(F.conv_transpose2d, 6, 5, 3, 3),
    "conv1d": Case(chain(nn.Conv1d(3, 6, 3), nn.Tanh(), nn.Conv1d(6, 4, 3)), (6,), (3, 9)),
    "conv1d, grouped": Case(
        chain(nn.Conv1d(3, 6, 1), nn.Conv1d(6, 3, 3, groups=3), nn.Conv1d(3, 4, 3)), (3,), (3, 9)
    ),
    "conv3d": Case(chain(nn.Conv3d(3, 6, 2), nn.Tanh(), nn.Conv3d(6, 4, 2)), (6,), (3, 4, 4, 4)),
    "conv3d, depthwise": Case(
        chain(nn.Conv3d(3, 6, 1), nn.Conv3d(6, 6, 2, groups=6), nn.Conv3d(6, 4, 2)),
        (6,),
        (3, 4, 4, 4),
    ),
    "transposed conv": Case(between(_up(6, 5, 3, stride=2), c=5), (6, 5)),
    "transposed conv without bias": Case(between(_up(6, 5, 3, bias=False), c=5), (6, 5)),
    "transposed conv1d": Case(
        chain(nn.Conv1d(3, 6, 3), nn.ConvTranspose1d(6, 5, 3), nn.Conv1d(5, 4, 3)), (6, 5), (3, 9)
    ),
    "transposed conv3d": Case(
        chain(nn.Conv3d(3, 6, 2), nn.ConvTranspose3d(6, 5, 2), nn.Conv3d(5, 4, 2)),
        (6, 5),
        (3, 4, 4, 4),
    ),
    # A group's weight has its outputs on an axis that all groups share.
    "transposed conv, grouped": Case(between(_up(6, 9, 3, groups=3, stride=2), c=9), (2, 2, 2, 3)),
    "transposed conv, depthwise": Case(between(_up(6, 6, 3, groups=6)), (6,)),
    "transposed conv, depthwise with multiplier": Case(
        between(_up(6, 12, 3, groups=6), c=12), (6,)
    ),
    "linear": Case(
        chain(_linear(3, 6), nn.ReLU(), _linear(6, 5), nn.ReLU(), _linear(5, 4)), (6, 5), (3,)
    ),
    "linear without bias": Case(
        chain(_linear(3, 6, bias=False), nn.Tanh(), _linear(6, 4, bias=False)), (6,), (3,)
    ),
    "linear on tokens": Case(chain(_linear(3, 6), nn.GELU(), _linear(6, 4)), (6,), (7, 3)),
    "layer used twice": Case(
        around(lambda self, y: self.twice(self.twice(y).relu()), twice=conv(6, 6)), (6,)
    ),
    "weight used transposed": Case(
        calls(
            lambda self, x: self.last(F.linear(self.first(x).relu(), self.first.weight.t())),
            first=_first,
            last=_last,
        ),
        (6,),
        (3,),
    ),
}

PINNED = {
    "conv over channels": Case(
        around(
            lambda self, y: y * self.over(y.mean((2, 3))[:, None])[:, 0, :, None, None],
            over=nn.Conv1d(1, 1, 3, padding=1),
        ),
        pinned_by="aten.conv1d.default (conv1d): positions along this dimension are ordered",
    ),
    "grouped conv of the image": Case(
        chain(conv(3, 6, groups=3), conv(6, 4)), pinned_by="its input cannot move"
    ),
}
