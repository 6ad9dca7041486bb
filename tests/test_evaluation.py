"""Paths between networks: barriers, tables, files, and the variance-collapse ratio."""

import csv
import math
import os
from dataclasses import replace
from pathlib import Path as FilePath

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repair_kernels.errors import ArgumentError
from repair_kernels.evaluation import Path, variance_ratio

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
VALUES = st.lists(
    st.floats(-1e3, 1e3, allow_nan=False), min_size=len(ALPHAS), max_size=len(ALPHAS)
).map(tuple)


def path_of(*values: float, metric: str = "loss") -> Path:
    return Path(tuple(np.linspace(0, 1, len(values)).tolist()), {"none": {metric: values}})


def example() -> Path:
    return Path(
        (0.0, 0.5, 1.0),
        {
            "none": {"accuracy": (0.9, 0.2, 0.8), "loss": (0.3, 2.0, 0.5)},
            "forward": {"accuracy": (0.9, 0.7, 0.8), "loss": (0.3, 0.9, 0.5)},
        },
    )


def collapsing() -> Path:
    ratios = {"none": {"conv1": (1.0, 0.6, 1.0), "fc": (1.0, 0.3, 1.0)}}
    return replace(example(), variance_ratios=ratios)


@given(VALUES)
def test_the_barrier_is_the_papers(values: tuple[float, ...]) -> None:
    alpha, curve = np.array(ALPHAS), np.array(values)
    oracle = (curve - ((1 - alpha) * curve[0] + alpha * curve[-1])).max()
    barrier = path_of(*values).barrier("loss", variant="none")
    assert barrier == pytest.approx(max(oracle, 0), abs=1e-9)


@given(VALUES)
def test_a_barrier_is_never_negative(values: tuple[float, ...]) -> None:
    assert path_of(*values).barrier("loss", variant="none") >= 0


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_a_straight_line_has_no_barrier(start: float, end: float) -> None:
    values = [(1 - alpha) * start + alpha * end for alpha in ALPHAS]
    assert path_of(*values).barrier("loss", variant="none") == 0


@given(VALUES)
def test_accuracy_and_error_have_the_same_barrier(values: tuple[float, ...]) -> None:
    accuracy = path_of(*values, metric="accuracy").barrier("accuracy", variant="none")
    errors = (1 - value for value in values)
    error = path_of(*errors, metric="error").barrier("error", variant="none")
    assert accuracy == pytest.approx(error, abs=1e-9)


@pytest.mark.parametrize("metric", ["acc", "test_acc", "Accuracy", "top1", "val/top5", "mIoU/iou"])
def test_some_metrics_are_better_when_higher(metric: str) -> None:
    assert path_of(1, 0, 1, metric=metric).barrier(metric, variant="none") == 1


@pytest.mark.parametrize("metric", ["loss", "error", "top1_error", "anything", "accumulated"])
def test_other_metrics_are_better_when_lower(metric: str) -> None:
    assert path_of(1, 0, 1, metric=metric).barrier(metric, variant="none") == 0


@pytest.mark.parametrize(("higher", "barrier"), [(True, 1), (False, 0)])
def test_the_direction_can_be_given(higher: bool, barrier: float) -> None:
    path = path_of(1, 0, 1, metric="anything")
    assert path.barrier("anything", variant="none", higher_is_better=higher) == barrier


def test_a_value_that_is_not_a_number_shows_in_the_barrier() -> None:
    assert math.isnan(path_of(1, math.nan, 5, 1).barrier("loss", variant="none"))
    assert path_of(1, math.inf, 1).barrier("loss", variant="none") == math.inf


def test_the_endpoints_are_the_ends_of_the_curve() -> None:
    assert example().endpoints("loss") == (0.3, 0.5)
    assert example().variants == ("none", "forward")
    assert example().metric_names == ("accuracy", "loss")


def test_the_table_shows_midpoints_and_barriers() -> None:
    lines = [line.split() for line in example().table().splitlines()]
    assert lines[0] == ["accuracy", "network", "a", "network", "b", "alpha", "0.5", "barrier"]
    assert lines[1] == ["none", "0.9", "0.8", "0.2", "0.65"]
    assert lines[2] == ["forward", "0.9", "0.8", "0.7", "0.15"]
    assert lines[-1] == ["forward", "0.3", "0.5", "0.9", "0.5"]


def test_the_csv_file_holds_every_value(tmp_path: FilePath) -> None:
    example().to_csv(tmp_path / "path.csv")
    with open(tmp_path / "path.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[4] == {"variant": "forward", "alpha": "0.5", "accuracy": "0.7", "loss": "0.9"}
    assert len(rows) == 6
    assert os.listdir(tmp_path) == ["path.csv"]


def test_plot_writes_a_picture(tmp_path: FilePath) -> None:
    pytest.importorskip("matplotlib")
    example().plot(tmp_path / "path.png", metric="loss")
    assert (tmp_path / "path.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("method", ["barrier", "values", "excess", "endpoints"])
def test_an_unknown_variant_is_refused_by_name(method: str) -> None:
    match = "`variant` must be one of 'none', 'forward', but got 'sequential'; ask for one that"
    with pytest.raises(ArgumentError, match=match):
        getattr(example(), method)("loss", variant="sequential")


@pytest.mark.parametrize("method", ["barrier", "values", "excess", "endpoints"])
def test_an_unknown_metric_is_refused_by_name(method: str) -> None:
    match = "`metric` must be one of 'accuracy', 'loss', but got 'top1'; ask for one that the path"
    with pytest.raises(ArgumentError, match=match):
        getattr(example(), method)("top1", variant="none")


@pytest.mark.parametrize(
    "alphas", [(), (0.0,), (0.0, 0.5), (0.5, 1.0), (0.0, 0.5, 0.5, 1.0), (1.0, 0.0)]
)
def test_alphas_must_rise_from_0_to_1(alphas: tuple[float, ...]) -> None:
    with pytest.raises(ArgumentError, match="`alphas` must rise from 0 to 1, but got .*; sort"):
        Path(alphas, {"none": {"loss": (1.0,) * len(alphas)}})


@pytest.mark.parametrize("metrics", [{}, {"none": {}}])
def test_a_path_needs_a_metric(metrics: dict) -> None:
    with pytest.raises(ArgumentError, match="values of one metric for one variant .* it is empty"):
        Path((0.0, 1.0), metrics)


@pytest.mark.parametrize(
    "other", [{}, {"loss": (1.0,)}, {"error": (1.0, 2.0)}, {"loss": (1.0, 2.0), "acc": (1.0, 2.0)}]
)
def test_every_variant_must_have_every_value(other: dict) -> None:
    match = "must have 2 values of each of 'loss' for every variant, but 'forward' has .*; let"
    with pytest.raises(ArgumentError, match=match):
        Path((0.0, 1.0), {"none": {"loss": (1.0, 2.0)}, "forward": other})


@given(st.floats(0, 1), st.integers(1, 9))
def test_the_average_of_the_endpoints_variances_has_ratio_1(alpha: float, c: int) -> None:
    var_a, var_b = torch.rand(c) + 0.1, torch.rand(c) + 0.1
    ratio = variance_ratio((1 - alpha) * var_a + alpha * var_b, var_a, var_b, alpha)
    assert ratio == pytest.approx(1, rel=1e-5)


def test_the_ratio_is_that_of_sums_over_channels() -> None:
    var_alpha, var_a, var_b = torch.tensor([[1.0, 3.0], [4.0, 8.0], [2.0, 6.0]])
    assert variance_ratio(var_alpha, var_a, var_b, 0.25) == pytest.approx(
        4 / (0.75 * 12 + 0.25 * 8)
    )


def test_independent_networks_lose_half_of_their_variance() -> None:
    x = torch.randn(20_000, 4, dtype=torch.float64)
    y = torch.randn(20_000, 4, dtype=torch.float64)
    ratio = variance_ratio(((x + y) / 2).var(0), x.var(0), y.var(0), 0.5)
    assert ratio == pytest.approx(0.5, abs=0.02)


def test_a_tap_without_variance_has_no_ratio() -> None:
    assert math.isnan(variance_ratio(torch.zeros(2), torch.zeros(2), torch.zeros(2), 0.5))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_must_be_a_weight(alpha: float) -> None:
    with pytest.raises(ArgumentError, match=r"`alpha` must be in \[0, 1\], but got .*; it is the"):
        variance_ratio(torch.ones(2), torch.ones(2), torch.ones(2), alpha)


# Worse than aligning only


@pytest.mark.parametrize(
    ("metric", "mine", "other", "worse"),
    [
        ("loss", (1, 3, 2), (1, 2, 2), (0.5,)),
        ("loss", (1, 2, 2), (1, 3, 2), ()),
        ("accuracy", (1, 3, 2), (1, 2, 2), ()),
        ("accuracy", (1, 2, 2), (1, 3, 2), (0.5,)),
        ("loss", (1, math.nan, 2), (1, 3, 2), (0.5,)),
        ("loss", (1, 3, 2), (1, math.nan, 2), ()),
    ],
)
def test_where_a_variant_is_worse_than_aligning_is_known(
    metric: str, mine: tuple, other: tuple, worse: tuple
) -> None:
    path = Path((0.0, 0.5, 1.0), {"none": {metric: other}, "forward": {metric: mine}})
    assert path.worse(metric, variant="forward") == worse
    assert ("forward is worse than aligning only at alpha 0.5" in path.table()) == bool(worse)


# Variance collapse along the path


def test_the_collapse_is_that_of_an_alpha() -> None:
    assert collapsing().collapse(variant="none") == {"conv1": 0.6, "fc": 0.3}
    assert collapsing().collapse(variant="none", alpha=1.0) == {"conv1": 1.0, "fc": 1.0}


def test_the_collapse_of_what_was_not_measured_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`variant` must be one of 'none', but got 'forward'"):
        collapsing().collapse(variant="forward")
    with pytest.raises(ArgumentError, match="`alpha` must be one of 0, 0.5, 1, but got 0.3"):
        collapsing().collapse(variant="none", alpha=0.3)


def test_the_csv_file_of_variances_holds_every_ratio(tmp_path: FilePath) -> None:
    collapsing().variances_to_csv(tmp_path / "v.csv")
    with open(tmp_path / "v.csv", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["variant", "alpha", "tap", "variance_ratio"]
    assert len(rows) == 3 * 2
    assert ["none", "0.5", "fc", "0.3"] in rows


def test_plot_variances_writes_a_picture(tmp_path: FilePath) -> None:
    pytest.importorskip("matplotlib")
    collapsing().plot_variances(tmp_path / "v.png")
    assert (tmp_path / "v.png").read_bytes().startswith(b"\x89PNG")


def test_ratios_must_be_of_variants_and_alphas_of_the_path() -> None:
    with pytest.raises(ArgumentError, match="must be one of 'none', 'forward', but got 'closed'"):
        replace(example(), variance_ratios={"closed": {}})
    with pytest.raises(ArgumentError, match="3 values for every tap, but 'fc' of 'none' has 1"):
        replace(example(), variance_ratios={"none": {"fc": (1.0,)}})
