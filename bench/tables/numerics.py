"""The tables of docs/numerics.md: how far the moments are from float64."""

from __future__ import annotations

from typing import Any

from bench.tables.results import NOT_YET, has, read, source, table


def errors() -> str:
    """Return the errors of cross sums against float64, for each number of samples."""
    lines = [
        [where, dtype, precision, *(" / ".join(map(_error, cells["cross"])) for cells in columns)]
        for (where, dtype, precision), columns in _error_rows().items()
    ]
    heads = [f"offset {offset:g}" for offset in _offsets()]
    return table(["where", "values", "products", *heads], lines) + "\n\n" + _error_sources()


def moment_errors() -> str:
    """Return the errors of m2 and mean, the largest of all numbers of samples."""
    lines = []
    for (where, dtype, precision), columns in _error_rows().items():
        worst = [
            " / ".join(
                _error(max((e for e in cells[what] if e is not None), default=None))
                for what in ("m2", "mean")
            )
            for cells in columns
        ]
        lines.append([where, dtype, precision, *worst])
    heads = [f"offset {offset:g}" for offset in _offsets()]
    return table(["where", "values", "products", *heads], lines)


def _error_files() -> list[dict[str, Any]]:
    names = ("errors_cpu.json", "errors_gpu.json")
    return [read(name) for name in names if has(name)]


def _error_sources() -> str:
    lines = [source(result) for result in _error_files()]
    gpu = has("errors_gpu.json")
    return "\n".join(lines if gpu else [*lines, f"<sub>The kernels on a GPU: {NOT_YET}</sub>"])


def _offsets() -> list[float]:
    return sorted({row["offset"] for result in _error_files() for row in result["rows"]})


def _error_rows() -> dict[tuple[str, str, str], list[dict[str, list[float | None]]]]:
    """Return errors by place, dtype and precision: for each offset, by kind, one per n."""
    rows = [row for result in _error_files() for row in result["rows"]]
    places = dict.fromkeys((row["where"], row["dtype"], row["precision"]) for row in rows)
    found: dict[tuple[str, str, str], list[dict[str, list[float | None]]]] = {}
    for place in places:
        found[place] = []
        for offset in _offsets():
            here = [
                row["errors"]
                for row in rows
                if (row["where"], row["dtype"], row["precision"], row["offset"]) == (*place, offset)
            ]
            kinds = ("cross", "m2", "mean")
            found[place].append({k: [e[k] if e else None for e in here] for k in kinds})
    return found


def _error(value: float | None) -> str:
    """Return one digit and a power of ten."""
    if not value:
        return "–" if value is None else "0"
    digit, power = f"{value:.0e}".split("e")
    return f"{digit}e{int(power)}"
