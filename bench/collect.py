"""Gather what pytest-benchmark wrote in one folder into one result file of rows.

python bench/collect.py FOLDER [--results bench/results]

The file is called `<device>-<date>.json`, where `bench/report.py` looks for measurements; its rows
are the benches' `extra_info`: the case, and error and times of every provider.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.measuring.provenance import write_rows  # noqa: E402


def rows_of(file: Path) -> list[dict[str, Any]]:
    """Return the rows of one file of pytest-benchmark; none of any other file."""
    try:
        found = json.loads(file.read_text())
    except json.JSONDecodeError:  # the bench was killed while it wrote
        print(f"{file}: not whole, left out")
        return []
    marks = found.get("benchmarks", []) if isinstance(found, dict) else []
    return [mark["extra_info"] for mark in marks if "case" in mark["extra_info"]]


def collect(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return where a folder's results were measured, and all their rows."""
    run = json.loads((folder / "run.json").read_text())
    where = {key: run[key] for key in ("device", "versions", "commit", "command", "date")}
    files = sorted(file for file in folder.glob("*.json") if file.name != "run.json")
    return where, [row for file in files for row in rows_of(file)]


def main(arguments: list[str] | None = None) -> int:
    """Gather and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, help="where to write; FOLDER unless given")
    options = parser.parse_args(arguments)
    where, rows = collect(options.folder)
    if not rows:
        print(f"{options.folder}: no bench has written rows")
        return 0
    device = re.sub(r"[^a-z0-9]+", "-", where["device"].lower()).strip("-")
    file = (options.results or options.folder) / f"{device}-{where['date']}.json"
    write_rows(file, where, rows)
    print(f"{file}: {len(rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
