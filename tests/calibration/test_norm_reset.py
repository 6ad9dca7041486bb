"""A reset: BatchNorms' statistics are those of what they read, and nothing else changes."""

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

import repair_kernels as rk
from repair_kernels.errors import ArgumentError
from tests import oracles
from tests.goals import pair, shifted
from tests.networks import FAMILIES, PLAIN, assert_same, lively, snapshot

pytestmark = [
    pytest.mark.usefixtures("torch_backend"),
    # These networks are not trained, so that a repair may well make their loss worse.
    pytest.mark.filterwarnings("ignore::repair_kernels.errors.CalibrationWarning"),
]
WITH_NORMS = ("plain", "resnet_projection")


def norms_and_inputs(model: nn.Module, x: Tensor) -> dict[str, tuple[nn.Module, Tensor]]:
    """Return each BatchNorm and what it reads."""
    found = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda module, args, name=name: found.update({name: (module, args[0])})
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("family", WITH_NORMS)
def test_every_norm_has_the_statistics_of_what_it_reads(family: str) -> None:
    a, b = (model.double() for model in pair(family))
    x = shifted(family, 25).double()
    fixed = rk.calibrate(a, b, x.split(10), alpha=0.3, variant="reset_norm")
    read = norms_and_inputs(fixed, x)
    assert read
    for norm, value in read.values():
        rows = torch.from_numpy(oracles.rows(value, 1))
        torch.testing.assert_close(norm.running_mean, rows.mean(0), rtol=1e-9, atol=1e-9)
        variance = rows.var(0, correction=0)  # of the population
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-9, atol=1e-12)


def test_nothing_but_running_statistics_changes() -> None:
    a, b = pair("plain")
    fixed = snapshot(rk.calibrate(a, b, [shifted("plain", 20)], variant="reset_norm"))
    merged = snapshot(rk.interpolate(a, b))
    changed = {name for name, value in merged.items() if not torch.equal(value, fixed[name])}
    assert changed == {f"{i}.running_{word}" for i in (1, 4) for word in ("mean", "var")}


@pytest.mark.parametrize(("restore", "word"), [("std", "var"), ("mean", "mean")])
def test_either_statistic_can_be_reset_alone(restore: str, word: str) -> None:
    a, b = pair("plain")
    x = shifted("plain", 20)
    fixed = snapshot(rk.calibrate(a, b, [x], variant="reset_norm", restore=restore))
    merged = snapshot(rk.interpolate(a, b))
    changed = {name for name, value in merged.items() if not torch.equal(value, fixed[name])}
    assert changed == {f"1.running_{word}", f"4.running_{word}"}


def test_a_norm_that_reads_the_input_itself_is_reset() -> None:
    build = functools.partial(nn.Sequential, nn.BatchNorm1d(4), nn.Linear(4, 3), nn.ReLU())
    a, b = (lively(copy.deepcopy(build()), seed).eval() for seed in (0, 1))
    x = torch.randn(30, 4) * 3 + 2
    fixed = rk.calibrate(a, b, x.split(9), variant="reset_norm")
    torch.testing.assert_close(fixed[0].running_mean, x.mean(0))
    torch.testing.assert_close(fixed[0].running_var, x.var(0, correction=0))


def test_a_network_without_batch_norm_is_refused() -> None:
    a, b = pair("mlp")
    x = [shifted("mlp", 12)]
    for call in (
        lambda: rk.calibrate(a, b, x, variant="reset_norm"),
        lambda: rk.repair(a, b, x, variant="reset_norm"),
        lambda: rk.sweep(a, b, x, lambda model: {"loss": 0.0}, variants=["none", "reset_norm"]),
    ):
        with pytest.raises(ArgumentError, match="this network has no BatchNorm with running"):
            call()


@pytest.mark.parametrize("alpha", [0, 1])
def test_the_ends_are_the_networks_bit_for_bit(alpha: int) -> None:
    a, b = pair("plain")
    end = rk.calibrate(a, b, [shifted("plain", 12)], alpha=alpha, variant="reset_norm")
    assert_same(snapshot((a, b)[alpha]), snapshot(end))


@pytest.mark.filterwarnings("ignore::repair_kernels.errors.CalibrationWarning")
def test_repair_and_sweep_reset_norms_too() -> None:
    a, b, x = PLAIN.network(0), PLAIN.network(1), PLAIN.inputs(40)
    result = rk.repair(a, b, x.split(16), variant="reset_norm", on_worse="warn")
    aligned = rk.permute(b, rk.trace(a, x).groups, result.permutations)
    wanted = rk.calibrate(a, aligned, x.split(16), variant="reset_norm")
    assert_same(snapshot(wanted), snapshot(result.model))
    report = result.report
    assert (report.norms_reset, report.corrected, report.exactness) == (2, (), {})
    assert report.losses is not None
    assert "BatchNorms reset: 2" in str(report)

    def variance(model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"variance": float(model(x).var())}

    path = rk.sweep(a, b, x.split(16), variance, alphas=[0.5], variants=["none", "reset_norm"])
    found = path.values("variance", variant="reset_norm")[1]
    assert found == pytest.approx(variance(wanted)["variance"], rel=1e-6)


def test_channels_of_no_and_of_tiny_variance_are_no_trouble() -> None:
    family = FAMILIES["resnet_option_a"]
    a, b, x = family.network(0), family.network(1), family.inputs(20)
    with torch.no_grad():
        for model in (a, b):
            model.conv1.weight.mul_(2e-4)
            model.conv1.weight[1] = 0
    fixed = rk.calibrate(a, b, [x], variant="reset_norm")
    assert fixed.bn1.running_var[1] == 0
    others = fixed.bn1.running_var[[0, 2, 3]]
    assert ((others > 1e-9) & (others < 1e-6)).all()
    assert fixed(x).isfinite().all()
