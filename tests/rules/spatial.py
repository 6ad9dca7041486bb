"""Cases of the rules in `rules/spatial.py`: pooling, resizing, warping, patches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rules.case import Case, around, between, chain, conv

LAYERS = {
    "max pool": nn.MaxPool2d(2),
    "max pool, overlapping": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "average pool": nn.AvgPool2d(2),
    "average pool without padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "lp pool": nn.LPPool2d(2, 2),
    "adaptive average pool": nn.AdaptiveAvgPool2d(4),
    "adaptive max pool": nn.AdaptiveMaxPool2d(4),
    "upsample nearest": nn.Upsample(scale_factor=2),
    "upsample nearest exact": nn.Upsample(scale_factor=2, mode="nearest-exact"),
    "upsample bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "upsample bicubic": nn.Upsample(scale_factor=2, mode="bicubic"),
    "reflection pad": nn.ReflectionPad2d(1),
    "replication pad": nn.ReplicationPad2d(1),
    "circular pad": nn.CircularPad2d(1),
    "zero pad": nn.ZeroPad2d(1),
}
SEQUENCES = {
    "max pool of sequences": nn.MaxPool1d(2),
    "average pool of sequences": nn.AvgPool1d(2),
    "adaptive average pool of sequences": nn.AdaptiveAvgPool1d(4),
    "upsample of sequences": nn.Upsample(scale_factor=2, mode="linear"),
}
VOLUMES = {
    "max pool of volumes": nn.MaxPool3d(2),
    "average pool of volumes": nn.AvgPool3d(2),
    "adaptive max pool of volumes": nn.AdaptiveMaxPool3d(2),
    "upsample of volumes": nn.Upsample(scale_factor=2, mode="trilinear"),
}


def unpooled(_, y: Tensor) -> Tensor:
    pooled, places = F.max_pool2d(y, 2, return_indices=True)
    return F.max_unpool2d(pooled, places, 2)


def blurred(self: nn.Module, y: Tensor) -> Tensor:
    """Blur with one kernel for all channels, as anti-aliased networks do."""
    return F.conv2d(F.pad(y, (1, 1, 1, 1), "reflect"), self.k.expand(6, 1, 3, 3), groups=6)


def blur_pool() -> nn.Module:
    model = around(blurred)()
    model.register_buffer("k", torch.zeros(1, 1, 3, 3))
    return model


def repeated_blur() -> nn.Module:
    model = around(
        lambda self, y: F.conv2d(y, self.k.repeat(y.shape[1], 1, 1, 1), stride=2, groups=6)
    )()
    model.register_buffer("k", torch.zeros(1, 1, 3, 3))
    return model


def blurred_by_hand(self: nn.Module, y: Tensor) -> Tensor:
    return F.conv2d(y.flatten(0, 1)[:, None], self.k).unflatten(0, (-1, 6))[:, :, 0]


def warped(self: nn.Module, y: Tensor) -> Tensor:
    theta = self.theta(y.mean((2, 3))).unflatten(1, (2, 3))
    return F.grid_sample(y, F.affine_grid(theta, y.shape, align_corners=False), align_corners=False)


def patches(self: nn.Module, y: Tensor) -> Tensor:
    return self.mix(F.unfold(y, 2).unflatten(2, (7, 7)))


def summed_patches(self: nn.Module, y: Tensor) -> Tensor:
    return F.fold(F.unfold(y, 2).tanh(), (8, 8), 2)


MOVING = {
    **{name: Case(between(layer), (6,)) for name, layer in LAYERS.items()},
    **{
        name: Case(chain(nn.Conv1d(3, 6, 1), layer, nn.Conv1d(6, 4, 1)), (6,), (3, 8))
        for name, layer in SEQUENCES.items()
    },
    **{
        name: Case(chain(nn.Conv3d(3, 6, 1), layer, nn.Conv3d(6, 4, 1)), (6,), (3, 4, 4, 4))
        for name, layer in VOLUMES.items()
    },
    "resize with antialiasing": Case(
        around(lambda _, y: F.interpolate(y, (5, 5), mode="bilinear", antialias=True)), (6,)
    ),
    "pool and unpool": Case(around(unpooled), (6,)),
    "blur pool": Case(blur_pool, (6,)),
    "blur pool of a repeated kernel": Case(repeated_blur, (6,)),
    "grid sample": Case(around(warped, theta=nn.Linear(6, 6)), (6,)),
    "patches": Case(around(patches, c=5, mix=conv(24, 5)), (6, 5)),
    "patches and their sum": Case(around(summed_patches), (6,)),
    "windows of space": Case(
        around(lambda _, y: y.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))), (6,)
    ),
}

PINNED = {
    "pool over channels": Case(
        around(lambda _, y: F.avg_pool1d(y.flatten(2).mT, 2).mT.unflatten(2, (8, 8)), c=3),
        pinned_by="aten.avg_pool1d",
    ),
    "windows of channels": Case(
        around(lambda _, y: y.unfold(1, 2, 2).sum(-1), c=3), pinned_by="aten.unfold"
    ),
}
