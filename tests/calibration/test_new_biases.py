"""Layers without a bias get one on request, and the network is a plain one again."""

import pytest
import torch
from torch import Tensor, nn

import repair_kernels as rk
from repair_kernels.calibration.explicit import GraphNetwork, attach
from repair_kernels.calibration.new_biases import give_biases
from repair_kernels.folding import fold
from repair_kernels.graph.network import state_of
from repair_kernels.graph.permutation import with_state
from tests.equivariance import Calls
from tests.folds import DOUBLE, affine, assert_equal_functions, explicitly
from tests.networks import lively

pytestmark = pytest.mark.usefixtures("torch_backend")

LAYERS = {
    "conv": (nn.Conv2d(3, 4, 3, bias=False), (3, 6, 6)),
    "padded conv": (nn.Conv2d(3, 4, 3, padding=1, bias=False), (3, 6, 6)),
    "grouped conv": (nn.Conv2d(4, 4, 3, groups=2, bias=False), (4, 6, 6)),
    "grouped transposed conv": (nn.ConvTranspose2d(4, 4, 3, groups=2, bias=False), (4, 6, 6)),
    "linear": (nn.Linear(5, 4, bias=False), (5,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_correction_with_a_new_bias_equals_the_explicit_one(name: str) -> None:
    layer, shape = LAYERS[name]
    model = lively(nn.Sequential(layer, nn.ReLU()), 0).double().eval()
    x = torch.randn(5, *shape, dtype=torch.float64)
    graph, correction = rk.trace(model, x), affine(4)
    state, explicit = fold(graph, state_of(model), {"0": correction})
    result = with_state(model, state)
    assert give_biases(result, graph, explicit) == {}
    assert list(result.state_dict()) == ["0.weight", "0.bias"]
    assert_equal_functions(result, explicitly(model, "0", correction), x, DOUBLE)


def test_no_bias_is_given_where_only_the_graph_can_run_the_network() -> None:
    def run(self: nn.Module, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y.tanh() * (y + y.sigmoid())

    model = lively(Calls(run, conv=nn.Conv2d(3, 4, 1, bias=False)), 0).double().eval()
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    graph = rk.trace(model, x)
    explicit = {"conv": affine(4, seed=1), "add": affine(4, seed=2)}
    assert give_biases(model, graph, explicit) == explicit
    assert isinstance(attach(model, graph, explicit), GraphNetwork)


def pair() -> tuple[nn.Module, nn.Module]:
    def build() -> nn.Module:
        layers = [nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 6, bias=False), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(6, 3))

    return lively(build(), 0), lively(build(), 1)


def test_a_network_repaired_with_biases_is_plain_and_computes_what_the_explicit_one_does() -> None:
    model_a, model_b = pair()
    data = [torch.randn(64, 4)]
    explicit = rk.repair(model_a, model_b, data, assess=False)
    plain = rk.repair(model_a, model_b, data, add_bias=True, assess=False)
    assert explicit.report.explicit
    assert not plain.report.explicit
    assert not any("channel_affine" in name for name in plain.model.state_dict())
    x = torch.randn(9, 4)
    torch.testing.assert_close(plain.model(x), explicit.model(x), rtol=1e-4, atol=1e-4)


def test_new_biases_pass_through_a_checkpoint() -> None:
    model_a, model_b = pair()
    merged = rk.calibrate(model_a, model_b, [torch.randn(64, 4)], add_bias=True)
    loaded = rk.load_merged(model_a, merged.state_dict())
    x = torch.randn(9, 4)
    assert torch.equal(loaded(x), merged(x))
    assert model_a[0].bias is None


def test_a_bias_of_a_layer_that_the_model_lacks_is_refused() -> None:
    model, _ = pair()
    with pytest.raises(rk.errors.ArchitectureMismatchError):
        rk.load_merged(model, {**model.state_dict(), "9.bias": torch.zeros(6)})
