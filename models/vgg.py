"""VGG networks for small images, with and without BatchNorm.

    features = (conv3x3 [-> BatchNorm] -> relu)*, with five 2x2 max-pools among them
    logits = classifier(mean over space of features)

Convolutions are named as torchvision names them, `features.0`, ...; `classifier` is one layer.
"""

from torch import Tensor, nn

POOL = 0  # In a plan: a 2x2 max-pool; other numbers are the channels of a convolution.

PLANS = {
    11: (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    13: (64, 64, POOL, 128, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    16: (64, 64, POOL, 128, 128, POOL) + (256,) * 3 + (POOL,) + ((512,) * 3 + (POOL,)) * 2,
    19: (64, 64, POOL, 128, 128, POOL) + (256,) * 4 + (POOL,) + ((512,) * 4 + (POOL,)) * 2,
}


class VGG(nn.Module):
    """A VGG network for 32x32 images (any size of at least 32).

    Args:
        depth: 11, 13, 16 or 19; the published count, of which three linear layers became one.
        batch_norm: whether a BatchNorm follows every convolution.
        width: multiplier of every convolution's channels; a fraction makes a small network.
        in_channels: channels of the images.
        classes: number of logits.

    Raises:
        ValueError: when `depth` is unknown, or `width` leaves a layer without channels.

    Source: Simonyan and Zisserman (2015), table 1.

    Example:
        >>> sum(p.numel() for p in VGG(11).parameters())
        9225610
    """

    def __init__(
        self,
        depth: int = 11,
        *,
        batch_norm: bool = False,
        width: float = 1,
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if depth not in PLANS:
            raise ValueError(f"`depth` must be one of {sorted(PLANS)}, got {depth}")
        if int(64 * width) < 1:
            raise ValueError(f"`width` must be at least 1/64, got {width}")
        layers: list[nn.Module] = []
        c_in = in_channels
        for planned in PLANS[depth]:
            if planned == POOL:
                layers.append(nn.MaxPool2d(2))
                continue
            c_out = int(planned * width)
            layers.append(nn.Conv2d(c_in, c_out, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(c_out))
            layers.append(nn.ReLU())
            c_in = c_out
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(c_in, classes)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, classes)."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def vgg11(**options) -> VGG:
    """Return a VGG11; options as of `VGG`."""
    return VGG(11, **options)


def vgg13(**options) -> VGG:
    """Return a VGG13; options as of `VGG`."""
    return VGG(13, **options)


def vgg16(**options) -> VGG:
    """Return a VGG16; options as of `VGG`."""
    return VGG(16, **options)


def vgg19(**options) -> VGG:
    """Return a VGG19; options as of `VGG`."""
    return VGG(19, **options)
