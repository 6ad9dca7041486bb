"""Cases of the rules in `rules/norms.py`: norms, weight norm, PReLU; and norms written out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rules.case import Case, around, between, chain, conv, vector

_linear = nn.Linear
_running = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
_weight_norm, _spectral_norm = (
    nn.utils.parametrizations.weight_norm,
    nn.utils.parametrizations.spectral_norm,
)


def channels_last(norm: nn.Module) -> Case:
    """Normalise over channels as ConvNeXt does: channels last, norm, channels first."""
    return Case(
        around(lambda self, y: self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=norm),
        (6,),
    )


def written_out(self: nn.Module, y: Tensor) -> Tensor:
    mean = y.mean(1, keepdim=True)
    variance = (y - mean).pow(2).mean(1, keepdim=True)
    return (y - mean) * torch.rsqrt(variance + 1e-6) * self.g + self.b


def response(self: nn.Module, y: Tensor) -> Tensor:
    """GlobalResponseNorm of ConvNeXt V2."""
    length = y.norm(p=2, dim=(2, 3), keepdim=True)
    return y + torch.addcmul(self.b, self.g, y * (length / (length.mean(1, keepdim=True) + 1e-6)))


_vectors = {"g": vector(6, 1, 1), "b": vector(6, 1, 1)}

MOVING = {
    "batch norm": Case(between(nn.BatchNorm2d(6)), (6,)),
    "batch norm without affine": Case(between(nn.BatchNorm2d(6, affine=False)), (6,)),
    "batch norm of the batch": Case(
        between(nn.BatchNorm2d(6, track_running_stats=False), bias=False), (6,)
    ),
    "batch norm of vectors": Case(
        chain(_linear(3, 6), nn.BatchNorm1d(6), _linear(6, 4)), (6,), (3,)
    ),
    "batch norm of volumes": Case(
        chain(nn.Conv3d(3, 6, 1), nn.BatchNorm3d(6), nn.Conv3d(6, 4, 1)), (6,), (3, 2, 2, 2)
    ),
    "layer norm over all": Case(between(nn.LayerNorm([6, 6, 6])), (6,)),
    "layer norm over space": Case(between(nn.LayerNorm([6, 6]), bias=False), (6,)),
    "layer norm of vectors": Case(chain(_linear(3, 6), nn.LayerNorm(6), _linear(6, 4)), (6,), (3,)),
    "layer norm without bias": Case(
        chain(_linear(3, 6), nn.LayerNorm(6, bias=False), _linear(6, 4)), (6,), (3,)
    ),
    "layer norm, channels last": channels_last(nn.LayerNorm(6)),
    "layer norm written out": Case(around(written_out, **_vectors), (6,)),
    "rms norm": Case(chain(_linear(3, 6), nn.RMSNorm(6), _linear(6, 4)), (6,), (3,)),
    "rms norm, channels last": channels_last(nn.RMSNorm(6)),
    "rms norm without weight": channels_last(nn.RMSNorm(6, elementwise_affine=False)),
    "global response norm": Case(around(response, **_vectors), (6,)),
    "group norm, one group": Case(between(nn.GroupNorm(1, 6)), (6,)),
    "group norm, two groups": Case(between(nn.GroupNorm(2, 6)), (3, 3, 2)),
    "group norm, three groups without affine": Case(
        between(nn.GroupNorm(3, 6, affine=False)), (2, 2, 2, 3)
    ),
    "group norm, a group per channel": Case(between(nn.GroupNorm(6, 6), bias=False), (6,)),
    "group norm with a skip": Case(
        around(lambda self, y: y + self.norm(y), norm=nn.GroupNorm(2, 6)), (3, 3, 2)
    ),
    "group norm and grouped conv": Case(
        between(nn.GroupNorm(2, 6), conv(6, 4, groups=2), c=4), (2, 2, 2)
    ),
    "instance norm": Case(between(nn.InstanceNorm2d(6), bias=False), (6,)),
    "instance norm, affine": Case(between(nn.InstanceNorm2d(6, affine=True), bias=False), (6,)),
    "instance norm, running": Case(between(_running), (6,)),
    "normalised vectors": Case(around(lambda _, y: F.normalize(y, dim=1)), (6,)),
    "weight norm": Case(lambda: chain(_weight_norm(conv(3, 6, 3)), conv(6, 4))(), (6,)),
    "weight norm of inputs": Case(
        lambda: chain(conv(3, 6, 3), _weight_norm(conv(6, 4), dim=1))(), (6,)
    ),
    "weight norm of both": Case(
        lambda: chain(
            _weight_norm(_linear(3, 6)), nn.Tanh(), _weight_norm(_linear(6, 5)), _linear(5, 4)
        )(),
        (6, 5),
        (3,),
    ),
    "weight norm of the whole": Case(
        lambda: chain(_weight_norm(conv(3, 6, 3), dim=None), conv(6, 4))(), (6,)
    ),
    "spectral norm": Case(
        lambda: chain(_spectral_norm(conv(3, 6, 3)), _spectral_norm(conv(6, 5, 3)), conv(5, 4))(),
        (6, 5),
    ),
    "prelu, a slope per channel": Case(between(nn.PReLU(6)), (6,)),
    "prelu, one slope": Case(between(nn.PReLU()), (6,)),
    "prelu of vectors": Case(chain(_linear(3, 6), nn.PReLU(6), _linear(6, 4)), (6,), (3,)),
}

PINNED = {
    "norm over neighbouring channels": Case(
        between(nn.LocalResponseNorm(3)), pinned_by="aten.avg_pool3d"
    ),
    "batch norm of the image": Case(
        chain(nn.BatchNorm2d(3), nn.PReLU(3), nn.ReLU()), pinned_by="aten.batch_norm"
    ),
}
