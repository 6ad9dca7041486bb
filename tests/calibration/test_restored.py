"""What corrections restore: both moments, the std alone, the mean alone; and published averages."""

import numpy as np
import pytest
import torch

import repair_kernels as rk
from repair_kernels.calibration.goals import affine_to_goal, closed_form, goal
from repair_kernels.errors import ArgumentError
from tests import oracles
from tests.goals import MET, activations, pair, shifted
from tests.merging import evaluate, mlps
from tests.networks import assert_same, snapshot

pytestmark = [
    pytest.mark.usefixtures("torch_backend"),
    # These networks are not trained, so that a repair may well make their loss worse.
    pytest.mark.filterwarnings("ignore::repair_kernels.errors.CalibrationWarning"),
]


def moments() -> tuple[rk.PairedMoments, rk.ChannelMoments]:
    a, b, x = 2 + torch.randn(3, 30, 4, dtype=torch.float64)
    sums = [torch.from_numpy(s) for v in (a, b) for s in oracles.channel_moments(v, 1)]
    merged = rk.ChannelMoments(30, *(torch.from_numpy(s) for s in oracles.channel_moments(x, 1)))
    return rk.PairedMoments(30, *sums, torch.from_numpy(oracles.cross(a, b, 1))), merged


def test_the_std_alone_is_a_scaling_about_zero() -> None:
    paired, merged = moments()
    wanted = goal(paired, 0.3)
    for both, alone in (
        (affine_to_goal(wanted, merged), affine_to_goal(wanted, merged, "std")),
        (closed_form(paired, 0.3), closed_form(paired, 0.3, "std")),
    ):  # fmt: skip
        assert torch.equal(both[0], alone[0])
        assert not alone[1].any()
        assert both[1].all()


def test_the_mean_alone_is_a_shift() -> None:
    paired, merged = moments()
    wanted = goal(paired, 0.3)
    scale, shift = affine_to_goal(wanted, merged, "mean")
    assert (scale == 1).all()
    torch.testing.assert_close(shift, wanted.mean - merged.mean)


def test_the_closed_form_predicts_no_error_of_the_mean() -> None:
    scale, shift = closed_form(moments()[0], 0.3, "mean")
    assert (scale == 1).all()
    assert not shift.any()


@pytest.mark.parametrize("restore", ["both", "std", "mean"])
@pytest.mark.parametrize("variant", ["forward", "sequential"])
def test_what_is_restored_meets_its_goal_and_the_rest_is_left(variant: str, restore: str) -> None:
    a, b = pair("biased")
    x = shifted("biased", 40)
    fixed = rk.calibrate(a, b, [x], variant=variant, restore=restore, taps=["0"])
    merged, seen = (activations(model, x, ["0"])["0"] for model in (rk.interpolate(a, b), fixed))
    mean, std = oracles.goal(*(activations(end, x, ["0"])["0"] for end in (a, b)), 0.5)
    before, after = oracles.rows(merged, 1), oracles.rows(seen, 1)
    if restore != "mean":
        np.testing.assert_allclose(after.std(axis=0), std, rtol=MET)
    if restore != "std":
        np.testing.assert_allclose(after.mean(axis=0), mean, atol=MET * std.min())
    if restore == "std":
        factor = std / before.std(axis=0)
        np.testing.assert_allclose(after, before * factor, rtol=1e-4, atol=1e-5)
    if restore == "mean":
        np.testing.assert_allclose(
            after - after.mean(axis=0), before - before.mean(axis=0), atol=1e-5
        )


def test_what_is_restored_is_an_option_of_repair_and_sweep() -> None:
    a, b, x = mlps()
    result = rk.repair(a, b, [x], variant="forward", restore="std", assess=False)
    plain = rk.repair(a, b, [x], variant="none").model
    scale = result.model.fc1.weight / plain.fc1.weight
    torch.testing.assert_close(result.model.fc1.bias, plain.fc1.bias * scale[:, 0])
    path = rk.sweep(a, b, [x], evaluate, alphas=[0.5], variants=["forward"], restore="std")
    assert path.values("loss", variant="forward")[1] == pytest.approx(
        evaluate(result.model)["loss"]
    )


def test_an_unknown_moment_is_refused() -> None:
    a, b, x = mlps()
    for call in (rk.calibrate, rk.repair):
        with pytest.raises(ArgumentError, match="`restore` must be one of 'both', 'std', 'mean'"):
            call(a, b, [x], restore="var")


# Averages over batches, as published


def test_published_averages_weigh_every_batch_alike() -> None:
    a, b = (model.double() for model in pair("mlp"))
    sizes = (30, 50, 7)
    data = [3 * shifted("mlp", n, seed).double() + seed for seed, n in enumerate(sizes)]
    fixed = rk.calibrate(a, b, data, taps=["fc1"], batch_mean=True)
    merged = rk.interpolate(a, b)

    def averages(model: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
        seen = [activations(model, batch, ["fc1"])["fc1"].numpy() for batch in data]
        return (
            np.mean([v.mean(axis=0) for v in seen], axis=0),
            np.mean([v.std(axis=0) for v in seen], axis=0),
        )

    (mean_a, std_a), (mean_b, std_b), (mean, std) = map(averages, (a, b, merged))
    scale = torch.from_numpy((std_a + std_b) / 2 / std)
    shift = torch.from_numpy((mean_a + mean_b) / 2 - scale.numpy() * mean)
    torch.testing.assert_close(fixed.fc1.weight.data, merged.fc1.weight.data * scale[:, None])
    torch.testing.assert_close(fixed.fc1.bias.data, merged.fc1.bias.data * scale + shift)


def test_published_averages_are_no_pooled_statistics() -> None:
    a, b, x = mlps()
    batches = [x[:30], 5 * x[30:]]
    found = {
        batch_mean: rk.repair(a, b, batches, variant="forward", batch_mean=batch_mean, assess=False)
        for batch_mean in (True, False)
    }
    assert found[True].permutations == found[False].permutations
    assert not torch.allclose(found[True].model.fc1.weight, found[False].model.fc1.weight)
    path = rk.sweep(a, b, batches, evaluate, alphas=[0.5], variants=["none", "forward"],
                    batch_mean=True)  # fmt: skip
    loss = evaluate(found[True].model)["loss"]
    assert path.values("loss", variant="forward")[1] == pytest.approx(loss)


def test_one_batch_averages_to_itself() -> None:
    a, b, x = mlps()
    averaged, pooled = (rk.calibrate(a, b, [x], batch_mean=mean) for mean in (True, False))
    for name, tensor in averaged.named_parameters():
        torch.testing.assert_close(tensor, pooled.get_parameter(name), rtol=1e-5, atol=1e-6)


def test_published_averages_are_of_forward_alone_and_not_of_given_statistics() -> None:
    a, b, x = mlps()
    with pytest.raises(ArgumentError, match="averaging of variant 'forward'; got 'sequential'"):
        rk.calibrate(a, b, [x], variant="sequential", batch_mean=True)
    with pytest.raises(ArgumentError, match="averaging of variant 'forward'; got 'none', 'closed"):
        rk.sweep(a, b, [x], evaluate, variants=["none", "closed_form"], batch_mean=True)
    with pytest.raises(ArgumentError, match="averages over batches, and `stats` are pooled"):
        rk.calibrate(a, b, [x], batch_mean=True, stats=rk.compute_stats(a, b, [x]))


def test_taps_that_are_not_corrected_keep_their_bits() -> None:
    a, b, x = mlps()
    none = rk.calibrate(a, b, [x], variant="closed_form", restore="mean")
    assert_same(snapshot(rk.interpolate(a, b)), snapshot(none))
