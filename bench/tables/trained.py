"""How the default of `repair` does on every pair of the paper's experiments, from their results."""

from __future__ import annotations

import json
from typing import Any

from bench.tables.results import RESULTS, table

PAPERS_WAYS = ("reset", "forward", "closed_form")


def least_gains() -> str:
    """Return by experiment what "ours" gains at the midpoint: the least of all its pairs."""
    lines = []
    for file in sorted((RESULTS / "paper").glob("*.json")):
        held = json.loads(file.read_text())
        gains = [gain for row in held["rows"] if (gain := gains_of(row)) is not None]
        if not gains:
            continue
        least = [min(gain[i] for gain in gains) for i in range(2)]
        cells = [f"{100 * gain:+.1f}" for gain in least]
        better = [str(sum(gain[i] >= 0 for gain in gains)) for i in range(2)]
        name = f"{held['experiment']}, {held['size']}"
        lines.append([name, str(len(gains)), better[0], cells[0], better[1], cells[1]])
    heads = ["experiment, size", "pairs", "no worse than aligned", "least gain, points"]
    return table([*heads, "no worse than the paper's ways", "least gain, points"], lines)


def gains_of(row: dict[str, Any]) -> tuple[float, float] | None:
    """Return what "ours" has more at alpha .5 than "aligned", and than the best of the paper's."""
    found = {
        name: curve["accuracy"][curve["alphas"].index(0.5)]
        for name, curve in row["curves"].items()
        if 0.5 in curve["alphas"]
    }
    papers = [found[name] for name in PAPERS_WAYS if name in found]
    if "ours" not in found or "aligned" not in found or not papers:
        return None
    return found["ours"] - found["aligned"], found["ours"] - max(papers)
