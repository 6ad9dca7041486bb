"""Committed result files, and Markdown made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"
NOT_YET = "Not measured yet: no GPU was at hand. `bench/gpu.sh` measures it."


def read(name: str) -> dict[str, Any]:
    """Return a committed result."""
    return json.loads((RESULTS / name).read_text())


def has(name: str) -> bool:
    """Tell whether a result is committed."""
    return (RESULTS / name).is_file()


def measurements() -> list[dict[str, Any]]:
    """Return the result files of GPUs, old ones first."""
    dated = re.compile(r"-\d{4}-\d\d-\d\d\.json$")
    return [read(file.name) for file in sorted(RESULTS.glob("*.json")) if dated.search(file.name)]


def source(result: dict[str, Any]) -> str:
    """Return the line that says where a result comes from."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    commit, changes = result["commit"][:12], result["commit"][40:]
    place = f"{result['device']}; {versions}; commit {commit}{changes}"
    return f"<sub>`{result['command']}` on {place}.</sub>  "


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *(list(row) for row in rows))]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n".join(lines)
