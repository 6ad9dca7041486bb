"""Cases of the rules in `rules/layers.py`: linear maps, convolutions, norms, PReLU."""

import torch.nn.functional as F
from torch import nn

from tests.rules.case import Case, around, between, calls, chain, conv, vector

_linear = nn.Linear
_running = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
_first, _last = nn.Linear(3, 6), nn.Linear(3, 4)

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
    "conv, depthwise": Case(between(conv(6, 6, 3, groups=6)), (6,)),
    "conv, depthwise with multiplier": Case(between(conv(6, 12, 3, groups=6), c=12), (6,)),
    "conv, weight times mask": Case(
        around(
            lambda self, y: F.conv2d(y, self.w * self.mask),
            c=5,
            w=vector(5, 6, 3, 3),
            mask=vector(5, 6, 3, 3),
        ),
        (6, 5),
    ),
    "transposed conv, weight times mask": Case(
        around(
            lambda self, y: F.conv_transpose2d(y, self.w * self.mask),
            c=5,
            w=vector(6, 5, 3, 3),
            mask=vector(6, 5, 3, 3),
        ),
        (6, 5),
    ),
    "conv, grouped": Case(between(conv(6, 9, 3, groups=3), c=9), (3,)),
    "conv1d": Case(chain(nn.Conv1d(3, 6, 3), nn.Tanh(), nn.Conv1d(6, 4, 3)), (6,), (3, 9)),
    "conv3d": Case(chain(nn.Conv3d(3, 6, 2), nn.Tanh(), nn.Conv3d(6, 4, 2)), (6,), (3, 4, 4, 4)),
    "transposed conv": Case(between(nn.ConvTranspose2d(6, 5, 3, stride=2), c=5), (6, 5)),
    "transposed conv1d": Case(
        chain(nn.Conv1d(3, 6, 3), nn.ConvTranspose1d(6, 5, 3), nn.Conv1d(5, 4, 3)), (6, 5), (3, 9)
    ),
    "linear": Case(
        chain(_linear(3, 6), nn.ReLU(), _linear(6, 5), nn.ReLU(), _linear(5, 4)), (6, 5), (3,)
    ),
    "linear on tokens": Case(chain(_linear(3, 6), nn.GELU(), _linear(6, 4)), (6,), (7, 3)),
    "batch norm": Case(between(nn.BatchNorm2d(6)), (6,)),
    "batch norm of the batch": Case(
        between(nn.BatchNorm2d(6, track_running_stats=False), bias=False), (6,)
    ),
    "batch norm of vectors": Case(
        chain(_linear(3, 6), nn.BatchNorm1d(6), _linear(6, 4)), (6,), (3,)
    ),
    "layer norm over all": Case(between(nn.LayerNorm([6, 6, 6])), (6,)),
    "layer norm of vectors": Case(chain(_linear(3, 6), nn.LayerNorm(6), _linear(6, 4)), (6,), (3,)),
    "group norm, one group": Case(between(nn.GroupNorm(1, 6)), (6,)),
    "group norm, two groups": Case(between(nn.GroupNorm(2, 6)), (3, 3)),
    "group norm, a group per channel": Case(between(nn.GroupNorm(6, 6), bias=False), (6,)),
    "instance norm": Case(between(nn.InstanceNorm2d(6), bias=False), (6,)),
    "instance norm, affine": Case(between(nn.InstanceNorm2d(6, affine=True), bias=False), (6,)),
    "instance norm, running": Case(between(_running), (6,)),
    "prelu, a slope per channel": Case(between(nn.PReLU(6)), (6,)),
    "prelu, one slope": Case(between(nn.PReLU()), (6,)),
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
    "transposed conv, grouped": Case(
        between(nn.ConvTranspose2d(6, 6, 3, groups=2)), pinned_by="aten.conv_transpose2d"
    ),
    "weight norm": Case(
        lambda: chain(nn.utils.parametrizations.weight_norm(conv(3, 6)), conv(6, 4))(),
        pinned_by="aten._weight_norm",
    ),
}
