"""MLPs: names, shapes, refused arguments."""

import pytest
import torch

from models.mlp import MLP


def test_depth_counts_the_hidden_layers() -> None:
    model = MLP(depth=10, width=16)
    assert [name for name, _ in model.named_children()] == [f"fc{i}" for i in range(1, 12)]
    assert model(torch.randn(3, 1, 28, 28)).shape == (3, 10)


def test_widths_without_bias_have_the_names_of_public_checkpoints() -> None:
    state = MLP(widths=(400, 200, 100), bias=False).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "fc1.weight": (400, 784),
        "fc2.weight": (200, 400),
        "fc3.weight": (100, 200),
        "fc4.weight": (10, 100),
    }


def test_no_hidden_layer_is_a_linear_map() -> None:
    model = MLP(depth=0, width=1, in_features=4, classes=2)
    x = torch.randn(5, 4)
    assert torch.equal(model(x), model.fc1(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either `depth` and `width`, or `widths`"),
        ({"depth": 1}, "give either"),
        ({"depth": 1, "width": 2, "widths": (2,)}, "give either"),
        ({"depth": -1, "width": 2}, "`depth` must not be negative"),
        ({"depth": 1, "width": 0}, "`width` must be positive"),
        ({"widths": (4, 0)}, r"`widths` must be positive, got \(4, 0\)"),
    ],
)
def test_bad_sizes_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP(**options)
