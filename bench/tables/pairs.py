"""The table of README.md: real networks, merged."""

from __future__ import annotations

from bench.tables.results import read, source

ROWS = {
    "plain": "plain average",
    "none": "aligned",
    "reset_norm": "aligned + BatchNorm reset",
    "closed_form": "aligned + REPAIR, closed form",
    "forward": "aligned + REPAIR, forward",
    "sequential": "aligned + REPAIR, sequential",
    "distilled": "aligned + REPAIR, distilled",
}


def accuracies() -> str:
    """Return the accuracies of merged real networks, and where they were measured."""
    files = [read("real_pairs.json"), read("embedded_pairs.json")]
    pairs = [pair for file in files for pair in file["pairs"]]
    lines = ["| accuracy in % at alpha = .5 | " + " | ".join(p["pair"] for p in pairs) + " |"]
    lines.append("|---" * (len(pairs) + 1) + "|")
    ends = [" / ".join(percent(end) for end in pair["endpoints"]) for pair in pairs]
    lines.append(f"| endpoints | {' | '.join(ends)} |")
    for variant, label in ROWS.items():
        merged = [pair["midpoints"].get(variant) for pair in pairs]
        cells = [percent(metrics) if metrics else "–" for metrics in merged]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(source(file) for file in files)])


def percent(metrics: dict[str, float]) -> str:
    """Return an accuracy in %."""
    return f"{100 * metrics['accuracy']:.2f}"
