"""Draw the pictures of all results, and write docs/paper.md.

python -m bench.paper.report            both
python -m bench.paper.report --check    change nothing; exit 1 if the document is not what the
                                        results say
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.paper.endpoints import ROOT
from bench.paper.experiments import EXPERIMENTS, Experiment
from bench.paper.figures import draw, mean, midpoint
from bench.paper.points import Point
from bench.paper.published import PUBLISHED, Published
from bench.paper.sources import Settings
from bench.paper.ways import WAYS
from models.recipes import RECIPES

RESULTS = Settings.out
DOCUMENT = ROOT / "docs" / "paper.md"
PICTURES = ROOT / "docs" / "images" / "paper"
REACHED = 0.5
"""Points of accuracy that a midpoint may lack and still be called reached."""
ROUNDING = 0.05
"""Points that a midpoint must have more to be called beaten."""

Rows = Sequence[Mapping[str, Any]]

HEAD = """# The paper's experiments

Written by `python -m bench.paper.report` from the files in
[bench/results/paper](../bench/results/paper); do not edit. `python -m bench.paper --size
cpu|full` measures what is in the paper, and with `--all` what is not; it goes on where it was cut
off.

Every figure is measured on all test images, at alpha = .5 where nothing else is said. *The
paper's way* matches each group at one activation and corrects with what REPAIR proposes: the
forward variant at convolutions, linear maps and residual blocks; the closed form; or, for
networks with BatchNorms, their statistics computed anew, with which the authors' CIFAR figures
were made. *Ours* is `repair_kernels.repair` with its defaults: matched at all activations and by
weights, signs turned, distilled ([repair.md](repair.md)). Both use permutations and per-channel
scales and shifts only, and the same 5,000 training images (2,000 at `cpu` size) where nothing else
is said, without labels.

Published figures are those that the authors committed with their notebooks, and for ImageNet
those of the paper. A verdict is given only where a network of the paper's size was trained on the
whole data set (`full`), and compares with the published midpoint: *beaten*, *reached* (at most
half a point less) or *short*. What was run with smaller networks and less data (`cpu`) shows the
effect, and says nothing about the published figure. Endpoints were trained for fewer epochs than
the paper's where the table says so. Of several pairs of seeds there is the mean, and in parentheses
the least and the largest. What was not run is listed.
"""


def read_results(folder: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return rows by experiment and size, "full" first."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in EXPERIMENTS:
        for size in ("full", "cpu"):
            file = folder / f"{name}-{size}.json"
            if file.is_file():
                found.setdefault(name, {})[size] = json.loads(file.read_text())["rows"]
    return found


def document(results: Mapping[str, Mapping[str, Rows]]) -> str:
    """Return the text of docs/paper.md."""
    sections = [_section(name, results.get(name, {})) for name in EXPERIMENTS]
    return "\n".join([HEAD, _summary(results), *sections]).rstrip() + "\n"


def _summary(results: Mapping[str, Mapping[str, Rows]]) -> str:
    lines = ["| experiment | paper | run at | verdicts |", "|---|---|---|---|"]
    for name, experiment in EXPERIMENTS.items():
        sizes = results.get(name, {})
        counted = Counter(
            f"{label}: {word(margin)}"
            for size, series, x, _, rows in _groups(sizes)
            for known in [PUBLISHED.get((name, series, x))]
            if size == "full" and known is not None and known.repaired is not None
            for label, margin in margins(rows, known).items()
        )
        said = ", ".join(f"{what} {times}×" for what, times in sorted(counted.items()))
        anchor = "".join(c for c in experiment.title.lower() if c.isalnum() or c in " -")
        link = f"[{experiment.title}](#{anchor.replace(' ', '-')})"
        lines.append(
            f"| {link} | {_place(experiment)} | {', '.join(sizes) or 'not run'} | {said or '–'} |"
        )
    return "\n".join(lines) + "\n"


def _section(name: str, sizes: Mapping[str, Rows]) -> str:
    experiment = EXPERIMENTS[name]
    parts = [f"## {experiment.title}\n", f"*{_place(experiment)}.* {experiment.claim}\n"]
    for size in sizes:
        for stem in _pictures(name, size, experiment):
            parts.append(f"![{experiment.title}](images/paper/{stem}.png)\n")
    parts += [f"{table}\n" for table in [_table(name, experiment, sizes)] if table]
    if experiment.split:
        parts += _split_lines(sizes)
    if experiment.note:
        parts.append(f"{experiment.note}\n")
    missing = _named_together(experiment, _missing(experiment, sizes))
    if missing:
        parts.append(f"Not run at full size: {missing}.\n")
    if sizes:
        parts.append(_sources(sizes))
    return "\n".join(parts)


def _place(experiment: Experiment) -> str:
    return experiment.figure or "Not in the paper"


def _pictures(name: str, size: str, experiment: Experiment) -> list[str]:
    both = experiment.filters and experiment.curve
    return [f"{name}-{size}", f"{name}-{size}-filters"] if both else [f"{name}-{size}"]


def _groups(sizes: Mapping[str, Rows]) -> Iterator[tuple[str, str, float, str, Rows]]:
    """Yield size, series, x, kind of recipe, and the rows of all pairs of seeds."""
    for size, rows in sizes.items():
        places = dict.fromkeys((row["series"], row["x"], row["kind"]) for row in rows)
        for place in places:
            same = [row for row in rows if (row["series"], row["x"], row["kind"]) == place]
            yield (size, *place, same)


def _table(name: str, experiment: Experiment, sizes: Mapping[str, Rows]) -> str:
    ways = [
        way for way in WAYS if any(way in row["curves"] for rows in sizes.values() for row in rows)
    ]
    axis = [experiment.axis] if experiment.axis else []
    head = [
        "endpoints of",
        *axis,
        "size; epochs, rate, images; pairs",
        "published: ends / aligned / REPAIR",
    ]
    head += ["endpoints", *(WAYS[way].label for way in ways), "verdict"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for size, series, x, _, rows in _groups(sizes):
        known = PUBLISHED.get((name, series, x))
        cells = [_named(series, rows[0]), *([f"{x:g}"] if axis else [])]
        cells += [f"{size}; {epochs_of(rows[0], name)}; {len(rows)}", _published(known)]
        cells += [_percent(mean([end["accuracy"] for row in rows for end in row["endpoints"]]))]
        cells += [midpoints(rows, way) for way in ways]
        lines.append(f"| {' | '.join([*cells, verdict(rows, known, size)])} |")
    for point in _missing(experiment, sizes):
        known = PUBLISHED.get((name, point.series, point.x))
        if known is not None:
            cells = [point.series, *([f"{point.x:g}"] if axis else []), "full", _published(known)]
            lines.append(f"| {' | '.join([*cells, *'–' * (1 + len(ways)), 'not run'])} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _named(series: str, row: Mapping[str, Any]) -> str:
    """Return the series, and which network stands in for it."""
    options = row["identity"].get("recipe", {}).get("options", {})
    channels = options.get("channels")
    narrow = f", {channels[0]}–{channels[-1]} channels" if channels else ""
    if isinstance(options.get("width"), float):
        narrow = f", channels × {options['width']:g}"
    return series + narrow + (", the paper's recipe" if row["kind"] == "paper" else "")


def epochs_of(row: Mapping[str, Any], name: str) -> str:
    """Return how long, at what rate and on what a row's endpoints were trained: all cycles."""
    recipe = row["identity"].get("recipe")
    if recipe is None:
        return "as it was given"
    published = next(
        RECIPES[point.recipe].epochs
        for point in EXPERIMENTS[name].points
        if (point.series, point.x) == (row["series"], row["x"])
    )
    images = row["identity"]["images"]
    mixed = ", bf16" if row["identity"]["precision"] == "bf16" else ""
    of_set = f"{images['train']:,} of {images['set']}"
    cycles = [recipe]
    while "after" in cycles[0]:
        cycles.insert(0, cycles[0]["after"])
    epochs = " + ".join(str(cycle["epochs"]) for cycle in cycles)
    rates = " + ".join(f"{cycle['lr']:.3g}" for cycle in cycles)
    return f"{epochs} of {published}, rate {rates}, {of_set}{mixed}"


def _published(known: Published | None) -> str:
    if known is None:
        return "–"
    found = (known.ends, known.aligned, known.repaired)
    text = " / ".join("–" if value is None else f"{value:g}" for value in found)
    more = f" (closed form {known.closed_form:g})" if known.closed_form is not None else ""
    return text + more + (f" (blocks {known.blocks:g})" if known.blocks is not None else "")


def midpoints(rows: Rows, way: str) -> str:
    """Return the mean of the midpoints of all pairs, in %, and the least and the largest."""
    values = [midpoint(row, way) for row in rows if way in row["curves"]]
    if not values:
        return "–"
    least, largest = _percent(min(values)), _percent(max(values))
    return _percent(mean(values)) + ("" if least == largest else f" ({least}–{largest})")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def margins(rows: Rows, known: Published) -> dict[str, float]:
    """Return by how many points midpoints exceed the published ones: the paper's ways, and ours."""
    goal = known.repaired if known.blocks is None else known.blocks
    goals = (
        ("paper's way", ("reset", "forward"), goal),
        ("closed form", ("closed_form",), known.closed_form),
        ("ours", ("ours",), goal),
    )
    found = {}
    for label, ways, published in goals:
        held = [way for way in ways if all(way in row["curves"] for row in rows)]
        if held and published is not None:
            found[label] = 100 * mean([midpoint(row, held[0]) for row in rows]) - published
    return found


def word(margin: float) -> str:
    """Return what a margin is called."""
    return "beaten" if margin >= ROUNDING else "reached" if margin >= -REACHED else "short"


def verdict(rows: Rows, known: Published | None, size: str) -> str:
    """Return how the midpoints of a point compare with the published one."""
    if size != "full":
        return "not at full size"
    if known is None or known.repaired is None:
        return "no published figure"
    found = margins(rows, known)
    said = [f"{label}: {word(m)} ({round(m, 1) + 0.0:+.1f})" for label, m in found.items()]
    return ", ".join(said)


def _split_lines(sizes: Mapping[str, Rows]) -> list[str]:
    lines = []
    for size, rows in sizes.items():
        for row in rows:
            held = row["baselines"]
            best = {
                WAYS[way].label: min(zip(curve["loss"], curve["alphas"], strict=True))
                for way, curve in row["curves"].items()
            }
            merged = ", ".join(f"{label} {loss:.3f} at {t:g}" for label, (loss, t) in best.items())
            ends = " and ".join(f"{end['loss']:.3f}" for end in row["endpoints"])
            corrected = " and ".join(f"{end['loss']:.3f}" for end in held["bias_corrected"])
            lines.append(
                f"Test losses on {row['identity']['images']['set']} ({size}): endpoints {ends}; "
                f"bias-corrected {corrected}; lowest on the path: {merged}; ensemble "
                f"{min(held['ensemble']['loss']):.3f}; trained on all the data "
                f"{held['full']['loss']:.3f}.\n"
            )
    return lines


def _missing(experiment: Experiment, sizes: Mapping[str, Rows]) -> list[Point]:
    """Return the points that were not run at full size."""
    done = {(row["series"], row["x"]) for row in sizes.get("full", ())}
    return [
        point
        for point in experiment.points
        if "full" in point.sizes and (point.series, point.x) not in done
    ]


def _named_together(experiment: Experiment, points: Sequence[Point]) -> str:
    left: dict[str, list[Point]] = {}
    for point in points:
        left.setdefault(point.series, []).append(point)
    return "; ".join(
        f"{series} {', '.join(f'{point.x:g}' for point in same)}" if experiment.axis else series
        for series, same in left.items()
    )


def _sources(sizes: Mapping[str, Rows]) -> str:
    rows = [row for rows in sizes.values() for row in rows]
    devices = ", ".join(dict.fromkeys(row["device"] for row in rows))
    commits = ", ".join(dict.fromkeys(row["commit"][:12] + row["commit"][40:] for row in rows))
    versions = ", ".join(dict.fromkeys(row["torch"] for row in rows))
    return f"<sub>On {devices}; torch {versions}; commit {commits}.</sub>\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.paper.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)
    results = read_results(RESULTS)
    text = document(results)
    if options.check:
        current = DOCUMENT.is_file() and DOCUMENT.read_text() == text
        print(f"{DOCUMENT}: {'as the results say' if current else 'not what the results say'}")
        return int(not current)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, sizes in results.items():
        for size, rows in sizes.items():
            draw(name, size, rows, PICTURES / f"{name}-{size}.png")
    DOCUMENT.write_text(text)
    print(f"written: {DOCUMENT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
