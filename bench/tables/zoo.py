"""The tables of docs/architectures.md, from bench/results/zoo.json."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

from bench.tables.results import read, source, table
from bench.zoo_names import FAMILIES

Row = dict[str, Any]
ALONE = "no other channel is like it"
"""Reason of a channel that is the only one of its kind: there is nothing to exchange it with."""


def summary() -> str:
    """Return how many networks there are, and of how many what holds."""
    rows = read("zoo.json")["rows"]
    captured = [row for row in rows if row["captured"]]
    same = [row for row in captured if row["same"]]
    whole = [row for row in captured if is_whole(row)]
    seen = [row["control"] for row in captured if "control" in row]
    listed = sum(len(family.names) for family in FAMILIES.values())
    slowest = max(captured, key=lambda row: row["seconds"])
    counts = {
        "networks (of those in `bench/zoo_names.py`)": f"{len(rows)} ({listed})",
        "captured": f"{len(captured)} ({100 * len(captured) / len(rows):.1f} %)",
        "permuted network is the same function": f"{len(same)} of {len(captured)}",
        "all channels of all inner layers can move": f"{len(whole)} of {len(captured)}",
        "smallest deviation when one axis is left out (control)": f"{min(seen):.0e}",
        "largest deviation relative to that of rounding": f"{max(map(_excess, captured)):.1f}×",
        "trace and groups, median / slowest, on one core": (
            f"{median(row['seconds'] for row in captured):.1f} s / "
            f"{slowest['seconds']:.1f} s ({_name(slowest)})"
        ),
    }
    return table(["", ""], counts.items()) + "\n\n" + source(read("zoo.json"))


def families() -> str:
    """Return a line for each family."""
    rows = read("zoo.json")["rows"]
    lines = []
    for family, known in FAMILIES.items():
        mine = [row for row in rows if row["family"] == family]
        captured = [row for row in mine if row["captured"]]
        if not captured:
            continue
        lines.append(
            [
                family + (" \\*" if known.classic else ""),
                f"{len(captured)} of {len(mine)}",
                f"{sum(row['same'] for row in captured)} of {len(captured)}",
                _range([row["widths"] for row in captured]),
                _range([row["movable"] for row in captured]),
                f"{max(row['seconds'] for row in captured):.1f}",
            ]
        )
    heads = ["family", "captured", "same function", "inner channels that can move, %"]
    return table([*heads, "parameters that can move, %", "trace and groups, s, at most"], lines)


def networks() -> str:
    """Return a line for each network."""
    lines = []
    for row in read("zoo.json")["rows"]:
        if row["captured"]:
            numbers = [
                str(row["groups"]),
                _percent(row["widths"]),
                _percent(row["movable"]),
                f"{row['deviation']:.0e} / {row['rounding']:.0e}",
                f"{row['seconds']:.1f}",
                "; ".join(f"{why.replace('|', '/')} ({n})" for why, n in row["pins"][:2]),
            ]
        else:
            numbers = ["", "", "", "", "", row["why"].replace("|", "/")]
        millions = f"{row['parameters'] / 1e6:.1f}" if "parameters" in row else ""
        lines.append([_name(row), str(row.get("input", "")), millions, *numbers])
    heads = ["network", "input", "parameters, M", "groups", "inner channels, %", "parameters, %"]
    heads += ["deviation / rounding", "s", "what pins the rest (channels), or why not captured"]
    return table(heads, lines)


def pins() -> str:
    """Return what pins channels of inner layers, in how many networks, most frequent first."""
    networks_of: Counter[str] = Counter()
    channels: Counter[str] = Counter()
    for row in read("zoo.json")["rows"]:
        for why, count in row.get("pins", []):
            networks_of[why] += 1
            channels[why] += count
    lines = [[why, str(count), str(channels[why])] for why, count in networks_of.most_common(20)]
    return table(["reason", "networks", "channels"], lines)


def is_whole(row: Row) -> bool:
    """Return whether every inner channel moves, but those that are the only ones of their kind."""
    return all(why == ALONE for why, _ in row["pins"])


def _excess(row: Row) -> float:
    return row["deviation"] / max(row["rounding"], 1e-15)


def _name(row: Row) -> str:
    name = row["name"]
    return f"torchvision {name[3:]}" if name.startswith("tv:") else f"timm {name}"


def _percent(share: float) -> str:
    """Return a share in %; only all is 100."""
    return "100" if share == 1 else f"{min(99.9, 100 * share):.1f}"


def _range(shares: list[float]) -> str:
    low, high = _percent(min(shares)), _percent(max(shares))
    return low if low == high else f"{low}–{high}"
