"""The ablation's tables: what each choice does to the midpoint, and how many images it takes."""

from statistics import mean, pstdev

from bench.tables.results import read, source
from bench.ways import WAYS

FILE = "ablation.json"


def ways() -> str:
    """Return the midpoint's accuracy in every way to merge, for every pair."""
    file = read(FILE)
    pairs = file["pairs"]
    lines = _header("accuracy in % at alpha = .5", [pair["pair"] for pair in pairs])
    ends = [" / ".join(f"{100 * end['accuracy']:.2f}" for end in p["endpoints"]) for p in pairs]
    lines.append(f"| endpoints | {' | '.join(ends)} |")
    for way in WAYS:
        cells = [_over_draws(pair["ways"].get(way)) for pair in pairs]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", source(file), *map(source, file.get("added", []))])


def counts() -> str:
    """Return the midpoint's accuracy by the number of calibration images."""
    file = read(FILE)
    pairs = file["pairs"]
    lines = _header("accuracy in % with … images", [pair["pair"] for pair in pairs])
    found = {(v, int(n)) for pair in pairs for v, row in pair["counts"].items() for n in row}
    for variant, n in sorted(found, key=lambda key: (key[0] != "forward", key[1])):
        rows = [pair["counts"][variant].get(str(n)) for pair in pairs]
        cells = [f"{100 * row['accuracy']:.2f}" if row else "–" for row in rows]
        lines.append(f"| {variant}, {n:,} | {' | '.join(cells)} |")
    later = [run for run in file.get("added", []) if "--counts" in run["command"]]
    return "\n".join([*lines, "", *map(source, later or [file])])


def _header(corner: str, pairs: list[str]) -> list[str]:
    return [f"| {corner} | {' | '.join(pairs)} |", "|---" * (len(pairs) + 1) + "|"]


def _over_draws(row: dict[str, list[float]] | None) -> str:
    """Return the accuracy on the first draw; of several, their mean and std as well."""
    if row is None:
        return "–"
    percents = [100 * value for value in row["accuracy"]]
    if len(percents) == 1:
        return f"{percents[0]:.2f}"
    return f"{percents[0]:.2f} ({mean(percents):.1f} ± {pstdev(percents):.1f})"
