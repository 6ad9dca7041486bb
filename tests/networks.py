"""Small networks of every family in `models/`, with weights that leave nothing at rest."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.mlp import MLP
from models.resnet import BasicBlock, Bottleneck, CifarResNet, ImageNetResNet
from models.vgg import VGG


@dataclass(frozen=True)
class Family:
    """One kind of network, tiny, and the shape of one input."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def network(self, seed: int) -> nn.Module:
        """Return a network with random weights, biases, norms and running statistics."""
        return lively(self.build(), seed).eval()

    def inputs(self, n: int, seed: int = 0) -> Tensor:
        """Return a batch of n random inputs."""
        return torch.randn(n, *self.shape, generator=torch.Generator().manual_seed(seed))


def _cifar(**options) -> Family:
    return Family(lambda: CifarResNet((1, 1, 1), (4, 8, 12), classes=5, **options), (3, 8, 8))


def plain_batch_norm() -> nn.Sequential:
    """Return two convolutions with BatchNorm: the smallest network with all kinds of tensors."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


PLAIN = Family(plain_batch_norm, (3, 6, 6))
FAMILIES = {
    "mlp": Family(lambda: MLP(2, 8, in_features=12, classes=5), (12,)),
    "mlp_without_bias": Family(lambda: MLP(widths=(9, 7), in_features=12, bias=False), (12,)),
    "vgg": Family(lambda: VGG(11, width=1 / 16, classes=5), (3, 32, 32)),
    "vgg_batch_norm": Family(
        lambda: VGG(11, width=1 / 16, batch_norm=True, classes=5), (3, 32, 32)
    ),
    "resnet_option_a": _cifar(),
    "resnet_projection": _cifar(shortcut="projection"),
    "resnet_layer_norm": _cifar(norm="layer"),
    "resnet_fixup": _cifar(norm="fixup"),
    "imagenet_basic": Family(
        lambda: ImageNetResNet(BasicBlock, (1, 1, 1, 1), classes=5), (3, 32, 32)
    ),
    "imagenet_bottleneck": Family(
        lambda: ImageNetResNet(Bottleneck, (1, 1, 1, 1), classes=5), (3, 32, 32)
    ),
}


def lively(model: nn.Module, seed: int) -> nn.Module:
    """Draw every parameter and running statistic anew, so that no channel is zero or neutral."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            drawn = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                drawn = 0.5 + drawn.square()
            elif tensor.dim() > 1:
                drawn *= (2 / tensor[0].numel()) ** 0.5
            elif name.endswith(("weight", "scale")):
                drawn = 1 + 0.2 * drawn
            else:
                drawn *= 0.3
            tensor.copy_(drawn)
    return model


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all that a caller could see changed in a model, modes included."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    grads = [p.requires_grad for p in model.parameters()]
    return {**state, "modes": torch.tensor(modes), "requires_grad": torch.tensor(grads)}


def assert_same(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    """Assert that two snapshots are equal bit for bit, NaN included."""
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=0, equal_nan=True, msg=name)
