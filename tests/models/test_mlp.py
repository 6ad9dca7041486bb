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


def test_every_hidden_layer_has_its_batch_norm_and_no_bias() -> None:
    state = MLP(depth=2, width=5, in_features=3, classes=4, batch_norm=True).state_dict()
    parameters = {key: tuple(value.shape) for key, value in state.items() if "running" not in key}
    assert parameters == {
        "fc1.weight": (5, 3),
        "bn1.weight": (5,),
        "bn1.bias": (5,),
        "bn1.num_batches_tracked": (),
        "fc2.weight": (5, 5),
        "bn2.weight": (5,),
        "bn2.bias": (5,),
        "bn2.num_batches_tracked": (),
        "fc3.weight": (4, 5),
        "fc3.bias": (4,),
    }


def test_fused_computes_the_same_without_batch_norms() -> None:
    model = MLP(depth=3, width=16, in_features=8, classes=4, batch_norm=True).double()
    with torch.no_grad():
        for norm in (model.bn1, model.bn2, model.bn3):
            norm.weight.normal_()
            norm.bias.normal_()
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.1, 2)
    x = torch.randn(32, 8, dtype=torch.float64)
    with torch.no_grad():
        trained = model(x)  # in training mode: the fused network is of the evaluation mode
        fused = model.fused()
        expected = model.eval()(x)
        torch.testing.assert_close(fused(x), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(trained, expected)
    assert list(fused.state_dict()) == list(MLP(3, 16, 8, 4).state_dict())
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in fused.modules())
    assert isinstance(model.bn1, torch.nn.BatchNorm1d)


def test_fused_without_batch_norms_is_an_equal_copy() -> None:
    model = MLP(depth=1, width=4, in_features=3, classes=2)
    fused = model.fused()
    assert fused is not model
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), fused.parameters(), strict=True)
    )


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
