"""REPAIR: corrected taps have the interpolated mean and std; nothing else is touched."""

import copy
import functools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import repair_kernels as rk
from repair_kernels.calibration import affine_to_goal, closed_form, goal
from repair_kernels.errors import ArgumentError, CalibrationDataError
from repair_kernels.folding import GraphNetwork
from tests import oracles
from tests.networks import FAMILIES, PLAIN, Family, assert_same, lively, snapshot

pytestmark = pytest.mark.usefixtures("torch_backend")
VARIANTS = ("forward", "closed_form", "sequential")
# Of the goal's std: what float32 weights and one float32 pass per layer can hold, with a margin
# for the depth; a wrong formula misses by tenths.
MET = 1e-3


def activations(model: nn.Module, inputs: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Return what these modules give to the rest of a network, in float64."""
    model, found = copy.deepcopy(model).double(), {}
    for name in names:
        keep = functools.partial(lambda name, *call: found.update({name: call[2].clone()}), name)
        model.get_submodule(name).register_forward_hook(keep)
    with torch.no_grad():
        model(inputs.double())
    return found


def without_norm(y: Tensor, norms: Sequence[nn.Module], alpha: float) -> Tensor:
    """Return what a BatchNorm with interpolated statistics reads when it gives `y`.

    A correction in front of a BatchNorm is folded into its statistics, so that it can be seen only
    behind it.
    """

    def mixed(name: str) -> Tensor:
        a, b = (getattr(norm, name).detach().double() for norm in norms)
        return ((1 - alpha) * a + alpha * b)[:, None, None]

    std = (mixed("running_var") + norms[0].eps).sqrt()
    return (y - mixed("bias")) / mixed("weight") * std + mixed("running_mean")


def assert_goals_met(
    model: nn.Module,
    ends: Sequence[nn.Module],
    inputs: Tensor,
    taps: dict[str, str | None],
    alpha: float,
    allowed: float = MET,
) -> None:
    """Assert eqs. 3 and 4 at `taps`; a tap's entry is the BatchNorm that reads it, or None."""
    seen = activations(model, inputs, [norm or tap for tap, norm in taps.items()])
    at_a, at_b = (activations(end, inputs, list(taps)) for end in ends)
    for tap, norm in taps.items():
        value = seen[norm or tap]
        if norm is not None:
            value = without_norm(value, [end.get_submodule(norm) for end in ends], alpha)
        mean, std = oracles.goal(at_a[tap], at_b[tap], alpha)
        live = std > 1e-6 * std.max()
        assert live.any(), tap
        values = oracles.rows(value, 1)[:, live]
        assert np.abs(values.mean(axis=0) - mean[live]).max() <= allowed * std[live].min(), tap
        assert np.abs(values.std(axis=0) / std[live] - 1).max() <= allowed, tap


def residual_taps(norm: str | None, shortcut: str | None = None) -> dict[str, str | None]:
    """Return the default taps of a CIFAR ResNet of three blocks, and what reads each."""
    taps = {"conv1": norm and "bn1"}
    for stage in ("layer1.0", "layer2.0", "layer3.0"):
        taps |= {f"{stage}.conv{i}": norm and f"{stage}.bn{i}" for i in (1, 2)}
        if shortcut and stage != "layer1.0":
            taps[f"{stage}.shortcut.0"] = f"{stage}.shortcut.1"
        taps[stage] = None
    return taps


TAPS: dict[str, dict[str, str | None]] = {
    "mlp": {"fc1": None, "fc2": None},
    "plain": {"0": "1", "3": "4"},
    "mlp_without_bias": {"fc1": None, "fc2": None},
    "vgg": {f"features.{i}": None for i in (0, 3, 6, 8, 11, 13, 16, 18)},
    "vgg_batch_norm": {f"features.{i}": f"features.{i + 1}" for i in (0, 4, 8, 11, 15, 18, 22, 25)},
    "resnet_option_a": residual_taps("batch"),
    "resnet_projection": residual_taps("batch", "projection"),
    "resnet_layer_norm": residual_taps(None),
    "resnet_fixup": residual_taps(None),
}


# Convolutions with bias and nothing behind them: the corrected values can be seen themselves.
BIASED = Family(
    lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)
    ),
    (3, 6, 6),
)
NETWORKS = {**FAMILIES, "plain": PLAIN, "biased": BIASED}


def pair(family: str) -> tuple[nn.Module, nn.Module]:
    return NETWORKS[family].network(0), NETWORKS[family].network(1)


def shifted(family: str, n: int, seed: int = 5) -> Tensor:
    """Return inputs whose mean is not 0, so that means matter as well as variances."""
    return NETWORKS[family].inputs(n, seed) * 0.8 + 0.5


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


def test_forward_normalises_by_the_batch_and_freezes_the_whole_pass() -> None:
    a, b = (model.double() for model in pair("mlp"))
    batches = [shifted("mlp", n, seed).double() for n, seed in ((30, 1), (50, 2), (7, 3))]
    fixed = rk.calibrate(a, b, batches, variant="forward")
    merged = rk.interpolate(a, b)
    inputs = torch.cat(batches)
    x, wanted = list(batches), rk.interpolate(a, b)
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


# Options


@pytest.mark.parametrize("variant", VARIANTS)
def test_given_statistics_give_what_computed_ones_do(variant: str) -> None:
    a, b = pair("plain")
    inputs = shifted("plain", 12)
    stats = rk.compute_stats(a, b, [inputs], taps="all", cross="all")
    given_ = rk.calibrate(a, b, [inputs], variant=variant, stats=stats)
    assert_same(snapshot(rk.calibrate(a, b, [inputs], variant=variant)), snapshot(given_))


def test_statistics_of_other_data_set_the_goals() -> None:
    a, b = pair("mlp")
    goals, inputs = shifted("mlp", 50, seed=8) * 3, shifted("mlp", 50, seed=9)
    stats = rk.compute_stats(a, b, [goals])
    fixed = rk.calibrate(a, b, [inputs], stats=stats, variant="sequential")
    mean, std = oracles.goal(*(activations(end, goals, ["fc2"])["fc2"] for end in (a, b)), 0.5)
    values = activations(fixed, inputs, ["fc2"])["fc2"].numpy()
    np.testing.assert_allclose(values.mean(axis=0), mean, atol=MET * std.min())
    np.testing.assert_allclose(values.std(axis=0), std, rtol=MET)


@pytest.mark.parametrize("taps", ["layer1.0", ["layer1.0"], ["layer1.0.relu_1"]])
def test_taps_are_named_by_activation_or_module(taps: object) -> None:
    a, b = pair("resnet_option_a")
    inputs = shifted("resnet_option_a", 20)
    fixed = rk.calibrate(a, b, [inputs], taps=taps, variant="sequential")
    assert_goals_met(fixed, (a, b), inputs, {"layer1.0": None}, 0.5)
    assert set(fixed.state_dict()) - set(a.state_dict()) == {
        "layer1.0.channel_affine.scale",
        "layer1.0.channel_affine.shift",
    }


def test_only_the_taps_asked_for_are_corrected() -> None:
    a, b = pair("biased")
    fixed = rk.calibrate(a, b, [shifted("biased", 20)], taps=["2"])
    merged = rk.interpolate(a, b).state_dict()
    changed = {n for n, t in fixed.state_dict().items() if not torch.equal(t, merged[n])}
    assert changed == {"2.weight", "2.bias"}


def test_no_taps_correct_nothing() -> None:
    a, b = pair("mlp")
    fixed = rk.calibrate(a, b, [shifted("mlp", 20)], taps=[])
    assert_same(snapshot(rk.interpolate(a, b)), snapshot(fixed))


def test_a_tap_inside_a_modules_forward_is_corrected_in_the_graph() -> None:
    a, b = pair("resnet_option_a")
    inputs = shifted("resnet_option_a", 30)
    fixed = rk.calibrate(a, b, [inputs], taps=["layer1.0.add"], variant="sequential")
    assert isinstance(fixed, GraphNetwork)
    sums = []
    for model in (a, b):
        seen = activations(model, inputs, ["layer1.0.bn2", "layer1.0.conv1", "bn1"])
        # The block's input is relu(bn1), as its shortcut is the identity.
        sums.append(seen["layer1.0.bn2"] + seen["bn1"].relu())
    mean, std = oracles.goal(*sums, 0.5)
    with torch.no_grad():
        below = rk.interpolate(a, b).double()
        merged = activations(below, inputs, ["layer1.0.bn2", "bn1"])
        x = oracles.rows(merged["layer1.0.bn2"] + merged["bn1"].relu(), 1)
        corrected = (x - x.mean(axis=0)) / x.std(axis=0) * std + mean
        y = torch.from_numpy(corrected).view(30, 8, 8, 4).permute(0, 3, 1, 2).relu()
        wanted = below.linear(below.layer3(below.layer2(y)).mean(dim=(2, 3)))
        torch.testing.assert_close(fixed(inputs).double(), wanted, rtol=1e-3, atol=1e-3)


def test_all_taps_may_be_corrected() -> None:
    a, b = pair("biased")
    inputs = shifted("biased", 20)
    fixed = rk.calibrate(a, b, [inputs], taps="all", variant="sequential")
    at_output = [end(inputs).detach() for end in (a, b)]
    mean, std = oracles.goal(*at_output, 0.5)
    output = fixed(inputs).detach().double().numpy()
    np.testing.assert_allclose(output.mean(axis=0), mean, atol=MET * std.min())
    np.testing.assert_allclose(output.std(axis=0), std, rtol=MET)


def test_n_samples_limits_the_images() -> None:
    a, b = pair("mlp")
    inputs = shifted("mlp", 50)
    few = rk.calibrate(a, b, [inputs[:20]], variant="sequential")
    limited = rk.calibrate(a, b, inputs.split(15), variant="sequential", n_samples=20)
    for name, tensor in few.named_parameters():
        torch.testing.assert_close(limited.get_parameter(name), tensor, rtol=1e-5, atol=1e-5)


def in_pairs(x: Tensor) -> list:
    return [(x[:30], torch.zeros(30)), [x[30:], None]]


def in_dicts(x: Tensor) -> list:
    return [{"image": x[:30], "label": 1}, {"image": x[30:], "label": 2}]


@pytest.mark.parametrize("wrap", [in_pairs, in_dicts, lambda x: x.split(30)])
def test_batches_come_as_users_have_them(wrap: Callable) -> None:
    a, b = pair("mlp")
    inputs = shifted("mlp", 50)
    wanted = rk.calibrate(a, b, DataLoader(TensorDataset(inputs), batch_size=30))
    assert_same(snapshot(wanted), snapshot(rk.calibrate(a, b, wrap(inputs))))


def test_the_closed_form_reads_the_data_once() -> None:
    a, b = pair("mlp")
    inputs = shifted("mlp", 40)
    from_list = rk.calibrate(a, b, inputs.split(16), variant="closed_form")
    from_iterator = rk.calibrate(a, b, iter(inputs.split(16)), variant="closed_form")
    assert_same(snapshot(from_list), snapshot(from_iterator))


@pytest.mark.parametrize("variant", ["forward", "sequential"])
def test_an_iterator_serves_where_statistics_are_given(variant: str) -> None:
    a, b = pair("mlp")
    inputs = shifted("mlp", 40)
    stats = rk.compute_stats(a, b, [inputs])
    wanted = rk.calibrate(a, b, inputs.split(16), variant=variant, stats=stats)
    found = rk.calibrate(a, b, iter(inputs.split(16)), variant=variant, stats=stats)
    assert_same(snapshot(wanted), snapshot(found))


@pytest.mark.parametrize("variant", ["forward", "sequential"])
def test_an_iterator_is_refused_where_the_data_is_read_twice(variant: str) -> None:
    a, b = pair("mlp")
    with pytest.raises(CalibrationDataError, match="pass a list or a DataLoader"):
        rk.calibrate(a, b, iter(shifted("mlp", 40).split(16)), variant=variant)


# What is left as it was


@pytest.mark.parametrize("variant", VARIANTS)
def test_networks_inputs_and_random_numbers_are_left_as_they_were(variant: str) -> None:
    a, b = pair("plain")
    a.train()
    a[1].eval()
    a[0].weight.requires_grad_(False)
    inputs = shifted("plain", 24)
    loader = DataLoader(TensorDataset(inputs), batch_size=10, shuffle=True)
    before = snapshot(a), snapshot(b), inputs.clone(), torch.get_rng_state()
    rk.calibrate(a, b, loader, variant=variant)
    assert_same(before[0], snapshot(a))
    assert_same(before[1], snapshot(b))
    assert torch.equal(inputs, before[2])
    assert torch.equal(torch.get_rng_state(), before[3])
    assert all(p.grad is None for p in a.parameters())
    assert not any(module._forward_hooks for module in a.modules())


def test_statistics_are_left_as_they_were() -> None:
    a, b = pair("mlp")
    inputs = shifted("mlp", 20)
    stats = rk.compute_stats(a, b, [inputs])
    before = {tap: copy.deepcopy(moments) for tap, moments in stats.items()}
    rk.calibrate(a, b, [inputs], stats=stats)
    for tap, moments in stats.items():
        assert torch.equal(moments.mean_a, before[tap].mean_a)
        assert torch.equal(moments.m2_b, before[tap].m2_b)


def test_the_same_call_gives_the_same_bits() -> None:
    a, b = pair("plain")
    inputs = shifted("plain", 24)
    first, second = (rk.calibrate(a, b, inputs.split(10)) for _ in range(2))
    assert_same(snapshot(first), snapshot(second))


# Bad input


def test_an_unknown_variant_is_named() -> None:
    known = "'forward', 'closed_form', 'sequential'; got 'backward'"
    with pytest.raises(ArgumentError, match=f"`variant` must be one of {known}"):
        rk.calibrate(*pair("mlp"), [shifted("mlp", 4)], variant="backward")


def test_an_unknown_tap_is_named() -> None:
    with pytest.raises(ArgumentError, match="'fc9' is none of them; choose from.*such as fc1"):
        rk.calibrate(*pair("mlp"), [shifted("mlp", 4)], taps=["fc9"])


def test_statistics_without_a_tap_are_refused() -> None:
    a, b = pair("mlp")
    stats = rk.compute_stats(a, b, [shifted("mlp", 4)], taps=["fc1"], cross=[])
    with pytest.raises(ArgumentError, match="'fc2' is missing; compute"):
        rk.calibrate(a, b, [shifted("mlp", 4)], stats=stats)


def test_statistics_of_other_widths_are_refused() -> None:
    a, b = pair("mlp")
    wide = [lively(FAMILIES["mlp_without_bias"].build(), seed) for seed in (0, 1)]
    stats = rk.compute_stats(*wide, [shifted("mlp", 4)])
    with pytest.raises(ArgumentError, match="tap 'fc1' has 8 channels, but 9 and 9 in `stats`"):
        rk.calibrate(a, b, [shifted("mlp", 4)], stats=stats)


def test_the_closed_form_needs_the_cross_moments() -> None:
    a, b = pair("mlp")
    stats = rk.compute_stats(a, b, [shifted("mlp", 4)], cross=[])
    with pytest.raises(ArgumentError, match=r"cov\(A, B\).*'fc1' was recorded without.*'all'"):
        rk.calibrate(a, b, [shifted("mlp", 4)], stats=stats, variant="closed_form")
