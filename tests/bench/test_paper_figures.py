"""What the pictures of the paper's experiments show."""

from typing import TYPE_CHECKING

import pytest

from bench.paper.experiments import EXPERIMENTS
from bench.paper.figures import bars, draw_collapse, draw_curves, over_x
from bench.paper.published import PUBLISHED

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def panel() -> "Axes":
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    return Figure().subplots()


def pair_of(accuracy: float, x: float = 11) -> dict:
    """Return a row of a pair whose endpoints are ten points better than its midpoint."""
    way = {"alphas": [0.3, 0.5], "accuracy": [accuracy + 0.05, accuracy]}
    row = {"series": "VGG11", "x": x, "curves": {"aligned": way}}
    return row | {"endpoints": [{"accuracy": accuracy + 0.1}] * 2}


def ranges(axes: "Axes") -> list[list[tuple[float, float]]]:
    """Return the ends of all bars from the least to the largest, in points of accuracy."""
    found = [collection.get_segments() for collection in axes.collections]
    return [[(x, pytest.approx(y)) for x, y in segment] for [segment] in found]


def test_published_figures_are_marked_at_the_bars_of_their_ways() -> None:
    way = {"alphas": [0.5], "accuracy": [0.8]}
    row = {"series": "VGG11", "x": 11, "endpoints": [{"accuracy": 0.9}]}
    row["curves"] = dict.fromkeys(("plain", "aligned", "forward", "ours"), way)
    for known, expected in (({"VGG11": {11: PUBLISHED["unaligned", "VGG11", 11]}}, 1), ({}, 0)):
        axes = panel()
        bars(known)(axes, [row], "accuracy")
        marks = [line for line in axes.lines if line.get_marker() == "x"]
        assert len(marks) == expected
        if marks:
            assert [tuple(at) for at in marks[0].get_xydata()] == [(1, 73.1), (2, 86.6)]


def test_published_figures_of_batch_norms_are_marked_where_these_are_reset() -> None:
    axes = panel()
    row = pair_of(0.8, x=7) | {"series": "with BatchNorms"}
    row["curves"] = dict.fromkeys(("aligned", "reset", "forward"), row["curves"]["aligned"])
    bars({"with BatchNorms": {7: PUBLISHED["vgg_midpoint", "with BatchNorms", 7]}})(
        axes, [row], "accuracy"
    )
    marks = next(line for line in axes.lines if line.get_marker() == "x")
    assert [tuple(at) for at in marks.get_xydata()] == [(0, 61.3), (1, 88.2)]


@pytest.mark.parametrize(("largest", "scale"), [(2.0, "linear"), (160.0, "log")])
def test_large_ratios_of_variances_do_not_hide_small_ones(largest: float, scale: str) -> None:
    axes = panel()
    ratios = {"aligned": {"relu1": 0.5, "relu2": 0.01}, "ours": {"relu1": 1.1, "relu2": largest}}
    draw_collapse(axes, [{"collapse": ratios}], "accuracy")
    assert axes.get_yscale() == scale


def test_several_pairs_are_drawn_as_their_mean_and_range() -> None:
    rows = [pair_of(0.5), pair_of(0.7)]
    axes = panel()
    bars({})(axes, rows, "accuracy")
    [bar] = axes.patches
    assert bar.get_height() == pytest.approx(60)
    assert [text.get_text() for text in axes.texts] == ["60.0"]
    assert ranges(axes) == [[(0, 50), (0, 70)]]
    [ends] = axes.lines
    assert list(ends.get_ydata()) == pytest.approx([70, 70])

    axes = panel()
    over_x(EXPERIMENTS["vgg_depth"], {})(axes, [*rows, pair_of(0.4, x=16)], "accuracy")
    line = next(line for line in axes.lines if line.get_marker() == "o")
    assert line.get_xydata().ravel().tolist() == pytest.approx([11, 60, 16, 40])
    assert ranges(axes) == [[(11, 50), (11, 70)]]

    axes = panel()
    draw_curves(axes, rows, "accuracy")
    [line] = axes.lines
    assert list(line.get_xdata()) == [0, 0.3, 0.5, 1]
    assert list(line.get_ydata()) == pytest.approx([70, 65, 60, 70])
    assert ranges(axes)[2] == [(0.5, 50), (0.5, 70)]

    axes = panel()
    collapses = ({"relu1": 0.5, "relu2": 0.1}, {"relu1": 0.7, "relu2": 0.2})
    draw_collapse(axes, [{"collapse": {"aligned": ratios}} for ratios in collapses], "accuracy")
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.6, 0.15])
    assert ranges(axes) == [[(1, 0.5), (1, 0.7)], [(2, 0.1), (2, 0.2)]]


def test_what_split_data_is_compared_with_is_the_mean_of_all_pairs() -> None:
    rows = [pair_of(0.5), pair_of(0.7)]
    for row, whole in zip(rows, (0.8, 0.9), strict=True):
        row["baselines"] = {
            "ensemble": {"alphas": [0.5], "accuracy": [whole - 0.1]},
            "bias_corrected": [{"accuracy": whole - 0.3}, {"accuracy": whole - 0.2}],
            "full": {"accuracy": whole},
        }
    axes = panel()
    draw_curves(axes, rows, "accuracy")
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines[1:]}
    assert lines == {
        "ensemble": pytest.approx([70, 75, 70]),
        "better endpoint, bias-corrected": pytest.approx([65, 65]),
        "trained on all the data": pytest.approx([85, 85]),
    }
