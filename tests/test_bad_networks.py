"""Bad networks: an error of the package's family that names what differs or cannot be captured."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import repair_kernels as rk
from repair_kernels.errors import (
    ArchitectureMismatchError,
    CalibrationDataError,
    GraphCaptureError,
    NonFiniteWeightError,
)
from tests.networks import PLAIN
from tests.refusals import everywhere, images, refused, small

pytestmark = [
    pytest.mark.usefixtures("torch_backend"),
    pytest.mark.usefixtures("unchecked_annotations"),
]


# Pairs of networks


@everywhere
def test_networks_with_the_same_weights_but_other_operators(entry: Callable) -> None:
    a, b = small(0), small(1, act=nn.Tanh)
    with refused(ArchitectureMismatchError, "at 'relu' network a has .*relu.* b has .*tanh", a, b):
        entry(a, b, [images()])


@everywhere
def test_networks_with_other_options_of_a_layer(entry: Callable) -> None:
    a, b = (
        nn.Sequential(nn.Conv1d(1, 2, 2, dilation=d), nn.ReLU(), nn.AdaptiveAvgPool1d(1))
        for d in (1, 2)
    )
    with refused(ArchitectureMismatchError, "at 'conv1d' network a has", a, b):
        entry(a, b, [torch.ones(4, 1, 8)])


@everywhere
def test_a_network_with_more_layers(entry: Callable) -> None:
    a, b = small(0), nn.Sequential(*small(1), nn.ReLU())
    with refused(ArchitectureMismatchError, "of one architecture", a, b):
        entry(a, b, [images()])


@everywhere
def test_missing_keys(entry: Callable) -> None:
    a, b = small(0), small(1, bias=False)
    with refused(ArchitectureMismatchError, "same parameters.*only in a: 0.bias", a, b):
        entry(a, b, [images()])


@everywhere
def test_extra_keys(entry: Callable) -> None:
    a, b = small(0), nn.Sequential(*small(1), nn.Linear(2, 2))
    with refused(ArchitectureMismatchError, "same parameters.*only in b: 3.bias, 3.weight", a, b):
        entry(a, b, [images()])


@everywhere
def test_other_widths(entry: Callable) -> None:
    a, b = small(0), small(1, width=5)
    with refused(ArchitectureMismatchError, r"'0.weight' is \(4, 3\).*\(5, 3\) in network b", a, b):
        entry(a, b, [images()])


@everywhere
def test_other_dtypes(entry: Callable) -> None:
    a, b = small(0), small(1).double()
    with refused(ArchitectureMismatchError, "'0.weight' is torch.float32.*torch.float64", a, b):
        entry(a, b, [images()])


@everywhere
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(entry: Callable, value: float) -> None:
    a, b = small(0), small(1)
    with torch.no_grad():
        b[2].bias[1] = value
    with refused(NonFiniteWeightError, "'2.bias' of network b has NaN or infinity", a, b):
        entry(a, b, [images()])


@everywhere
def test_running_statistics_that_are_not_finite(entry: Callable) -> None:
    a, b = PLAIN.network(0), PLAIN.network(1)
    a[1].running_var[0] = float("nan")
    with refused(NonFiniteWeightError, "'1.running_var' of network a", a, b):
        entry(a, b, [PLAIN.inputs(2)])


# Models that cannot be exported


class Branching(nn.Module):
    """Takes another way for other values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else x


class FixedBatch(nn.Module):
    """Compares the batch with a number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.zeros(2, 3)[: x.shape[0]]


class OutsideTorch(nn.Module):
    """Leaves PyTorch on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[sum(row)] for row in self.fc(x).tolist()])


@everywhere
@pytest.mark.parametrize(
    ("model", "what_to_do"),
    [
        (Branching, "the forward must not branch on values: "),
        (FixedBatch, "the forward must not fix the batch size"),
        (OutsideTorch, "the forward must "),
    ],
)
def test_models_that_cannot_be_exported(
    entry: Callable, model: type[nn.Module], what_to_do: str
) -> None:
    a, b = model(), model()
    line = rf"{model.__name__}: at test_bad_networks.py:\d+, `return .+`: "
    with refused(GraphCaptureError, f"could not capture {line}.+; {what_to_do}", a, b):
        entry(a, b, [images()])


class TwoInputs(nn.Module):
    """Wants a mask as well."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.fc(x) * mask


@everywhere
def test_models_with_two_inputs(entry: Callable) -> None:
    a, b = TwoInputs(), TwoInputs()
    with refused(CalibrationDataError, "TypeError: .*missing 1 required.*'mask'", a, b):
        entry(a, b, [images()])


def test_trace_names_why_a_model_cannot_be_exported() -> None:
    model = Branching().train()
    with refused(GraphCaptureError, "could not capture Branching", model):
        rk.trace(model, images())
