"""What the report says of a calibration is what the returned network does on the data."""

import functools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import repair_kernels as rk
from models.datasets import batches, load_embedded_fashion
from models.pretrained import PAIRS, load_pair
from repair_kernels.affine import ChannelAffine
from repair_kernels.alignment import AlignedPair, align
from repair_kernels.calibration.assessment import closed_form_premise
from repair_kernels.calibration.explicit import GraphNetwork
from repair_kernels.calibration.variants import Corrections
from repair_kernels.errors import ArgumentError, CalibrationWarning
from tests import oracles
from tests.goals import activations, pair, shifted
from tests.merging import mlps
from tests.networks import FAMILIES, PLAIN, assert_same, lively, snapshot

# Random networks: whether a correction makes their loss worse means nothing but where it is tested.
pytestmark = [
    pytest.mark.usefixtures("torch_backend"),
    pytest.mark.filterwarnings("ignore::repair_kernels.errors.CalibrationWarning"),
]
MET = 1e-3
"""Of a goal's std, in float32: what issue and documentation promise for "sequential"."""
repair = functools.partial(rk.repair, on_worse="warn", verify=False)


# Exactness


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.GroupNorm(2, 6),
        nn.ReLU(), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


def layered() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 9), nn.LayerNorm(9), nn.ReLU(),
        nn.Linear(9, 4),
    )  # fmt: skip


def with_norms(build, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module, Tensor]:
    return lively(build(), 0).eval(), lively(build(), 1).eval(), torch.randn(60, *shape) + 0.5


KINDS = ("resnet_option_a", "resnet_layer_norm", "resnet_fixup", "vgg", "mlp_without_bias")


@pytest.mark.parametrize("kind", [*KINDS, "group norm", "LayerNorm"])
def test_sequential_meets_its_goals_with_every_kind_of_norm_and_without(kind: str) -> None:
    if kind == "group norm":
        a, b, x = with_norms(grouped, (3, 6, 6))
    elif kind == "LayerNorm":
        a, b, x = with_norms(layered, (12,))
    else:
        (a, b), x = pair(kind), shifted(kind, 45)
    report = repair(a, b, x.split(20), variant="sequential").report
    assert tuple(report.exactness) == report.corrected
    worst = report.worst()
    assert worst.mean <= MET
    assert worst.std <= MET


@pytest.mark.parametrize("family", ["vgg", "vgg_batch_norm", "imagenet_basic"])
def test_sequential_meets_its_goals_at_every_tap_and_is_the_network_with_layers(
    family: str,
) -> None:
    (a, b), x = pair(family), shifted(family, 24)
    pair_ = align(a, b, [x], variants=("sequential",), taps="all", verify=False)
    merged = pair_.merge(0.5, "sequential")
    assert merged.corrected == pair_.graph.taps
    [(state, corrections)] = pair_.correct([0.5], "sequential")
    layers = GraphNetwork(pair_.graph, state, corrections.affines)
    with torch.no_grad():
        wanted = layers(x)
        # Float32, through 60 operators.
        torch.testing.assert_close(merged.model(x), wanted, rtol=0, atol=1e-4 * wanted.std())
    exactness = pair_.assess(0.5, merged).exactness
    assert tuple(exactness) == merged.corrected
    for tap, found in exactness.items():
        assert found.mean <= MET, tap
        assert found.std <= MET, tap


@pytest.mark.parametrize("name", PAIRS)
def test_sequential_meets_its_goals_on_networks_that_were_trained(name: str) -> None:
    a, b = load_pair(name)
    images, labels = (tensor[::20] for tensor in load_embedded_fashion("train"))
    data = batches(images, labels, 64, normalise="fashion")
    result = rk.repair(a, b, data, alpha=0.4, variant="sequential", verify=False)
    worst = result.report.worst()
    assert worst.mean <= MET
    assert worst.std <= MET
    losses = result.report.losses
    assert (losses.kind, result.report.returned) == ("cross-entropy", "corrected")
    # What the report says of the corrected network is true of the one that is returned.
    assert losses.corrected == pytest.approx(rk.classifier_metrics(data)(result.model)["loss"])
    assert losses.corrected < losses.aligned


@pytest.mark.parametrize("variant", ["forward", "closed_form"])
def test_the_report_measures_what_hooks_do(variant: str) -> None:
    a, b, x = mlps()
    result = repair(a, b, x.split(16), variant=variant, taps=["fc1", "fc2"])
    permuted = rk.permute(b, rk.trace(a, x).groups, result.permutations)
    seen = activations(result.model, x, ["fc1", "fc2"])
    ends = [activations(end, x, ["fc1", "fc2"]) for end in (a, permuted)]
    for tap, exactness in result.report.exactness.items():
        mean, std = oracles.goal(ends[0][tap], ends[1][tap], 0.5)
        values = seen[tap].numpy()
        assert exactness.mean == pytest.approx(
            np.max(np.abs(values.mean(axis=0) - mean) / std), rel=1e-3, abs=1e-6
        )
        assert exactness.std == pytest.approx(
            np.max(np.abs(values.std(axis=0) / std - 1)), rel=1e-3, abs=1e-6
        )


def aligned(family: str, variant: str, n: int = 40) -> AlignedPair:
    a, b = pair(family)
    return align(a, b, [shifted(family, n)], variants=(variant,), verify=False)


def test_the_returned_network_is_measured_not_the_corrections() -> None:
    merged = (pair_ := aligned("plain", "sequential")).merge(0.5, "sequential")
    assert set(merged.behind) == {"0", "3"}
    with torch.no_grad():
        merged.model[1].running_var.mul_(4)  # So "0" looks half as wide to what reads it.
    exactness = pair_.assess(0.5, merged).exactness
    assert exactness["0"].std == pytest.approx(0.5, abs=1e-4)
    assert exactness["3"].std > 0.01


def test_layers_of_their_own_and_new_biases_are_measured() -> None:
    a, b = pair("mlp_without_bias")
    for add_bias in (False, True):
        result = repair(a, b, [shifted("mlp_without_bias", 40)], variant="sequential",
                        add_bias=add_bias)  # fmt: skip
        assert bool(result.report.explicit) is not add_bias
        assert result.report.worst().mean <= MET
        assert result.report.worst().std <= MET


def test_dead_channels_are_excepted_and_counted() -> None:
    a, b, x = mlps()
    with torch.no_grad():
        for model in (a, b):
            model.fc1.weight[[1, 4, 6]] = 0
    report = repair(a, b, [x], variant="sequential").report
    assert [exactness.dead for exactness in report.exactness.values()] == [3, 0]
    assert report.worst().std <= MET


def test_without_assessment_nothing_is_read_again_and_nothing_said() -> None:
    a, b, x = mlps()
    for report in (
        repair(a, b, [x], assess=False).report,
        repair(a, b, iter([x]), variant="closed_form").report,
        repair(a, b, [x], variant="none").report,
        repair(a, b, [x], alpha=0.0).report,
    ):
        assert (report.exactness, report.losses, report.worst()) == ({}, None, None)
        assert report.returned == "corrected"


# Losses


def labelled(n: int = 400) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    a, b, _ = mlps()
    generator = torch.Generator().manual_seed(4)
    x = FAMILIES["mlp"].inputs(n) + 0.5
    return a, b, x, torch.randint(5, (n,), generator=generator)


def test_labels_give_the_cross_entropy_of_both_networks() -> None:
    a, b, x, y = labelled(60)
    data = [(x[:50], y[:50]), (x[50:], y[50:])]
    losses = repair(a, b, data, variant="forward").report.losses
    measure = rk.classifier_metrics(data)
    assert losses.kind == "cross-entropy"
    for variant, loss in (("forward", losses.corrected), ("none", losses.aligned)):
        model = repair(a, b, data, variant=variant).model
        assert loss == pytest.approx(measure(model)["loss"], rel=1e-6)


def endpoint_outputs(alpha: float) -> tuple[list[Tensor], rk.RepairReport]:
    a, b, x = mlps()
    result = repair(a, b, x.split(16), alpha=alpha)
    none = repair(a, b, x.split(16), alpha=alpha, variant="none").model
    with torch.no_grad():
        return [f(x).double() for f in (a, b, none, result.model)], result.report


def test_without_labels_it_is_the_divergence_from_the_endpoints() -> None:
    (a, b, none, corrected), report = endpoint_outputs(0.25)
    p = 0.75 * a.softmax(1) + 0.25 * b.softmax(1)
    for q, found in ((none, report.losses.aligned), (corrected, report.losses.corrected)):
        wanted = (p * (p.log() - q.log_softmax(1))).sum(1).mean()
        assert found == pytest.approx(float(wanted), rel=1e-5)
    assert report.losses.kind == "divergence"


def test_the_standard_error_is_that_of_the_difference() -> None:
    (a, b, none, corrected), report = endpoint_outputs(0.5)
    p = (a.softmax(1) + b.softmax(1)) / 2
    each = (p * (none.log_softmax(1) - corrected.log_softmax(1))).sum(1)
    wanted = float(each.std(correction=0)) / len(each) ** 0.5
    assert report.losses.standard_error == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("size", [3, 5, 7, 40])
def test_labels_that_number_the_images_are_none_in_batches_of_any_size(size: int) -> None:
    a, b, x = mlps()  # Five classes
    numbered = list(zip(x.split(size), torch.arange(len(x)).split(size), strict=True))
    found, wanted = (repair(a, b, d, variant="forward").report for d in (numbered, x.split(size)))
    assert found.losses.kind == "divergence"
    assert found.losses == wanted.losses
    assert found.exactness == wanted.exactness


@pytest.mark.parametrize("strange", [0, 1, 2])
@pytest.mark.parametrize("instead", [None, -1, -100, 5])
def test_one_image_without_a_class_number_makes_it_the_divergence_of_all(
    strange: int, instead: int | None
) -> None:
    a, b, x, y = labelled(60)
    data: list = list(zip(x.split(20), y.split(20), strict=True))
    if instead is None:
        data[strange] = x.split(20)[strange]
    else:
        data[strange][1][7] = instead
    found, wanted = (repair(a, b, d, variant="forward").report for d in (data, x.split(20)))
    assert found.losses == wanted.losses


@pytest.mark.parametrize("labels", [torch.zeros(40), torch.arange(39), torch.full((40,), 7)])
def test_what_is_no_class_number_is_no_label(labels: Tensor) -> None:
    a, b, x = mlps()
    assert repair(a, b, [(x, labels)]).report.losses.kind == "divergence"


def test_images_as_outputs_are_compared_by_their_squared_error() -> None:
    a, b = (lively(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), s)
            for s in (0, 1))  # fmt: skip
    x = torch.randn(30, 3, 6, 6)
    result = repair(a, b, x.split(20), variant="forward", alpha=0.25)
    with torch.no_grad():
        target = 0.75 * a(x) + 0.25 * b(x)
        wanted = (result.model(x) - target).square().mean() / target.square().mean()
    assert result.report.losses.kind == "squared error"
    assert result.report.losses.corrected == pytest.approx(float(wanted), rel=1e-4)


# A correction that makes the loss worse


def test_a_correction_that_makes_the_loss_worse_is_not_returned() -> None:
    # Labels drawn at random: to restore variance is to be more certain of what is not so.
    a, b, x, y = labelled()
    wanted = rk.repair(a, b, [(x, y)], variant="none").model
    with pytest.warns(CalibrationWarning, match="made the cross-entropy.*worse.*the aligned net"):
        result = rk.repair(a, b, [(x, y)], variant="forward")
    assert_same(snapshot(wanted), snapshot(result.model))
    assert (result.report.returned, result.report.corrected) == ("aligned", ())
    assert result.report.losses.is_worse
    assert "the aligned network is returned" in str(result.report)


def test_on_request_a_worse_correction_is_returned_with_a_warning() -> None:
    a, b, x, y = labelled()
    with pytest.warns(CalibrationWarning, match="the corrected network is returned"):
        result = rk.repair(a, b, [(x, y)], variant="forward", on_worse="warn")
    assert_same(
        snapshot(rk.repair(a, b, [(x, y)], variant="forward", assess=False).model),
        snapshot(result.model),
    )
    assert result.report.returned == "corrected"


def test_a_difference_within_chance_is_not_worse() -> None:
    a, b, x, y = labelled()
    losses = repair(a, b, [(x, y)], variant="forward").report.losses
    assert losses.is_worse
    assert not replace(losses, corrected=losses.aligned + losses.standard_error).is_worse
    assert not replace(losses, corrected=losses.aligned).is_worse
    assert replace(losses, corrected=float("nan")).is_worse
    assert not replace(losses, aligned=float("inf")).is_worse


def test_calibrate_says_so_too_and_returns_what_it_is_asked_for() -> None:
    a, b, x, y = labelled()
    unmeasured = rk.calibrate(a, b, [(x, y)], on_worse=None)
    with pytest.warns(CalibrationWarning, match="made the cross-entropy.*worse.*the corrected net"):
        warned = rk.calibrate(a, b, [(x, y)])
    assert_same(snapshot(unmeasured), snapshot(warned))
    with pytest.warns(CalibrationWarning, match="the aligned network is returned"):
        refused = rk.calibrate(a, b, [(x, y)], on_worse="aligned")
    assert_same(snapshot(rk.interpolate(a, b, alpha=0.5)), snapshot(refused))


@pytest.mark.parametrize(
    "merge",
    [
        partial(rk.calibrate, variant="forward"),
        partial(rk.calibrate, variant="closed_form", on_worse=None),
        partial(rk.repair, variant="forward"),
        partial(rk.repair, variant="sequential", assess=False),
        partial(rk.repair, variant="none"),
    ],
)
def test_labels_of_one_class_are_said(merge) -> None:
    a, b, x, _ = labelled(60)
    with pytest.warns(CalibrationWarning, match="are one class.*calibrate with images of all"):
        merge(a, b, [(x[:30], torch.full((30,), 3)), (x[30:], torch.full((30,), 3))])


def test_an_unknown_answer_to_a_worse_loss_is_refused() -> None:
    a, b, x = mlps()
    with pytest.raises(ArgumentError, match="`on_worse` must be one of 'aligned', 'warn'; got"):
        rk.repair(a, b, [x], on_worse="raise")
    with pytest.raises(ArgumentError, match="one of 'aligned', 'warn', None; got 'raise'"):
        rk.calibrate(a, b, [x], on_worse="raise")


def test_a_corrected_network_that_overflows_is_said_and_is_worse() -> None:
    pair_ = aligned("mlp", "closed_form")
    huge = {
        tap: ChannelAffine(torch.full((8,), 1e30, dtype=torch.float64), torch.zeros(8).double())
        for tap in ("fc1", "fc2")
    }
    pair_.corrections[0.5, "closed_form"] = Corrections(huge)
    found = pair_.assess(0.5, pair_.merge(0.5, "closed_form"))
    assert found.is_worse
    assert "network corrected has NaN or infinity at tap 'fc2'" in found.overflow


# The closed form's premise


def test_channels_that_cancel_are_reported() -> None:
    a = PLAIN.network(0)
    b = PLAIN.network(0)
    with torch.no_grad():
        b[0].weight[2] *= -1
        b[0].bias.zero_()
        a[0].bias.zero_()
    pair_ = align(a, b, [PLAIN.inputs(30)], variants=("closed_form",), verify=False)
    identity = {name: rk.Permutation.identity(g.size) for name, g in pair_.graph.groups.items()}
    pair_ = replace(pair_, state_b=pair_.state_plain, aligned_stats=pair_.stats,
                    permutations=identity)  # fmt: skip
    assert pair_.merge(0.5, "closed_form").corrections.cancelled == {"0": 1}


def test_where_the_closed_forms_prediction_does_not_hold_the_report_says_so() -> None:
    a, b = load_pair("fashion_mlp10")
    images, labels = (tensor[::20] for tensor in load_embedded_fashion("train"))
    data = batches(images, labels, 50, normalise="fashion")
    report = repair(a, b, data, variant="closed_form").report
    [said] = [line for line in report.warnings if "premise" in line]
    assert "the closed form's premise fails at" in said
    assert said in str(report)
    exact = repair(a, b, data, variant="sequential").report
    assert closed_form_premise(exact.exactness) == ()


def test_calibrate_says_where_the_closed_forms_prediction_does_not_hold() -> None:
    a, b = load_pair("fashion_mlp10")
    images, labels = (tensor[::60] for tensor in load_embedded_fashion("train"))
    data = batches(images, labels, 50, normalise="fashion")
    with pytest.warns(CalibrationWarning, match="the closed form's premise fails at"):
        rk.calibrate(a, b, data, variant="closed_form")
