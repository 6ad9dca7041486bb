"""Sweeps: both ends, every variant at every alpha, and as few passes over the data as can be."""

import functools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import repair_kernels as rk
from models.datasets import load_embedded_fashion, normalise
from models.pretrained import load_pair
from repair_kernels.alignment import align
from repair_kernels.errors import ArgumentError, CalibrationWarning, NonFiniteActivationError
from tests.merging import VARIANTS, Counted, evaluate, mlps
from tests.networks import assert_same, snapshot

pytestmark = pytest.mark.usefixtures("torch_backend")


@functools.cache
def swept() -> tuple[rk.Path, list[nn.Module], Counted]:
    a, b, x = mlps()
    models, batches = [], Counted(x.split(16))

    def watch(model: nn.Module) -> dict[str, float]:
        models.append(model)
        return evaluate(model)

    path = rk.sweep(
        a, b, batches, watch, alphas=[0.75, 0.25], variants=("plain", *VARIANTS), backend="torch"
    )
    return path, models, batches


def test_a_sweep_has_every_variant_at_every_alpha_and_both_ends() -> None:
    path, _, _ = swept()
    assert path.alphas == (0, 0.25, 0.75, 1)
    assert path.variants == ("plain", *VARIANTS)
    assert path.metric_names == ("loss",)


def test_the_ends_of_a_sweep_are_the_endpoints() -> None:
    path, models, _ = swept()
    a, b, _ = mlps()
    ends = (evaluate(a)["loss"], evaluate(b)["loss"])
    for variant in path.variants:
        assert path.endpoints("loss", variant=variant) == ends
    assert_same(snapshot(models[0]), snapshot(a))
    assert_same(snapshot(models[1]), snapshot(b))


def test_a_sweep_evaluates_the_endpoints_once_and_every_merged_network_once() -> None:
    path, models, _ = swept()
    assert len(models) == 2 + len(path.variants) * 2
    assert len({id(model) for model in models}) == len(models)


def test_a_sweep_computes_the_statistics_once() -> None:
    path, _, batches = swept()
    # For both alphas one pass of "forward" and "sequential", two of "distilled"; and one pass for
    # the variances of each variant.
    assert batches.passes == 1 + 1 + 1 + 2 + len(path.variants)
    assert batches.read == 3 * batches.passes


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_point_of_a_sweep_is_a_repair(variant: str) -> None:
    path, _, _ = swept()
    a, b, x = mlps()
    model = rk.repair(a, b, x.split(16), alpha=0.25, variant=variant, assess=False).model
    # Statistics at more taps than one variant needs have the same bits.
    assert path.values("loss", variant=variant)[1] == pytest.approx(evaluate(model)["loss"], 1e-6)


def test_the_plain_variant_is_the_average_without_matching() -> None:
    path, _, _ = swept()
    a, b, _ = mlps()
    wanted = evaluate(rk.interpolate(a, b, 0.25))["loss"]
    assert path.values("loss", variant="plain")[1] == wanted


def test_a_sweep_without_corrections_reads_an_iterator_once() -> None:
    a, b, x = mlps()
    path = rk.sweep(a, b, iter([x]), evaluate, alphas=[0.5], variants=["none", "closed_form"])
    assert path.alphas == (0, 0.5, 1)
    assert path.variance_ratios == {}


def test_a_sweep_has_the_variance_ratio_of_every_variant_tap_and_alpha() -> None:
    path, models, _ = swept()
    a, b, x = mlps()
    assert tuple(path.variance_ratios) == path.variants
    merged = models[2 + 2 * path.variants.index("none")]  # at alpha .25
    with torch.no_grad():
        of_a, of_b, of_merged = (
            model.fc1(x).double().var(dim=0, correction=0).sum() for model in (a, b, merged)
        )
    wanted = float(of_merged / (0.75 * of_a + 0.25 * of_b))
    for variant, ratios in path.variance_ratios.items():
        assert ratios["fc1"][0] == ratios["fc1"][-1] == 1
        if variant == "none":
            assert ratios["fc1"][1] == pytest.approx(wanted, rel=1e-5)


def test_a_sweep_leaves_networks_and_random_numbers_as_they_were() -> None:
    a, b, x = mlps()
    a.train()
    loader = DataLoader(TensorDataset(x), batch_size=16, shuffle=True)
    before = snapshot(a), snapshot(b), torch.get_rng_state()
    rk.sweep(a, b, loader, evaluate, alphas=[0.5])
    assert_same(before[0], snapshot(a))
    assert_same(before[1], snapshot(b))
    assert torch.equal(torch.get_rng_state(), before[2])


# One pass for all alphas


@pytest.mark.parametrize("variant", ["plain", *VARIANTS])
def test_a_network_merged_with_others_has_the_bits_of_one_merged_alone(variant: str) -> None:
    a, b, x = mlps()
    alphas = [0.0, 0.3, 0.5, 0.9]
    together = align(a, b, x.split(16), variants=VARIANTS)
    for alpha, merged in zip(alphas, together.merge_each(alphas, variant), strict=True):
        alone = align(a, b, x.split(16), variants=VARIANTS).merge(alpha, variant)
        assert_same(snapshot(merged.model), snapshot(alone.model))
        assert merged.corrected == alone.corrected


@pytest.mark.parametrize(
    ("variant", "passes"),
    [
        ("plain", 0),
        ("none", 0),
        ("closed_form", 0),
        ("forward", 1),
        ("sequential", 1),
        ("distilled", 2),
    ],
)
def test_all_alphas_of_a_variant_share_a_pass_where_they_can(variant: str, passes: int) -> None:
    a, b, x = mlps()
    batches = Counted(x.split(16))
    alphas = [0.1, 0.3, 0.5, 0.7, 0.9]
    rk.sweep(a, b, batches, evaluate, alphas=alphas, variants=[variant], variance_ratios=False)
    assert batches.passes == 1 + passes
    assert batches.read == 3 * batches.passes


def test_weight_sets_share_a_pass_only_as_far_as_memory_allows(monkeypatch) -> None:
    a, b, x = mlps()
    size = sum(tensor.nbytes for tensor in a.state_dict().values())

    def merged(allowed: int) -> tuple[Counted, list[nn.Module]]:
        monkeypatch.setattr("repair_kernels.alignment.WEIGHT_BYTES_PER_PASS", allowed)
        batches = Counted(x.split(16))
        pair = align(a, b, batches)
        networks = list(pair.merge_each([0.1, 0.3, 0.5, 0.7, 0.9], "forward"))
        return batches, [network.model for network in networks]

    unbounded, wanted = merged(2**30)
    assert unbounded.passes == 1 + 1
    for allowed, passes in ((2 * size, 3), (size, 5), (0, 5)):
        batches, found = merged(allowed)
        assert batches.passes == 1 + passes
        for one, other in zip(wanted, found, strict=True):
            assert_same(snapshot(one), snapshot(other))


def test_corrections_that_are_known_are_not_found_again() -> None:
    a, b, x = mlps()
    batches = Counted(x.split(16))
    pair = align(a, b, batches)
    pair.merge(0.5, "forward")
    assert batches.passes == 2
    pair.merge(0.5, "forward")
    assert batches.passes == 2
    list(pair.merge_each([0.25, 0.5, 0.75], "forward"))
    assert batches.passes == 3


@pytest.mark.parametrize("variant", ["forward", "sequential"])
def test_an_activation_that_overflows_is_named_with_its_alpha(variant: str) -> None:
    a, b, x = mlps()
    pair = align(a, b, x.split(16))
    huge = {**pair.state_b, "fc1.bias": torch.full_like(pair.state_b["fc1.bias"], 3e38)}
    huge["fc2.weight"] = pair.state_b["fc2.weight"] * 1e3
    with pytest.raises(NonFiniteActivationError, match="network merged at alpha 0.75 has NaN"):
        list(replace(pair, state_b=huge).merge_each([0.0, 0.75], variant))


# Bad input


def test_a_sweep_needs_a_variant() -> None:
    a, b, x = mlps()
    with pytest.raises(ArgumentError, match="`variants` must name at least one variant"):
        rk.sweep(a, b, [x], evaluate, variants=())


def test_an_evaluation_without_metrics_is_refused() -> None:
    a, b, x = mlps()
    with pytest.raises(ArgumentError, match="let `evaluate` return such as"):
        rk.sweep(a, b, [x], lambda model: {}, alphas=[0.5], variants=["none"])


def test_metrics_that_change_along_the_path_are_refused() -> None:
    a, b, x = mlps()
    metrics = iter([{"loss": 1.0}, {"loss": 1.0}, {"error": 1.0}])
    with pytest.raises(ArgumentError, match="returned loss for network a and error for another"):
        rk.sweep(a, b, [x], lambda model: next(metrics), alphas=[0.5], variants=["none"])


# What is doubtful


def test_labels_of_one_class_are_said_by_a_sweep_as_well() -> None:
    a, b, x = mlps()
    labels = torch.zeros(len(x), dtype=torch.int64)
    with pytest.warns(CalibrationWarning, match="all labels .* are one class"):
        path = rk.sweep(a, b, [(x, labels)], evaluate, alphas=[0.5], variants=("none",))
    assert "are one class" in path.table()
    labels[-1] = 1
    assert rk.sweep(a, b, [(x, labels)], evaluate, alphas=[0.5], variants=("none",)).warnings == ()


def test_a_sweep_says_where_the_closed_forms_premise_fails() -> None:
    a, b = load_pair("fashion_mlp10")
    images, _ = load_embedded_fashion("train")
    x = normalise(images[::8], "fashion")

    def nothing(model: nn.Module) -> dict[str, float]:
        return {"loss": 0.0}

    chosen = ("closed_form", "sequential")
    path = rk.sweep(a, b, [x], nothing, alphas=[0.1, 0.5], variants=chosen)
    report = rk.repair(a, b, [x], alpha=0.5, variant="closed_form", on_worse="warn").report
    [premise] = [said for said in report.warnings if "premise" in said]
    assert f"at alpha 0.5 {premise}" in path.warnings
    assert all("premise" in said for said in path.warnings)
    assert path.table().endswith(path.warnings[-1])
