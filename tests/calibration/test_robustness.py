"""What a calibration must survive, and what it must say: hard channels, networks and data."""

import copy

import pytest
import torch
from torch import Tensor, nn

import repair_kernels as rk
from models.mlp import MLP
from repair_kernels.calibration.variants import VARIANTS
from repair_kernels.errors import CalibrationDataError, CalibrationWarning
from tests.goals import pair, shifted
from tests.merging import mlps
from tests.networks import PLAIN, assert_same, lively, snapshot

# Random networks: whether a correction makes their loss worse means nothing but where it is tested.
pytestmark = [
    pytest.mark.usefixtures("torch_backend"),
    pytest.mark.filterwarnings(
        "ignore:the correction made:repair_kernels.errors.CalibrationWarning"
    ),
]
MEASURED = ("forward", "sequential")
MET = 1e-3


# Batches


@pytest.mark.parametrize("variant", VARIANTS)
def test_results_do_not_depend_on_the_size_of_batches(variant: str, monkeypatch) -> None:
    monkeypatch.setattr("repair_kernels.batches.PIECE_IMAGES", 100)  # More than one piece.
    a, b = (model.double() for model in pair("plain"))
    x = shifted("plain", 520).double()
    wanted = rk.calibrate(a, b, [x], variant=variant)
    for size in (1, 7, 64, 499, 500):
        found = rk.calibrate(a, b, x.split(size), variant=variant)
        for name, tensor in found.state_dict().items():
            # Sums of float64 in another order.
            torch.testing.assert_close(tensor, wanted.state_dict()[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", ["forward", "sequential", "distilled"])
def test_neither_do_those_of_matching_and_repair_together(variant: str, monkeypatch) -> None:
    monkeypatch.setattr("repair_kernels.batches.PIECE_IMAGES", 100)
    a, b = (model.double() for model in pair("plain"))
    x = shifted("plain", 260).double()
    wanted = rk.repair(a, b, [x], variant=variant)
    for size in (1, 64):
        found = rk.repair(a, b, x.split(size), variant=variant)
        assert found.permutations == wanted.permutations
        for name, tensor in found.model.state_dict().items():
            expected = wanted.model.state_dict()[name]
            torch.testing.assert_close(tensor, expected, rtol=1e-9, atol=1e-9)


# Networks


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("alpha", [0, 1])
def test_alpha_0_and_1_give_the_endpoints_to_the_bit(variant: str, alpha: int) -> None:
    a, b, x = PLAIN.network(0), PLAIN.network(1), PLAIN.inputs(12)
    result = rk.repair(a, b, [x], alpha=alpha, variant=variant)
    permuted = rk.permute(b, rk.trace(a, x).groups, result.permutations)
    assert_same(snapshot((a, permuted)[alpha]), snapshot(result.model))
    assert (result.report.corrected, result.report.exactness) == ((), {})


@pytest.mark.parametrize("variant", ["closed_form", "distilled", *MEASURED])
def test_endpoints_that_are_equal_give_the_endpoint(variant: str) -> None:
    a, x = PLAIN.network(0), PLAIN.inputs(40)
    result = rk.repair(a, copy.deepcopy(a), x.split(16), variant=variant)
    with torch.no_grad():
        wanted = a(x)
        # Statistics in float32 are known to 1e-6 of a std.
        torch.testing.assert_close(result.model(x), wanted, rtol=0, atol=1e-5 * wanted.abs().max())
    assert result.report.returned == "corrected"
    if variant != "closed_form":
        assert result.report.worst().std <= MET


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_endpoints_of_very_different_scale_are_repaired(variant: str, factor: float) -> None:
    a, b = pair("plain")
    with torch.no_grad():  # BatchNorms take the scale back: b computes what it did.
        for conv, norm in ((b[0], b[1]), (b[3], b[4])):
            conv.weight.mul_(factor)
            conv.bias.mul_(factor)
            norm.running_mean.mul_(factor)
            norm.running_var.add_(norm.eps).mul_(factor**2).sub_(norm.eps).clamp_min_(0)
    x = shifted("plain", 60)
    result = rk.repair(a, b, [x], variant=variant, on_worse="warn")
    assert result.model(x).isfinite().all()
    if variant == "sequential":
        assert result.report.worst().mean <= MET
        assert result.report.worst().std <= MET


@pytest.mark.parametrize("variant", ["closed_form", "distilled", *MEASURED])
def test_fifty_layers_give_no_nan(variant: str) -> None:
    a, b = (lively(MLP(50, 10, in_features=12, classes=4), seed).eval() for seed in (0, 1))
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(2)) + 0.5
    result = rk.repair(a, b, x.split(80), variant=variant, on_worse="warn", verify=False)
    with torch.no_grad():
        assert result.model(x).isfinite().all()
    assert all(tensor.isfinite().all() for tensor in result.model.parameters())
    report = result.report
    assert len(report.exactness) == 50
    if variant == "sequential":
        assert report.worst().mean <= MET
        assert report.worst().std <= MET
    if variant == "closed_form":
        assert any("premise fails" in line for line in report.warnings)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_of_16_bits_stay_so_and_meet_their_goals_as_far_as_they_can(
    variant: str, dtype: torch.dtype
) -> None:
    a, b = (model.to(dtype) for model in pair("plain"))
    x = shifted("plain", 40).to(dtype)
    result = rk.repair(a, b, x.split(16), variant=variant, on_worse="warn", verify=False)
    assert {t.dtype for t in result.model.parameters()} == {dtype}
    assert result.model(x).isfinite().all()
    if variant == "sequential":
        # A running variance is stored to half a step of its type, a value likewise, for two layers.
        steps = 4 * torch.finfo(dtype).eps
        assert result.report.worst().mean <= steps
        assert result.report.worst().std <= steps


# Channels


@pytest.mark.parametrize("variant", VARIANTS)
def test_dead_channels_do_no_harm(variant: str) -> None:
    a, b = pair("plain")
    with torch.no_grad():
        for model, dead in ((a, [0, 1]), (b, [1, 2])):
            model[0].weight[dead] = 0
    x = shifted("plain", 60)
    fixed = rk.calibrate(a, b, [x], variant=variant)
    with torch.no_grad():
        largest = max(end(x).abs().max() for end in (a, b))
        assert fixed(x).abs().max() < 10 * largest


@pytest.mark.parametrize("variant", ["distilled", *MEASURED])
def test_goals_are_met_at_variances_of_1e_7(variant: str) -> None:
    a, b = pair("plain")
    x = shifted("plain", 60)
    with torch.no_grad():
        for model in (a, b):
            model[0].weight.mul_(3e-4)
            model[0].bias.mul_(3e-4)
            model[1].running_mean.mul_(3e-4)
            model[1].running_var.mul_(1e-7)
    stats = rk.compute_stats(a, b, [x], taps=["0"], cross=[])
    assert ((stats["0"].var_a > 1e-9) & (stats["0"].var_a < 1e-6)).all()
    report = rk.repair(a, b, [x], variant=variant, on_worse="warn").report
    if variant == "distilled":  # It is after answers, and leaves its goals for them.
        assert report.losses.corrected < report.losses.aligned
        return
    assert report.worst().std <= MET
    assert report.worst().mean <= MET


# Data


@pytest.mark.parametrize("variant", ["closed_form", *MEASURED])
def test_one_sample_has_no_standard_deviation(variant: str) -> None:
    a, b, x = mlps()
    with pytest.raises(CalibrationDataError, match="two samples at least; tap 'fc1' saw 1; cal"):
        rk.calibrate(a, b, [x[:1]], variant=variant)


def test_fewer_samples_than_channels_are_said_to_be_few() -> None:
    a, b, x = mlps()
    said = "tap '.*' saw 7 samples of 8 channels.*chance; calibrate with more images"
    with pytest.warns(CalibrationWarning, match=said):
        rk.repair(a, b, [x[:7]], assess=False)
    rk.repair(a, b, [x[:8]], assess=False)  # Warnings are errors here.


def labelled(classes: int) -> list[tuple[Tensor, Tensor]]:
    x = mlps()[2]
    return [(x[:30], torch.arange(30) % classes), (x[30:], torch.arange(10) % classes)]


def test_a_calibration_set_of_one_class_is_said_to_be_one() -> None:
    a, b, _ = mlps()
    with pytest.warns(CalibrationWarning, match="labels of the calibration data are one class"):
        result = rk.repair(a, b, labelled(1), on_worse="warn")
    assert "one class" in str(result.report)
    assert "one class" not in str(rk.repair(a, b, labelled(2), on_worse="warn").report)


class Constant(nn.Module):
    """A network whose hidden layer is cut off: everything behind is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


@pytest.mark.parametrize("variant", ["closed_form", *MEASURED])
def test_a_layer_that_is_dead_altogether_is_left_alone(variant: str) -> None:
    a, b = (lively(Constant(), seed) for seed in (0, 1))
    with torch.no_grad():
        for model in (a, b):
            model.fc2.weight.zero_()
    x = torch.randn(40, 5)
    result = rk.repair(a, b, [x], variant=variant, on_worse="warn")
    assert result.model(x).isfinite().all()
    assert result.report.exactness["fc2"].dead == 6
    assert result.report.dead_channels["fc2"] == 6
