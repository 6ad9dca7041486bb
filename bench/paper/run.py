"""All points of the experiments in order, within a time, and their results as they come.

Each point's row is written when it is measured, and left alone when it is there already: a run that
was cut off goes on. Endpoints are shared between experiments (`endpoints.py`).
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.measuring.provenance import commit, device_name
from bench.paper.endpoints import OutOfTimeError
from bench.paper.experiments import EXPERIMENTS, Experiment
from bench.paper.imagenet import MissingError
from bench.paper.measure import measure
from bench.paper.points import Point
from bench.paper.sources import Settings, source_of
from bench.paper.ways import WAYS, matched_by
from models.datasets import DataNotFoundError
from models.run import replacing


@dataclass(frozen=True)
class NotRun:
    """A point that has no result, and why; `failed`: because of an error, which is printed."""

    title: str
    reason: str
    failed: bool = False


def run(
    names: Sequence[str],
    settings: Settings,
    series: str | None = None,
    places: Sequence[float] | None = None,
) -> list[NotRun]:
    """Run experiments, the most telling points first; return what was not run.

    A point that fails does not keep the others from being run.

    Args:
        names: of experiments
        settings: how they are run
        series: the only line of their pictures
        places: the only x on these lines
    """
    size = settings.size
    todo = [
        (point.rank, name, point)
        for name in names
        for point in EXPERIMENTS[name].points
        if size.name in point.sizes
        and series in (None, point.series)
        and (places is None or point.x in places)
    ]
    left = []
    for pair in range(settings.pairs):
        for _, name, point in sorted(todo, key=lambda item: item[0]):
            title = f"{name}: {point.series}, {point.x:g}, seeds {2 * pair} and {2 * pair + 1}"
            try:
                check_time(settings)
                print(title, flush=True)
                run_point(name, point, (2 * pair, 2 * pair + 1), settings)
            except OutOfTimeError:
                left.append(NotRun(title, "no time left"))
            except (DataNotFoundError, MissingError) as error:
                left.append(NotRun(title, str(error)))
            except (RuntimeError, ValueError) as error:
                traceback.print_exc()
                left.append(NotRun(title, str(error), failed=True))
    return left


def run_point(name: str, point: Point, seeds: tuple[int, int], settings: Settings) -> None:
    """Measure one pair of endpoints, unless it is measured already."""
    experiment, size = EXPERIMENTS[name], settings.size
    if settings.train_only and experiment.source != "trained":
        return
    file, began = settings.out / f"{name}-{size.name}.json", time.perf_counter()
    source = source_of(experiment, point, seeds, settings)
    identity = source.identity | _merging(experiment, point, settings)
    place = {"series": point.series, "x": point.x, "seeds": list(seeds), "kind": settings.kind}
    if any(_is_at(row, place) and row["identity"] == _plain(identity) for row in read_rows(file)):
        print("    is there already")
        return
    opened = source.open()
    if settings.train_only:
        return
    found = measure(
        opened.models,
        opened.calibration,
        opened.tests,
        experiment,
        point,
        size,
        device=settings.device,
        check=lambda: check_time(settings),
    )
    row = {
        **place,
        "identity": identity,
        "parameters": sum(p.numel() for p in opened.models[0].parameters()),
        **found,
        **opened.facts,
        "seconds": round(time.perf_counter() - began, 1),
        "device": device_name(settings.device),
        "torch": torch.__version__,
        "commit": commit(),
    }
    others = [other for other in read_rows(file) if not _is_at(other, place)]
    write_rows(file, name, size.name, _in_order(experiment, [*others, row]))


def check_time(settings: Settings) -> None:
    """Stop where the time given is over.

    Raises:
        OutOfTimeError: when it is
    """
    if settings.deadline is not None and time.monotonic() > settings.deadline:
        raise OutOfTimeError


def _merging(experiment: Experiment, point: Point, settings: Settings) -> dict[str, Any]:
    """Return what decides a result besides the endpoints."""
    size, names = settings.size, point.ways or experiment.ways
    return {
        "calibration": point.calibration or size.calibration,
        "matched_by": {name: matched_by(name) for name in names},
        "alphas": {name: size.alphas(experiment.curve, WAYS[name].slow) for name in names},
        "measures": [experiment.collapse, experiment.filters],
    }


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a result file; none if there is no file."""
    return json.loads(file.read_text())["rows"] if file.is_file() else []


def write_rows(file: Path, name: str, size: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a result file, a line for each row."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    with replacing(file) as temporary:
        temporary.write_text(
            f'{{"experiment": "{name}", "size": "{size}", "rows": [\n{lines}\n]}}\n'
        )


def _plain(value: Any) -> Any:
    """Return a value as it is read back from JSON."""
    return json.loads(json.dumps(value))


def _is_at(row: Mapping[str, Any], place: Mapping[str, Any]) -> bool:
    return all(row[key] == value for key, value in place.items())


def _in_order(experiment: Experiment, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    series = list(dict.fromkeys(point.series for point in experiment.points))
    return sorted(
        rows, key=lambda row: (row["kind"], series.index(row["series"]), row["x"], row["seeds"])
    )
