"""What the paper's authors measured, at alpha = .5, in per cent of the test images.

Source: the results that the authors committed with their notebooks (github.com/KellerJordan/REPAIR)
and, for ImageNet, REPAIR (Jordan et al., 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Key = tuple[str, str, float]
"""Experiment, series, x."""


@dataclass(frozen=True)
class Published:
    """Published accuracies in %; None where there is none.

    Attributes:
        ends: mean of the endpoints
        aligned: aligned only
        repaired: with REPAIR; of BatchNorm networks with their statistics reset
        closed_form: with REPAIR in closed form
        blocks: with residual blocks' outputs corrected as well
        barrier: of the test loss: aligned, and with REPAIR
    """

    ends: float | None = None
    aligned: float | None = None
    repaired: float | None = None
    closed_form: float | None = None
    blocks: float | None = None
    barrier: tuple[float, float] | None = None


_RESNET20 = {
    1: Published(93.6, 12.7, 67.6, barrier=(2.65, 0.99)),
    2: Published(95.2, 16.1, 85.5, barrier=(2.40, 0.34)),
    4: Published(96.1, 34.8, 92.1, barrier=(1.83, 0.11)),
    8: Published(96.6, 32.3, 94.4, barrier=(1.96, 0.062)),
    16: Published(96.9, 16.1, 95.4, barrier=(2.08, 0.045)),
}
_NORMED_VGG = "VGG with BatchNorms, CIFAR-10"
_VGG = {
    11: Published(92.2, 61.3, 88.2),
    13: Published(93.8, 38.7, 89.8),
    16: Published(93.3, 27.9, 90.1),
    19: Published(93.6, 19.3, 89.5),
}
_PLAIN_VGG11 = Published(90.3, 73.1, 86.6)
_FUSED_MLP = "MLP, MNIST, fused BatchNorms"
_MLP_DEPTH = {
    2: Published(98.1, 96.8, 97.5, 97.4),
    6: Published(98.2, 93.5, 95.9, 95.2),
    11: Published(98.2, 81.2, 95.3, 94.7),
    21: Published(98.1, 50.6, 94.6, 94.8),
    31: Published(97.9, 31.5, 91.0, 89.9),
    41: Published(97.1, 19.6, 75.6, 71.1),
    51: Published(42.0, 10.4, 9.7, 9.8),
}
_DEEP_MLPS = (("fused BatchNorms", 0), ("gradients not limited", 5))
_MLP_WIDTH = {
    "MNIST": Published(99.1, 82.4, 98.0),
    "FashionMNIST": Published(89.5, 14.9, 73.5),
    "SVHN": Published(87.7, 58.3, 81.4),
    "CIFAR-10": Published(57.3, 35.0, 52.9),
}
_RESNET18 = Published(95.6, 66.0, 94.1)

PUBLISHED: Mapping[Key, Published] = {
    ("resnet18_curve", "ResNet18", 18): _RESNET18,
    ("unaligned", "ResNet18", 18): _RESNET18,
    ("unaligned", "VGG11", 11): _PLAIN_VGG11,
    ("others", "ResNet20, dansun", 1): _RESNET20[1],
    ("resnet20_midpoint", "ResNet20", 0): _RESNET20[1],
    ("resnet20_midpoint", "2 × the rate", 2): _RESNET20[1],
    **{("mlp_midpoint", series, x): _MLP_DEPTH[31] for series, x in _DEEP_MLPS},
    ("vgg_midpoint", "VGG11", 0): _PLAIN_VGG11,
    ("vgg_midpoint", "first cycle only", 6): _PLAIN_VGG11,
    ("vgg_midpoint", "1/2 of shifts and weight decay, no cutout", 5): _PLAIN_VGG11,
    ("vgg_midpoint", "with BatchNorms", 7): _VGG[11],
    ("vgg_midpoint", "with BatchNorms, first cycle only", 8): _VGG[11],
    **{("resnet20_norms", "BatchNorm", width): known for width, known in _RESNET20.items()},
    ("resnet20_norms", "LayerNorm", 8): Published(96.0, 90.3, 93.2),
    ("resnet20_norms", "Fixup", 1): Published(92.0, 34.7, 67.1),
    ("resnet20_norms", "Fixup", 4): Published(None, 67.7, 90.9),
    ("resnet20_norms", "Fixup", 16): Published(97.1, 85.3, 95.9),
    **{("vgg_depth", _NORMED_VGG, depth): known for depth, known in _VGG.items()},
    ("vgg_depth", "VGG, CIFAR-10", 11): _PLAIN_VGG11,
    **{("mlp_depth", _FUSED_MLP, depth): known for depth, known in _MLP_DEPTH.items()},
    **{("mlp_width", name, 512): known for name, known in _MLP_WIDTH.items()},
    ("mlp_width", "FashionMNIST", 4096): Published(None, 22.2, 16.0),
    ("imagenet", "ResNet18", 18): Published(71.5, None, 37.8, blocks=41.1),
    ("imagenet", "ResNet50", 50): Published(76.6, None, 53.4, blocks=56.5),
    ("imagenet", "ResNet50, double width", 100): Published(77.3, None, 62.5, blocks=64.2),
}
