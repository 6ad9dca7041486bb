"""What two networks and their data are refused for before anything is computed, in words."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repair_kernels.endpoints import check_input, choose_device
from repair_kernels.errors import (
    ArchitectureMismatchError,
    ArgumentError,
    CalibrationDataError,
    GraphCaptureError,
    NonFiniteWeightError,
)
from repair_kernels.statistics.collecting import compute_stats
from tests.equivariance import Calls
from tests.networks import assert_same, snapshot

pytestmark = pytest.mark.usefixtures("torch_backend")


class Perceptron(nn.Module):
    def __init__(self, width: int = 5, act: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, width)
        self.fc2 = nn.Linear(width, 4)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_bad_weight_is_named_by_network_and_tensor(bad):
    a, b = Perceptron(), Perceptron()
    with torch.no_grad():
        b.fc2.bias[1] = bad
    with pytest.raises(NonFiniteWeightError, match=r"'fc2\.bias' of network b has NaN or inf"):
        compute_stats(a, b, [torch.randn(4, 3)])


def test_parameters_of_one_network_only_are_named():
    other = nn.Sequential(nn.Linear(3, 5))
    with pytest.raises(
        ArchitectureMismatchError, match=r"only in a: fc1\.bias.*only in b: 0\.bias"
    ):
        compute_stats(Perceptron(), other, [torch.randn(4, 3)])


def test_the_first_tensor_of_another_shape_is_named_with_both_shapes():
    with pytest.raises(ArchitectureMismatchError, match=r"'fc1\.weight' is \(5, 3\).*\(6, 3\)"):
        compute_stats(Perceptron(5), Perceptron(6), [torch.randn(4, 3)])


def test_networks_of_the_same_tensors_and_other_operators_are_refused():
    with pytest.raises(ArchitectureMismatchError, match=r"at 'relu' .*aten\.relu.*aten\.gelu"):
        compute_stats(Perceptron(act=F.relu), Perceptron(act=F.gelu), [torch.randn(4, 3)])


def test_inputs_that_the_network_refuses_are_named_by_shape():
    with pytest.raises(CalibrationDataError, match=r"refuses an input of shape \(4, 7\)"):
        compute_stats(Perceptron(), Perceptron(), [torch.randn(4, 7)])


def test_inputs_of_another_dtype_are_refused_by_it():
    with pytest.raises(CalibrationDataError, match="and torch.int64: RuntimeError"):
        compute_stats(Perceptron(), Perceptron(), [torch.ones(4, 3, dtype=torch.int64)])


def test_a_later_batch_of_another_shape_is_named_by_number():
    with pytest.raises(CalibrationDataError, match=r"batch 1 has \(4, 2\)"):
        compute_stats(Perceptron(), Perceptron(), [torch.randn(4, 3), torch.randn(4, 2)])


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 3)]])
def test_no_images_are_refused(batches):
    with pytest.raises(CalibrationDataError, match="must hold at least one"):
        compute_stats(Perceptron(), Perceptron(), batches)


def test_a_network_that_cannot_be_captured_is_refused():
    def branch(self: nn.Module, x: Tensor) -> Tensor:
        return self.fc(x if x.sum() > 0 else -x)

    a, b = (Calls(branch, fc=nn.Linear(3, 4)) for _ in "ab")
    with pytest.raises(GraphCaptureError, match="could not capture Calls"):
        compute_stats(a, b, [torch.randn(4, 3)])


def test_a_network_of_another_dtype_is_refused_by_both_dtypes():
    with pytest.raises(ArchitectureMismatchError, match=r"'fc1\.weight' is .*float32.*float64"):
        compute_stats(Perceptron(), Perceptron().double(), [torch.randn(4, 3)])


@pytest.mark.parametrize("kind", ["written", "assigned"])
def test_a_network_that_counts_its_calls_counts_none_of_ours(kind):
    def run(self: nn.Module, x: Tensor) -> Tensor:
        if kind == "written":
            self.count.add_(1)
        else:
            self.count = self.count + 1
        return self.fc(x)

    a, b = (Calls(run, fc=nn.Linear(3, 4)) for _ in "ab")
    for model in (a, b):
        model.register_buffer("count", torch.zeros(()))
    before = snapshot(a), snapshot(b)
    compute_stats(a, b, [torch.randn(4, 3)])
    assert_same(before[0], snapshot(a))
    assert_same(before[1], snapshot(b))


def test_checking_an_input_leaves_modes_as_they_are():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train()
    model[1].eval()
    before = snapshot(model)
    check_input(model, torch.randn(4, 3))
    with pytest.raises(CalibrationDataError):
        check_input(model, torch.randn(4, 2))
    assert_same(before, snapshot(model))


def test_an_empty_batch_is_no_input_to_judge():
    check_input(nn.Linear(3, 4), torch.zeros(0, 7))


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "cpu:x"])
def test_a_device_that_this_machine_lacks_is_refused_by_name(device: str) -> None:
    with pytest.raises(ArgumentError, match=f"`device` must name a device.*{device}"):
        choose_device(device, nn.Linear(1, 1))


def test_the_models_own_device_is_the_default() -> None:
    assert choose_device(None, nn.Linear(1, 1, device="meta")).type == "meta"
