"""The study of exactness changes networks as it says, and measures what reports say."""

import copy

import pytest
import torch

from bench import exactness
from models.mlp import MLP
from tests.networks import lively

pytestmark = pytest.mark.usefixtures("torch_backend")


def small_pair() -> exactness.Pair:
    a, b = (lively(MLP(4, 8, in_features=784, classes=10), seed).eval() for seed in (0, 1))
    return a, b


def test_a_shrunken_layer_has_small_variances_and_its_network_the_same_function() -> None:
    (model, _), x = small_pair(), exactness.calibration_images(100)
    changed = copy.deepcopy(model)
    exactness.shrink(changed, x)
    seen = []
    exactness.hidden(changed)[2].register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        torch.testing.assert_close(changed(x), model(x), rtol=1e-4, atol=1e-5)
    assert float(seen[0].double().var(dim=0).mean()) == pytest.approx(1e-7, rel=1e-3)


@pytest.mark.filterwarnings("ignore::repair_kernels.errors.CalibrationWarning")
def test_goals_are_measured_with_what_is_dead() -> None:
    pair = exactness.changed(small_pair(), exactness.kill)
    found = exactness.measure_goals(pair, exactness.calibration_images(120))
    assert found["taps"] == 4
    # Two of eight are dead; one may be matched with a channel that only its ReLU shuts.
    assert found["dead"] in (1, 2)
    assert max(found["sequential"].values()) <= 1e-3


def test_batches_change_next_to_nothing() -> None:
    found = exactness.measure_batches(small_pair(), exactness.calibration_images(60))
    assert list(found) == list(exactness.VARIANTS)
    for changes in found.values():
        assert list(changes) == list(exactness.BATCHES)
        assert max(changes.values()) < 1e-4
