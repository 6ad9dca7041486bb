"""VGG: layers, names, widths, refused arguments."""

import pytest
import torch
from torch import nn

from models.vgg import PLANS, VGG, vgg11, vgg16


@pytest.mark.parametrize("depth", sorted(PLANS))
@pytest.mark.parametrize("batch_norm", [False, True])
def test_depth_counts_the_convolutions_and_three_linear_layers(
    depth: int, batch_norm: bool
) -> None:
    model = VGG(depth, batch_norm=batch_norm, width=1 / 16).eval()
    kinds = [type(module) for module in model.features]
    assert kinds.count(nn.Conv2d) == depth - 3
    assert kinds.count(nn.BatchNorm2d) == (depth - 3 if batch_norm else 0)
    assert kinds.count(nn.MaxPool2d) == 5
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_names_are_torchvisions_positions() -> None:
    keys = list(vgg11(width=1 / 16).state_dict())
    convolutions = [key for key in keys if key.startswith("features") and key.endswith("weight")]
    positions = [int(key.split(".")[1]) for key in convolutions]
    assert positions == [0, 3, 6, 8, 11, 13, 16, 18]
    assert keys[-2:] == ["classifier.weight", "classifier.bias"]


def test_channels_classes_and_inputs_are_options() -> None:
    model = vgg16(width=1 / 8, in_channels=1, classes=3)
    assert model.features[0].weight.shape == (8, 1, 3, 3)
    assert model.classifier.weight.shape == (3, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 12}, "`depth` must be one of .* got 12"),
        ({"width": 0}, "`width` must be at least"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VGG(**options)
