"""Every network can be captured with a free batch size, and the captured one computes the same."""

import pytest
import torch
from torch import nn

from models import resnet, vgg
from models.mlp import MLP

FAMILIES = (
    {
        f"resnet8-{norm}-{shortcut}": (
            lambda norm=norm, shortcut=shortcut: resnet.cifar_resnet(
                8, norm=norm, shortcut=shortcut
            ),
            (3, 16, 16),
        )
        for norm in resnet.NORMS
        for shortcut in resnet.SHORTCUTS
    }
    | {
        f"vgg{depth}-{'bn' if bn else 'plain'}": (
            lambda depth=depth, bn=bn: vgg.VGG(depth, batch_norm=bn, width=1 / 16),
            (3, 32, 32),
        )
        for depth in (11, 13, 16, 19)
        for bn in (False, True)
    }
    | {
        "resnet20-grey": (lambda: resnet.resnet20(in_channels=1), (1, 28, 28)),
        "cifar_resnet18": (resnet.cifar_resnet18, (3, 16, 16)),
        "imagenet_resnet18": (resnet.imagenet_resnet18, (3, 64, 64)),
        "imagenet_resnet50": (resnet.imagenet_resnet50, (3, 64, 64)),
        "mlp": (lambda: MLP(3, 16), (1, 28, 28)),
        "mlp-no-bias": (lambda: MLP(widths=(20, 10), bias=False), (1, 28, 28)),
    }
)


@pytest.mark.parametrize("name", FAMILIES)
def test_network_can_be_exported_with_any_batch_size(name: str) -> None:
    make, shape = FAMILIES[name]
    model: nn.Module = make().eval()
    program = torch.export.export(
        model,
        (torch.randn(2, *shape),),
        dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}},
        strict=False,
    )
    x = torch.randn(3, *shape)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x))
    assert set(program.state_dict) == set(model.state_dict())
