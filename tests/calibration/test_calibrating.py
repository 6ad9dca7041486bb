"""REPAIR: corrected taps have the interpolated mean and std; nothing else is touched."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import repair_kernels as rk
from repair_kernels.calibration.goals import affine_to_goal, closed_form, goal, predicted_variance
from tests import oracles
from tests.goals import NETWORKS, TAPS, VARIANTS, activations, assert_goals_met, pair, shifted
from tests.networks import FAMILIES, assert_same, snapshot

pytestmark = [
    pytest.mark.usefixtures("torch_backend"),
    # These networks are not trained, so that a repair may well make their loss worse.
    pytest.mark.filterwarnings("ignore::repair_kernels.errors.CalibrationWarning"),
]


# The formulas


@settings(max_examples=50)
@given(st.floats(0, 1), st.integers(0, 1000))
def test_the_closed_form_is_equation_5(alpha: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    a, b = (
        s * shared + torch.randn(20, 4, generator=generator, dtype=torch.float64) + 3
        for s in (1, 0.5)
    )
    scale, shift = closed_form(moments_of(a, b), alpha)
    wanted = oracles.closed_form_scale(a, b, alpha)
    np.testing.assert_allclose(scale, wanted, rtol=1e-12)
    mean, _ = oracles.goal(a, b, alpha)
    np.testing.assert_allclose(scale.numpy() * mean + shift.numpy(), mean, rtol=1e-12)


@settings(max_examples=50)
@given(st.floats(0.05, 0.95), st.floats(-1, 1), st.floats(-3, 3))
def test_a_prediction_is_a_variance_however_alike_or_unlike_the_endpoints_are(
    alpha: float, mix: float, magnitude: float
) -> None:
    # The published form takes correlations of one tap and stds of another: NaN at 48 layers.
    a, noise = torch.randn(2, 20, 4, generator=torch.Generator().manual_seed(0)).double()
    b = 10**magnitude * (mix * a + (1 - abs(mix)) * noise)
    moments = moments_of(a, b)
    goal_var = goal(moments, alpha).std.square()
    assert (predicted_variance(moments, alpha) >= -1e-12 * goal_var).all()
    assert all(tensor.isfinite().all() for tensor in closed_form(moments, alpha))


@settings(max_examples=50)
@given(st.floats(0, 1), st.integers(0, 1000))
def test_a_forward_correction_gives_the_goals_of_equations_3_and_4(alpha: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b, x = 2 + torch.randn(3, 20, 4, generator=generator, dtype=torch.float64)
    seen = moments_of(x, x).a
    scale, shift = affine_to_goal(goal(moments_of(a, b), alpha), seen)
    corrected = (x * scale + shift).numpy()
    mean, std = oracles.goal(a, b, alpha)
    np.testing.assert_allclose(corrected.mean(axis=0), mean, rtol=1e-12)
    np.testing.assert_allclose(corrected.std(axis=0), std, rtol=1e-12)


def moments_of(a: Tensor, b: Tensor) -> rk.PairedMoments:
    sums = [torch.from_numpy(s) for x in (a, b) for s in oracles.channel_moments(x, 1)]
    return rk.PairedMoments(len(a), *sums, torch.from_numpy(oracles.cross(a, b, 1)))


def test_channels_that_are_dead_in_both_networks_are_left_alone() -> None:
    a, b = torch.randn(2, 30, 3, dtype=torch.float64)
    a[:, 1], b[:, 1] = 5.0, 7.0
    moments = moments_of(a, b)
    for scale, shift in (closed_form(moments, 0.5), affine_to_goal(goal(moments, 0.5), moments.a)):
        assert (scale[1], shift[1]) == (1, 0)
        assert (scale[[0, 2]] != 1).all()


def test_a_channel_that_is_dead_in_the_merged_network_alone_is_left_alone() -> None:
    a, b = torch.randn(2, 30, 2, dtype=torch.float64)
    merged = torch.randn(30, 2, dtype=torch.float64)
    merged[:, 0] = 1.0
    scale, shift = affine_to_goal(goal(moments_of(a, b), 0.5), moments_of(merged, merged).a)
    assert (scale[0], shift[0]) == (1, 0)


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_the_closed_form_leaves_channels_that_cancel_alone(alpha: float) -> None:
    a = torch.randn(30, 2, dtype=torch.float64)
    scale, shift = closed_form(moments_of(a, -a * (1 - alpha) / alpha), alpha)
    assert scale.tolist() == [1, 1]
    assert shift.tolist() == [0, 0]


# Networks: goals are met


@pytest.mark.parametrize("family", TAPS)
def test_sequential_meets_the_goals_on_the_whole_calibration_set(family: str) -> None:
    a, b = pair(family)
    inputs = shifted(family, 45)
    # Three batches, the last one ragged.
    fixed = rk.calibrate(a, b, inputs.split(20), variant="sequential")
    assert_goals_met(fixed, (a, b), inputs, TAPS[family], 0.5)


@pytest.mark.parametrize("family", ["mlp", "plain"])
def test_forward_meets_the_goals_on_one_batch(family: str) -> None:
    a, b = pair(family)
    inputs = shifted(family, 40)
    fixed = rk.calibrate(a, b, [inputs], variant="forward")
    assert_goals_met(fixed, (a, b), inputs, TAPS[family], 0.5)


@pytest.mark.parametrize("alpha", [0.1, 0.75])
def test_goals_are_those_of_alpha(alpha: float) -> None:
    a, b = pair("mlp")
    inputs = shifted("mlp", 60)
    fixed = rk.calibrate(a, b, [inputs], alpha=alpha, variant="sequential")
    assert_goals_met(fixed, (a, b), inputs, TAPS["mlp"], alpha)


@pytest.mark.parametrize(("family", "first"), [("mlp", "fc1"), ("biased", "0")])
@pytest.mark.parametrize("alpha", [0.3, 0.5])
def test_the_closed_form_is_exact_at_the_first_layer(family: str, first: str, alpha: float) -> None:
    a, b = (model.double() for model in pair(family))
    inputs = shifted(family, 40).double()
    fixed = rk.calibrate(a, b, [inputs], alpha=alpha, variant="closed_form")
    assert_goals_met(fixed, (a, b), inputs, {first: None}, alpha, allowed=1e-9)


def test_forward_normalises_by_the_piece_and_freezes_the_whole_pass(monkeypatch) -> None:
    monkeypatch.setattr("repair_kernels.batches.PIECE_IMAGES", 30)
    a, b = (model.double() for model in pair("mlp"))
    # Pieces of 30 images, and what remains, wherever the data's own batches end.
    batches = shifted("mlp", 100).double().split([30, 30, 40])
    fixed = rk.calibrate(a, b, torch.cat(batches).split(13), variant="forward")
    merged = rk.interpolate(a, b)
    inputs = torch.cat(batches)
    x, wanted = batches, rk.interpolate(a, b)
    for tap in ("fc1", "fc2"):
        mean, std = oracles.goal(
            *(activations(end, inputs, [tap])[tap] for end in (a, b)), alpha=0.5
        )
        mean, std = torch.from_numpy(mean), torch.from_numpy(std)
        layer, seen = wanted.get_submodule(tap), [merged.get_submodule(tap)(batch) for batch in x]
        pooled = torch.cat(seen).detach()
        scale = std / pooled.std(dim=0, correction=0)
        layer.weight.data *= scale[:, None]
        layer.bias.data = (layer.bias.data - pooled.mean(dim=0)) * scale + mean
        # What follows sees each batch normalised by its own statistics.
        x = [((y - y.mean(0)) / y.std(0, correction=0) * std + mean).detach().relu() for y in seen]
    for name, tensor in fixed.named_parameters():
        torch.testing.assert_close(tensor, wanted.get_parameter(name), rtol=1e-9, atol=1e-9)


def test_a_ragged_split_of_the_data_changes_nothing_for_sequential() -> None:
    a, b = (model.double() for model in pair("plain"))
    inputs = shifted("plain", 30).double()
    whole = rk.calibrate(a, b, [inputs], variant="sequential").state_dict()
    for name, tensor in rk.calibrate(
        a, b, inputs.split([16, 13, 1]), variant="sequential"
    ).named_parameters():
        torch.testing.assert_close(tensor, whole[name].view_as(tensor), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_last_batch_of_one_image_is_no_trouble(variant: str) -> None:
    a, b = pair("mlp")
    fixed = rk.calibrate(a, b, shifted("mlp", 21).split(20), variant=variant)
    assert all(tensor.isfinite().all() for tensor in fixed.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_calibrating_a_network_with_itself_changes_nothing(variant: str) -> None:
    model = NETWORKS["plain"].network(0).double()
    inputs = shifted("plain", 20).double()
    fixed = rk.calibrate(model, model, [inputs], variant=variant)
    with torch.no_grad():
        before, after = model(inputs), fixed(inputs)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-9 * before.abs().max().item())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("alpha", [0, 1])
def test_the_ends_are_the_networks_bit_for_bit(variant: str, alpha: int) -> None:
    a, b = pair("plain")
    end = rk.calibrate(a, b, [shifted("plain", 4)], alpha=alpha, variant=variant)
    assert_same(snapshot(end), snapshot((a, b)[alpha]))


# Hard channels


@pytest.mark.parametrize("variant", VARIANTS)
def test_dead_channels_do_not_blow_up(variant: str) -> None:
    a, b = pair("biased")
    with torch.no_grad():
        for model, dead in ((a, [0, 1]), (b, [1, 2])):
            model[2].weight[dead] = 0
    inputs = shifted("biased", 30)
    fixed = rk.calibrate(a, b, [inputs], variant=variant)
    merged = rk.interpolate(a, b)
    assert torch.equal(fixed[2].weight[1], merged[2].weight[1])
    assert torch.equal(fixed[2].bias[1], merged[2].bias[1])
    assert fixed(inputs).isfinite().all()
    largest = max(end(inputs).abs().max().item() for end in (a, b))
    assert fixed(inputs).abs().max() < 10 * largest


@pytest.mark.parametrize("variant", ["forward", "sequential"])
def test_goals_are_met_where_variances_are_1e_7(variant: str) -> None:
    a, b = pair("resnet_option_a")
    inputs = FAMILIES["resnet_option_a"].inputs(40)
    with torch.no_grad():
        for model in (a, b):
            model.conv1.weight.mul_(2e-4)
            model.bn1.running_var.mul_(1e-7)
    variances = activations(a, inputs, ["conv1"])["conv1"].var(dim=(0, 2, 3))
    assert ((variances > 1e-9) & (variances < 1e-6)).all()
    fixed = rk.calibrate(a, b, [inputs], variant=variant)
    assert_goals_met(fixed, (a, b), inputs, {"conv1": "bn1", "layer1.0": None}, 0.5)


def test_half_precision_networks_are_calibrated() -> None:
    a, b = (model.bfloat16() for model in pair("mlp"))
    inputs = shifted("mlp", 60).bfloat16()
    fixed = rk.calibrate(a, b, [inputs], variant="sequential")
    assert {t.dtype for t in fixed.parameters()} == {torch.bfloat16}
    # bfloat16 keeps 8 bits: each of three layers rounds weights and values by 2^-9.
    assert_goals_met(fixed, (a, b), inputs, {"fc1": None}, 0.5, allowed=2**-5)
