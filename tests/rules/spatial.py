"""Cases of the rules in `rules/spatial.py`: pooling, resizing, reducing."""

from torch import nn

from tests.rules.case import Case, around, between, calls, conv

LAYERS = {
    "max pool": nn.MaxPool2d(2),
    "average pool": nn.AvgPool2d(2),
    "adaptive average pool": nn.AdaptiveAvgPool2d(4),
    "adaptive max pool": nn.AdaptiveMaxPool2d(4),
    "upsample nearest": nn.Upsample(scale_factor=2),
    "upsample bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "upsample bicubic": nn.Upsample(scale_factor=2, mode="bicubic"),
}

MOVING = {
    **{name: Case(between(layer), (6,)) for name, layer in LAYERS.items()},
    "mean over space": Case(
        calls(
            lambda self, x: self.fc(self.conv(x).mean((2, 3))), conv=conv(3, 6), fc=nn.Linear(6, 4)
        ),
        (6,),
    ),
    "sum over space": Case(around(lambda _, y: y * y.sum(-1, keepdim=True)), (6,)),
    "largest over space": Case(around(lambda _, y: y * y.amax((2, 3), keepdim=True)), (6,)),
    "norm over space": Case(around(lambda _, y: y / y.norm(dim=(2, 3), keepdim=True)), (6,)),
    "deviation over space": Case(
        around(lambda _, y: y / y.std((2, 3), unbiased=False, keepdim=True)), (6,)
    ),
}

PINNED = {
    "mean over channels": Case(
        around(lambda _, y: y - y.mean(1, keepdim=True)), pinned_by="aten.mean"
    ),
    "deviation over everything": Case(
        around(lambda _, y: y / y.std(unbiased=False)), pinned_by="aten.std"
    ),
    "largest over channels": Case(
        around(lambda _, y: y - y.max(1, keepdim=True)[0]), pinned_by="aten.max"
    ),
    "norm over neighbouring channels": Case(
        between(nn.LocalResponseNorm(3)), pinned_by="aten.avg_pool3d"
    ),
}
