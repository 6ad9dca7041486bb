"""The options of `calibrate`, what it refuses, and what it leaves as it was."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import repair_kernels as rk
from repair_kernels.calibration.explicit import GraphNetwork
from repair_kernels.errors import ArgumentError, CalibrationDataError
from repair_kernels.statistics.collecting import collect
from tests import oracles
from tests.goals import (
    MET,
    VARIANTS,
    activations,
    assert_goals_met,
    pair,
    shifted,
)
from tests.merging import Counted
from tests.networks import FAMILIES, assert_same, lively, snapshot

pytestmark = [
    pytest.mark.usefixtures("torch_backend"),
    # These networks are not trained, so that a repair may well make their loss worse.
    pytest.mark.filterwarnings("ignore::repair_kernels.errors.CalibrationWarning"),
]


# Options


@pytest.mark.parametrize("variant", VARIANTS)
def test_given_statistics_give_what_computed_ones_do(variant: str) -> None:
    a, b = pair("plain")
    inputs = shifted("plain", 12)
    stats = rk.compute_stats(a, b, [inputs], taps="all", cross="all")
    given_ = snapshot(rk.calibrate(a, b, [inputs], variant=variant, stats=stats))
    computed = snapshot(rk.calibrate(a, b, [inputs], variant=variant))
    if variant != "closed_form":
        assert_same(computed, given_)
        return
    # Computed ones are of paired channels alone: float32 sums in another order than the matrix's.
    for name, tensor in given_.items():
        torch.testing.assert_close(computed[name], tensor, rtol=1e-5, atol=1e-6)


def test_the_closed_form_records_no_more_than_paired_channels(monkeypatch) -> None:
    asked = []

    def spy(*args, **options) -> rk.PairedStats:
        asked.append((options["cross"], options["diagonal"]))
        return collect(*args, **options)

    monkeypatch.setattr("repair_kernels.calibration.calibrating.collect", spy)
    a, b = pair("mlp")
    for variant in VARIANTS:
        rk.calibrate(a, b, [shifted("mlp", 12)], variant=variant)
    assert asked == [((), ()), ((), ("fc1", "fc2")), ((), ())]


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
        "layer1.0.channel_affine.dim",
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
    batches = Counted(inputs.split(16))
    from_list = rk.calibrate(a, b, batches, variant="closed_form", on_worse=None)
    assert batches.passes == 1
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
    batches = iter(shifted("mlp", 40).split(16))
    with pytest.raises(CalibrationDataError, match=f"'{variant}' reads.*more than once.*pass a li"):
        rk.calibrate(a, b, batches, variant=variant)
    assert len(list(batches)) == 2  # Only the first was looked at.


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
    known = "'forward', 'closed_form', 'sequential', 'distilled', 'reset_norm'; got 'backward'"
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
