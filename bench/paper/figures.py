"""The pictures, drawn from result files alone.

Of several pairs of seeds there is the mean, and a bar from the least to the largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.paper.experiments import EXPERIMENTS, Experiment
from bench.paper.published import PUBLISHED, Published
from bench.paper.ways import WAYS
from models.run import replacing
from repair_kernels.plotting import plot_filters

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
Pairs = Sequence[Sequence[float]]
"""At each place, the values of all pairs of seeds."""
Known = Mapping[str, Mapping[float, Published]]
"""Published figures by series and x."""
DPI = 80
PANEL = (4.6, 3.9)
LARGE_RATIO = 10


def draw(name: str, size: str, rows: Rows, file: Path) -> None:
    """Draw the picture of an experiment in one size; filters go beside curves, into `-filters`."""
    experiment = EXPERIMENTS[name]
    title = f"{experiment.title} ({size} size)" if size != "full" else experiment.title
    if experiment.filters:
        ends = (torch.tensor(rows[0]["filters"][end]) for end in "ab")
        beside = file.with_name(f"{file.stem}-filters.png") if experiment.curve else file
        plot_filters(*ends, beside, title=title)
    if experiment.filters and not experiment.curve:
        return
    if experiment.collapse:
        _draw_panels(file, title, _by_series(rows), draw_collapse)
    elif experiment.curve:
        _draw_panels(file, title, _by_series(rows), draw_curves, metrics=("accuracy", "loss"))
    else:
        known = _published(name) if size == "full" else {}
        draw_one = over_x(experiment, known) if experiment.axis else bars(known)
        _draw_panels(file, title, _by_series(rows), draw_one)


def _by_series(rows: Rows) -> dict[str, Rows]:
    found: dict[str, list] = {}
    for row in rows:
        kind = " (the paper's recipe)" if row["kind"] == "paper" else ""
        found.setdefault(row["series"] + kind, []).append(row)
    return found


def _draw_panels(
    file: Path,
    title: str,
    series: Mapping[str, Rows],
    draw_one: Callable[[Axes, Rows, str], None],
    metrics: Sequence[str] = ("accuracy",),
) -> None:
    from matplotlib.figure import Figure

    columns = min(3, max(len(series), len(metrics))) if len(metrics) == 1 else len(metrics)
    panels = [(name, metric) for name in series for metric in metrics]
    lines = math.ceil(len(panels) / columns)
    width = PANEL[0] * columns if columns > 1 else 6.0
    figure = Figure(figsize=(width, PANEL[1] * lines + 0.9), dpi=DPI, layout="constrained")
    figure.suptitle(title)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    handles: dict[str, Any] = {}
    for axes, (name, metric) in zip(grid, panels, strict=False):
        draw_one(axes, series[name], metric)
        axes.set_title(name, fontsize="medium")
        axes.grid(alpha=0.3)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.legend(
        handles.values(),
        handles,
        loc="outside lower center",
        ncols=3 if columns > 1 else 2,
        fontsize="small",
    )
    with replacing(file) as temporary:
        figure.savefig(temporary, format="png")


def midpoint(row: Mapping[str, Any], way: str, metric: str = "accuracy") -> float | None:
    """Return a metric at alpha = .5; None if the pair was not merged in this way."""
    curve = row["curves"].get(way)
    return None if curve is None else curve[metric][curve["alphas"].index(0.5)]


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def _draw_line(axes: Axes, places: Sequence[float], pairs: Pairs, way: str) -> None:
    """Draw what one way gives at all places: the values of each pair of seeds."""
    marked = {"marker": "o", "markersize": 3, "color": WAYS[way].colour, "label": WAYS[way].label}
    axes.plot(places, [mean(values) for values in pairs], **marked)
    _draw_range(axes, places, pairs, WAYS[way].colour)


def _draw_range(axes: Axes, places: Sequence[float], pairs: Pairs, colour: str) -> None:
    for x, values in zip(places, pairs, strict=True):
        if len(values) > 1:
            axes.vlines(x, min(values), max(values), colors=colour, linewidth=1)


def draw_curves(axes: Axes, rows: Rows, metric: str) -> None:
    """Draw the paths of all ways from one endpoint to the other, and what they compare with."""
    factor = 100 if metric == "accuracy" else 1
    for way, curve in rows[0]["curves"].items():
        paths = [_with_ends(row, row["curves"][way], metric) for row in rows]
        pairs = [[factor * value for value in values] for values in zip(*paths, strict=True)]
        _draw_line(axes, [0, *curve["alphas"], 1], pairs, way)
    for label, style, places, values in _baselines(rows, metric):
        line = {"linestyle": style, "color": "black", "linewidth": 1}
        axes.plot(places, [factor * value for value in values], **line, label=label)
    axes.set_xlabel("alpha: weight of the second network")
    axes.set_ylabel("test accuracy, %" if metric == "accuracy" else "test loss")


def _with_ends(
    row: Mapping[str, Any], curve: Mapping[str, Sequence[float]], metric: str
) -> list[float]:
    first, second = (end[metric] for end in row["endpoints"])
    return [first, *curve[metric], second]


def _baselines(rows: Rows, metric: str) -> Iterator[tuple[str, str, list[float], list[float]]]:
    """Yield label, line style, alphas and means of what split-data training is compared with."""
    if "baselines" not in rows[0]:
        return
    held = [row["baselines"] for row in rows]
    paths = [_with_ends(row, row["baselines"]["ensemble"], metric) for row in rows]
    alphas = [0.0, *held[0]["ensemble"]["alphas"], 1.0]
    yield "ensemble", "-", alphas, [mean(values) for values in zip(*paths, strict=True)]
    better = max if metric == "accuracy" else min
    best = mean([better(end[metric] for end in found["bias_corrected"]) for found in held])
    yield "better endpoint, bias-corrected", ":", [0.0, 1.0], [best] * 2
    whole = mean([found["full"][metric] for found in held])
    yield "trained on all the data", "--", [0.0, 1.0], [whole] * 2


def over_x(experiment: Experiment, known: Known) -> Callable[[Axes, Rows, str], None]:
    """Return what draws a line for each way over depth or width, and the published figures."""

    def draw_one(axes: Axes, rows: Rows, metric: str) -> None:
        places = sorted({row["x"] for row in rows})
        at = {x: [row for row in rows if row["x"] == x] for x in places}
        ends = [mean([e[metric] for row in at[x] for e in row["endpoints"]]) for x in places]
        line = {"color": "black", "linestyle": "--", "linewidth": 1, "marker": "_"}
        axes.plot(places, [100 * v for v in ends], **line, label="endpoints")
        for way in dict.fromkeys(way for row in rows for way in row["curves"]):
            held = [x for x in places if any(way in row["curves"] for row in at[x])]
            pairs = [[100 * midpoint(r, way) for r in at[x] if way in r["curves"]] for x in held]
            _draw_line(axes, held, pairs, way)
        published = known.get(rows[0]["series"], {})
        _draw_published(axes, published)
        if experiment.axis in ("width", "learning rate"):
            axes.set_xscale("log", base=2)
        ticks = sorted({*places, *published})
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.set_ylim(0, 100)
        axes.set_xlabel(experiment.axis)
        axes.set_ylabel("test accuracy at alpha = .5, %")

    return draw_one


def _published(name: str) -> Known:
    found: dict[str, dict[float, Published]] = {}
    for (experiment, series, x), known in PUBLISHED.items():
        if experiment == name and known.repaired is not None:
            found.setdefault(series, {})[x] = known
    return found


def _draw_published(axes: Axes, known: Mapping[float, Published]) -> None:
    marks = (
        ("aligned", "aligned", "aligned"),
        ("REPAIR", "repaired", "forward"),
        ("REPAIR, closed form", "closed_form", "closed_form"),
    )
    for label, name, way in marks:
        values = {x: getattr(found, name) for x, found in known.items()}
        values = {x: value for x, value in values.items() if value is not None}
        if values:
            axes.plot(
                list(values),
                list(values.values()),
                linestyle="none",
                marker="x",
                color=WAYS[way].colour,
                label=f"published: {label}",
            )


def draw_collapse(axes: Axes, rows: Rows, metric: str) -> None:
    """Draw the variance at every activation, as a part of the endpoints'."""
    largest = 0.0
    for way, ratios in rows[0]["collapse"].items():
        pairs = [[row["collapse"][way][activation] for row in rows] for activation in ratios]
        largest = max(largest, *(max(values) for values in pairs))
        _draw_line(axes, range(1, len(ratios) + 1), pairs, way)
    axes.axhline(1, color="black", linestyle="--", linewidth=1, label="endpoints")
    if largest > LARGE_RATIO:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("activation, from the input to the output")
    axes.set_ylabel("variance / mean variance of the endpoints")


def bars(known: Known) -> Callable[[Axes, Rows, str], None]:
    """Return what draws a bar for each way, and marks of the published figures."""

    def draw_one(axes: Axes, rows: Rows, metric: str) -> None:
        row = rows[0]
        ways = list(row["curves"])
        ends = 100 * mean([end[metric] for row in rows for end in row["endpoints"]])
        for place, way in enumerate(ways):
            values = [100 * midpoint(row, way, metric) for row in rows]
            value = mean(values)
            axes.bar(place, value, color=WAYS[way].colour, label=WAYS[way].label)
            _draw_range(axes, [place], [values], "black")
            # At the foot, where neither lines nor marks are.
            axes.annotate(f"{value:.1f}", (place, 3), ha="center", size="small", color="white")
        axes.axhline(ends, color="black", linestyle="--", linewidth=1, label="endpoints")
        published = known.get(row["series"], {}).get(row["x"])
        if published is not None:
            values = {
                "aligned": published.aligned,
                "closed_form": published.closed_form,
                # The authors' networks with BatchNorms had their statistics reset.
                "reset" if "reset" in ways else "forward": published.repaired,
            }
            held = {ways.index(way): values[way] for way in values if way in ways}
            mark = {"linestyle": "none", "marker": "x", "color": "black"}
            axes.plot(held.keys(), held.values(), **mark, label="published: aligned, REPAIR")
        axes.set_xticks([])
        axes.set_ylim(0, 100)
        axes.set_ylabel("test accuracy at alpha = .5, %")

    return draw_one
