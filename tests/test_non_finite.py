"""Activations that are not finite are named by network, tap and batch."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repair_kernels.errors import NonFiniteActivationError
from repair_kernels.statistics.collecting import compute_stats

pytestmark = pytest.mark.usefixtures("torch_backend")


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, 5)
        self.fc2 = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_input_is_named_by_network_tap_and_batch(bad):
    batches = [torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3)]
    batches[1][2, 0] = bad
    with pytest.raises(NonFiniteActivationError, match="network a .* tap 'fc1' in batch 1"):
        compute_stats(Perceptron(), Perceptron(), batches)


def test_an_overflow_is_named_by_network_tap_and_batch():
    a, b = Perceptron(), Perceptron()
    with torch.no_grad():
        b.fc1.weight.fill_(1e30)
        b.fc2.weight.fill_(1e30)
    batches = [torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(4, 3)]
    with pytest.raises(NonFiniteActivationError, match="network b .* tap 'fc2' in batch 2"):
        compute_stats(a, b, batches)
