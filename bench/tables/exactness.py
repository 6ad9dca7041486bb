"""The tables of how exactly corrected networks meet their goals."""

from __future__ import annotations

from typing import Any

from bench.tables.results import read, source, table

FILE = "exactness.json"
VARIANTS = ("sequential", "forward")
BATCHES = "batches"


def goals() -> str:
    """Return the largest errors of each case, a line for each."""
    file = read(FILE)
    lines = [
        [
            f"{row['network']}, {row['case']}",
            str(row["taps"]),
            str(row["dead"] or "–"),
            *(_pair(row[variant]) for variant in VARIANTS),
        ]
        for row in file["rows"]
        if row["case"] != BATCHES
    ]
    head = ["networks", "taps", "dead channels", *(f"{v}: mean / std" for v in VARIANTS)]
    return "\n".join([table(head, lines), "", source(file)])


def batches() -> str:
    """Return by how much batches change weights, a line for each network and variant."""
    file = read(FILE)
    rows = [row for row in file["rows"] if row["case"] == BATCHES]
    sizes = list(rows[0][VARIANTS[0]])
    lines = [
        [row["network"], variant, *(f"{row[variant][size]:.0e}" for size in sizes)]
        for row in rows
        for variant in VARIANTS
    ]
    return "\n".join([table(["networks", "variant", *sizes], lines), "", source(file)])


def _pair(errors: dict[str, Any]) -> str:
    return f"{errors['mean']:.0e} / {errors['std']:.0e}"
