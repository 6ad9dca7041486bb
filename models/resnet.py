"""Residual networks: the CIFAR family (ResNet20 to 56, ResNet18) and the ImageNet family.

    block(x) = relu(F(x) + shortcut(x))

The CIFAR family follows He et al. (2016), section 4.2, and names its parameters as most public
checkpoints do: `conv1`, `bn1`, `layer1.0.conv1`, ..., `linear`. The ImageNet family has
torchvision's parameter names and arithmetic: `conv1`, `bn1`, `layer1.0.downsample.0`, ..., `fc`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("batch", "layer", "group", "fixup")
SHORTCUTS = ("option_a", "projection")
CHANNELS_PER_GROUP = 4
"""Of a group normalisation."""


def _conv(c_in: int, c_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps the image's size at stride 1."""
    return nn.Conv2d(c_in, c_out, size, stride=stride, padding=size // 2, bias=False)


def _norm(kind: str, channels: int) -> nn.Module:
    """Return the normalisation `kind`; "fixup" networks have none."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "layer":
        return nn.GroupNorm(1, channels)
    if kind == "group":
        return nn.GroupNorm(max(1, channels // CHANNELS_PER_GROUP), channels)
    return nn.Identity()


class OptionAShortcut(nn.Module):
    """Take every second pixel and pad with zero channels, half before and half after."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (c_out - c_in) // 2
        self.after = c_out - c_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Return the shortcut's image."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


def _shortcut(kind: str, norm: str, c_in: int, c_out: int, stride: int) -> nn.Module:
    """Return the identity where shapes agree, else the shortcut of that `kind`."""
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    if kind == "option_a":
        return OptionAShortcut(c_in, c_out, stride)
    projection = _conv(c_in, c_out, 1, stride)
    if norm == "fixup":
        return nn.Sequential(projection)
    return nn.Sequential(projection, _norm(norm, c_out))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions, each followed by a normalisation, and a shortcut."""

    def __init__(self, c_in: int, c_out: int, stride: int, norm: str, shortcut: str) -> None:
        super().__init__()
        self.conv1 = _conv(c_in, c_out, 3, stride)
        self.bn1 = _norm(norm, c_out)
        self.conv2 = _conv(c_out, c_out, 3)
        self.bn2 = _norm(norm, c_out)
        self.shortcut = _shortcut(shortcut, norm, c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's activation."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class FixupBlock(nn.Module):
    """A block without normalisation: scalar biases around the convolutions and one multiplier.

        y = scale * conv2(relu(conv1(x + bias1a) + bias1b) + bias2a) + bias2b

    Source: Zhang, Dauphin and Ma (2019), figure 1, right.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.bias1a = nn.Parameter(torch.zeros(1))
        self.conv1 = _conv(c_in, c_out, 3, stride)
        self.bias1b = nn.Parameter(torch.zeros(1))
        self.bias2a = nn.Parameter(torch.zeros(1))
        self.conv2 = _conv(c_out, c_out, 3)
        self.scale = nn.Parameter(torch.ones(1))
        self.bias2b = nn.Parameter(torch.zeros(1))
        self.shortcut = _shortcut(shortcut, "fixup", c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's activation."""
        y = F.relu(self.conv1(x + self.bias1a) + self.bias1b)
        y = self.conv2(y + self.bias2a) * self.scale + self.bias2b
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """A ResNet for small images: a 3x3 stem, stages of basic blocks, mean over space, `linear`.

    Args:
        blocks: number of blocks of each stage; each stage after the first halves the image.
        channels: number of channels of each stage.
        norm: "batch", "layer" (over all channels and positions of a sample), "group" (over four
            channels) or "fixup" (none).
        shortcut: where shapes change: "option_a" (no parameters) or "projection" (1x1 convolution).
        in_channels: channels of the images: 3 for CIFAR, 1 for MNIST.
        classes: number of logits.

    Raises:
        ValueError: when `norm` or `shortcut` is unknown.

    Source: He et al. (2016), section 4.2; Fixup: Zhang et al. (2019).
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        channels: tuple[int, ...],
        *,
        norm: str = "batch",
        shortcut: str = "option_a",
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"`norm` must be one of {NORMS}, got {norm!r}")
        if shortcut not in SHORTCUTS:
            raise ValueError(f"`shortcut` must be one of {SHORTCUTS}, got {shortcut!r}")
        self.norm = norm
        self.conv1 = _conv(in_channels, channels[0], 3)
        self.bn1 = _norm(norm, channels[0])
        if norm == "fixup":
            self.bias1 = nn.Parameter(torch.zeros(1))
            self.bias2 = nn.Parameter(torch.zeros(1))
        self.stages = len(blocks)
        c_in = channels[0]
        for stage, (count, c_out) in enumerate(zip(blocks, channels, strict=True), start=1):
            layers: list[nn.Module] = []
            for i in range(count):
                stride = 2 if i == 0 and stage > 1 else 1
                if norm == "fixup":
                    layers.append(FixupBlock(c_in, c_out, stride, shortcut))
                else:
                    layers.append(CifarBlock(c_in, c_out, stride, norm, shortcut))
                c_in = c_out
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        self.linear = nn.Linear(c_in, classes)
        self._initialise(sum(blocks))

    def _initialise(self, blocks: int) -> None:
        """Draw the weights by Kaiming's rule; with Fixup, scale them by 1/sqrt(blocks) or zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if self.norm != "fixup":
            return
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, FixupBlock):
                    module.conv1.weight.mul_(1 / math.sqrt(blocks))
                    module.conv2.weight.zero_()
            self.linear.weight.zero_()
            self.linear.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, classes)."""
        x = self.conv1(x)
        x = F.relu(x + self.bias1 if self.norm == "fixup" else self.bn1(x))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        x = x.mean(dim=(2, 3))
        return self.linear(x + self.bias2 if self.norm == "fixup" else x)


def cifar_resnet(depth: int = 20, *, width: int = 1, **options) -> CifarResNet:
    """Return the three-stage CIFAR ResNet of `depth` 6n + 2 with 16, 32, 64 times `width` channels.

    Args:
        depth: number of layers with weights: 20, 32, 44, 56, ...
        width: multiplier of every stage's channels.
        options: `norm`, `shortcut`, `in_channels`, `classes`, as of `CifarResNet`.

    Raises:
        ValueError: when `depth` is not 6n + 2, or `width` is not positive.

    Example:
        >>> sum(p.numel() for p in cifar_resnet(20).parameters())
        269722
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"`depth` must be 6n + 2 (20, 32, 44, 56, ...), got {depth}")
    _check_width(width)
    return CifarResNet((depth // 6,) * 3, (16 * width, 32 * width, 64 * width), **options)


def resnet20(**options) -> CifarResNet:
    """Return a CIFAR ResNet20; options as of `cifar_resnet`."""
    return cifar_resnet(20, **options)


def resnet32(**options) -> CifarResNet:
    """Return a CIFAR ResNet32; options as of `cifar_resnet`."""
    return cifar_resnet(32, **options)


def resnet44(**options) -> CifarResNet:
    """Return a CIFAR ResNet44; options as of `cifar_resnet`."""
    return cifar_resnet(44, **options)


def resnet56(**options) -> CifarResNet:
    """Return a CIFAR ResNet56; options as of `cifar_resnet`."""
    return cifar_resnet(56, **options)


def cifar_resnet18(*, width: int = 1, shortcut: str = "projection", **options) -> CifarResNet:
    """Return the ResNet18 for small images: four stages of two blocks, 64 to 512 channels.

    Args:
        width: multiplier of every stage's channels.
        shortcut: "projection", or "option_a".
        options: `norm`, `in_channels`, `classes`, as of `CifarResNet`.

    Raises:
        ValueError: when `width` is not positive.
    """
    _check_width(width)
    channels = (64 * width, 128 * width, 256 * width, 512 * width)
    return CifarResNet((2, 2, 2, 2), channels, shortcut=shortcut, **options)


class BasicBlock(nn.Module):
    """ImageNet's block of two 3x3 convolutions (ResNet18 and 34)."""

    expansion = 1

    def __init__(self, c_in: int, planes: int, inner: int, stride: int) -> None:
        super().__init__()
        del inner  # Only the bottleneck has an inner width of its own.
        self.conv1 = _conv(c_in, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU()
        self.conv2 = _conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _downsample(c_in, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's activation."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """ImageNet's block of 1x1, 3x3, 1x1 convolutions (ResNet50 on); the 3x3 has the stride."""

    expansion = 4

    def __init__(self, c_in: int, planes: int, inner: int, stride: int) -> None:
        super().__init__()
        c_out = planes * self.expansion
        self.conv1 = _conv(c_in, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _conv(inner, inner, 3, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _conv(inner, c_out, 1)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU()
        self.downsample = _downsample(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's activation."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _downsample(c_in: int, c_out: int, stride: int) -> nn.Module | None:
    """Return the projection, or None where the identity serves."""
    if stride == 1 and c_in == c_out:
        return None
    return nn.Sequential(_conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))


class ImageNetResNet(nn.Module):
    """A ResNet for ImageNet, with torchvision's parameter names and arithmetic.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        blocks: number of blocks of each of the four stages.
        width: multiplier of every channel of the network, stem included (the paper's 50x2).
        width_per_group: torchvision's argument: 128 doubles only the inner channels of the
            bottlenecks (its `wide_resnet50_2`), on top of `width`.
        in_channels: channels of the images.
        classes: number of logits.

    Raises:
        ValueError: when `width` is not positive, or basic blocks get a `width_per_group`.

    Source: He et al. (2016), table 1, with the stride in the bottleneck's 3x3 convolution.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        *,
        width: int = 1,
        width_per_group: int = 64,
        in_channels: int = 3,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        _check_width(width)
        if width_per_group < 1 or (block is BasicBlock and width_per_group != 64):
            raise ValueError(
                "`width_per_group` must be positive, and 64 with basic blocks, "
                f"got {width_per_group}; `width` widens every layer"
            )
        c_in = 64 * width
        self.conv1 = nn.Conv2d(in_channels, c_in, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = []
        for stage, count in enumerate(blocks):
            planes = 64 * width * 2**stage
            inner = planes * width_per_group // 64
            layers: list[nn.Module] = []
            for i in range(count):
                layers.append(block(c_in, planes, inner, 2 if i == 0 and stage > 0 else 1))
                c_in = planes * block.expansion
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(c_in, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def imagenet_resnet18(**options) -> ImageNetResNet:
    """Return ImageNet's ResNet18; options as of `ImageNetResNet`."""
    return ImageNetResNet(BasicBlock, (2, 2, 2, 2), **options)


def imagenet_resnet50(**options) -> ImageNetResNet:
    """Return ImageNet's ResNet50; `width=2` is the paper's double-width 50x2.

    Example:
        >>> sum(p.numel() for p in imagenet_resnet50().parameters())
        25557032
    """
    return ImageNetResNet(Bottleneck, (3, 4, 6, 3), **options)


def _check_width(width: int) -> None:
    if width < 1:
        raise ValueError(f"`width` must be a positive multiplier, got {width}")
