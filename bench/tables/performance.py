"""The tables of docs/performance.md, from the committed result files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median
from typing import Any

from bench.tables.results import NOT_YET, measurements, read, source, table

CHIPS = ("NVIDIA H100", "NVIDIA H200", "NVIDIA A100")
UNITS = {  # head -> dtype and precision
    "bf16": ("bf16", "tf32x3"),
    "tf32": ("fp32", "tf32"),
    "tf32x3": ("fp32", "tf32x3"),
}

Rows = list[dict[str, Any]]


def micro(seconds: float | None) -> str:
    """Return a time in µs with three digits."""
    if seconds is None or math.isnan(seconds):
        return "–"
    value = 1e6 * seconds
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


def cases(op: str, form: str, layouts: tuple[str, ...] = ("channels_last", "rows")) -> Rows:
    """Return the predicted cases of an op in one form."""
    return [
        row
        for row in read("predicted.json")["rows"]
        if (row["op"], row["form"]) == (op, form) and row["layout"] in layouts
    ]


def by_name(rows: Rows) -> dict[str, dict[tuple[str, str], dict[str, Any]]]:
    """Return rows by tap, then by dtype and precision."""
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["name"], {})[row["dtype"], row["precision"]] = row
    return found


def floors() -> str:
    """Return which floor holds for every tap: counted work over data-sheet rates."""
    lines = []
    for name, row in by_name(cases("paired_moments", "cross")).items():
        wide, narrow = row["fp32", "tf32x3"], row["bf16", "tf32x3"]
        cells = [name, f"{wide['bytes'] / 1e6:.1f} / {narrow['bytes'] / 1e6:.1f}"]
        cells.append(f"{wide['flops'] / 1e9:.2f}")
        for chip in CHIPS:
            for unit in UNITS.values():
                known = row[unit]["chips"][chip]
                cells.append(f"{micro(known['floor'])} {known['bound'][0]}")
        lines.append(cells)
    heads = [f"{chip.removeprefix('NVIDIA ')} {unit}" for chip in CHIPS for unit in UNITS]
    return table(["tap", "MB fp32 / bf16", "Gflop", *heads], lines)


def predictions() -> str:
    """Return floor, prediction and measurement of every tap's cross sums on an H100."""
    chip, times = "NVIDIA H100", measured()
    lines = []
    for name, row in by_name(cases("paired_moments", "cross")).items():
        cells = [name]
        for provider, unit in (("ours", "bf16"), ("ours_tf32", "tf32"), ("ours", "tf32x3")):
            cells += _three(row[UNITS[unit]], chip, times, provider)
        lines.append(cells)
    heads = [f"{unit} {what}" for unit in UNITS for what in ("floor", "predicted", "measured")]
    return table(["tap", *heads], lines) + "\n\n" + source(read("predicted.json"))


def other_predictions() -> str:
    """Return the same of the other forms, of `channel_moments` and `lerp_rescale`, for ResNet50."""
    chip, times = "NVIDIA H100", measured()
    columns = {
        "joint": by_name(cases("paired_moments", "joint")),
        "diagonal": by_name(cases("paired_moments", "diagonal")),
        "channel_moments": by_name(cases("channel_moments", "")),
    }
    lines = []
    for name in columns["joint"]:
        if name.startswith("resnet50"):
            cells = [name]
            for rows in columns.values():
                row = next(row for (dtype, _), row in rows[name].items() if dtype == "bf16")
                cells += _three(row, chip, times, "ours")
            lines.append(cells)
    for form in ("plain", "gather"):
        for row in cases("lerp_rescale", form, ("",)):
            words = "permuted and rescaled" if form == "gather" else "as it is"
            name = f"lerp_rescale, {row['name']}, {row['dtype']}, {words}"
            lines.append([name, *_three(row, chip, times, "ours"), *[""] * 6])
    heads = [
        f"{column} {what}" for column in columns for what in ("floor", "predicted", "measured")
    ]
    return table(["bf16, channels-last", *heads], lines)


def _three(row: dict[str, Any], chip: str, times: dict, provider: str) -> list[str]:
    known = row["chips"][chip]
    took = times.get((chip, *(row[key] for key in ("op", "name", "dtype", "layout", "form"))), {})
    seconds = took.get(provider)
    predicted = f"{micro(known['predicted'])} ({known['predicted'] / known['floor']:.1f}×)"
    ratio = f" ({seconds / known['floor']:.2f}×)" if seconds else ""
    return [micro(known["floor"]), predicted, micro(seconds) + ratio]


def measured() -> dict[tuple[str, ...], dict[str, float]]:
    """Return times by chip, op, tap, dtype, layout and form, then by provider; the latest ones."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for result in measurements():
        chip = next((chip for chip in CHIPS if result["device"].startswith(chip)), "")
        for row in result["rows"]:
            case = row["case"]
            if case.get("alphas", "1") != "1":
                continue
            layout = "rows" if case["name"].count("x") == 1 else case.get("layout", "")
            place = chip, case["op"], case["name"], case["dtype"], layout, case.get("form", "")
            found[place] = {
                name: times["device_seconds"]
                for name, times in row["providers"].items()
                if "device_seconds" in times
            }
    return found


def providers() -> str:
    """Return the providers side by side: the cross sums of ResNet50's taps, in µs."""
    times = {
        place: row
        for place, row in measured().items()
        if place[1:2] == ("paired_moments",) and place[5] == "cross" and "resnet50" in place[2]
    }
    if not times:
        return NOT_YET
    names = sorted({name for row in times.values() for name in row})
    lines = [
        [place[0].removeprefix("NVIDIA "), *place[2:5], *(micro(row.get(name)) for name in names)]
        for place, row in times.items()
    ]
    return "\n".join(
        [table(["chip", "tap", "dtype", "layout", *names], lines), "", *map(source, measurements())]
    )


def compiled() -> str:
    """Return what the compiled kernels need and do, a line for each kernel and target."""
    result = read("compiled.json")
    groups: dict[tuple[str, str], Rows] = {}
    for row in result["rows"]:
        groups.setdefault((row["kernel"].strip("_").removesuffix("_kernel"), row["target"]), [])
        groups[row["kernel"].strip("_").removesuffix("_kernel"), row["target"]].append(row)
    lines = []
    for (kernel, target), rows in sorted(groups.items()):
        products = sorted({row["product"] for row in rows if row["product"]})
        wide = [row for row in rows if row["memory_bound"] and row["possible_load"]]
        full = [row for row in wide if row["widest_load"] >= row["possible_load"]]
        lines.append(
            [
                kernel,
                target,
                str(len(rows)),
                _range(row["registers"] for row in rows),
                f"{max(row['shared_bytes'] for row in rows) / 1024:.0f} KiB",
                str(sum(row["spill_bytes"] > 0 for row in rows)),
                ", ".join(products) or "–",
                f"{len(full)} of {len(wide)}" if wide else "–",
                _range(round(100 * row["occupancy"]) for row in rows) + " %",
            ]
        )
    heads = ["kernel", "target", "launches", "registers", "shared memory, at most", "spilling"]
    heads += ["tensor cores", "loads as wide as can be", "occupancy"]
    return table(heads, lines) + "\n\n" + source(result)


def _range(values: Iterable[int]) -> str:
    found = sorted(values)
    return str(found[0]) if found[0] == found[-1] else f"{found[0]}–{found[-1]}"


def designs() -> str:
    """Return what other designs of `paired_moments` are predicted to take, and what they need."""
    result = read("designs.json")
    columns = sorted({(row["channels"], row["values"]) for row in result["rows"]})
    found: dict[str, dict[tuple[int, str], dict[str, Any]]] = {}
    for row in result["rows"]:
        found.setdefault(row["design"], {})[row["channels"], row["values"]] = row
    floor = next(iter(found.values()))
    lines = [["floor", *(micro(floor[column]["floor"]) for column in columns)]]
    for design, rows in found.items():
        cells = [design]
        for column in columns:
            row = rows[column]
            spills = f" / {row['spill_bytes']}" if row["spill_bytes"] else ""
            cells.append(f"{micro(row['predicted'])} ({row['registers']}{spills})")
        lines.append(cells)
    heads = ["µs (registers / bytes spilled)", *(f"c = {c:,}, {values}" for c, values in columns)]
    return table(heads, lines) + "\n\n" + source(result)


def cost() -> str:
    """Return what `compute_stats` costs on a CPU beside two plain passes."""
    result = read("statistics_cost.json")
    lines = []
    for row in result["rows"]:
        cells = [row["case"], f"{1e3 * row['parts']['all']['plain_seconds']:.0f} ms"]
        for part in ("graph", "moments", "all"):
            found = row["parts"][part]
            low, high = found["ratio_quartiles"]
            cells.append(f"{found['ratio']:.2f} ({low:.2f}–{high:.2f})")
        lines.append(cells)
    heads = ["pair", "two plain passes", "graph", "+ moments", "+ products: all"]
    return table(heads, lines) + "\n\n" + source(result)


def cost_memory() -> str:
    """Return the memory of plain passes and of `compute_stats` on a CPU: medians and ranges."""
    result = read("statistics_memory.json")
    lines = []
    for row in result["rows"]:
        cells, medians = [row["case"]], []
        for what in ("plain", "statistics"):
            peaks, growths = (
                sorted(one[key] / 2**20 for one in row[what])
                for key in ("peak_bytes", "grown_bytes")
            )
            medians.append(median(peaks))
            spread = f"{medians[-1]:.0f} ({peaks[0]:.0f}–{peaks[-1]:.0f})"
            cells += [spread, f"{median(growths):.0f}"]
        lines.append([*cells, f"{medians[1] / medians[0]:.2f}"])
    heads = ["MiB", "plain passes", "grown by", "statistics", "grown by", "ratio"]
    return table(heads, lines) + "\n\n" + source(result)


def cost_shares() -> str:
    """Return by kind the shares of the operations' time in `compute_stats` on a CPU."""
    rows = read("statistics_cost.json")["rows"]
    kinds = sorted(rows[0]["shares"], key=lambda kind: -rows[0]["shares"][kind])
    return table(
        ["pair", *kinds],
        [[row["case"], *(f"{100 * row['shares'][kind]:.1f} %" for kind in kinds)] for row in rows],
    )
