"""Write the tables of README.md and docs/ from the committed result files.

python bench/report.py            fill every block between `<!-- results:NAME -->` and
                                  `<!-- /results -->`
python bench/report.py --check    change nothing; exit 1 if a table is not what the files say
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import (  # noqa: E402
    ablation_tables,
    exactness_tables,
    robustness_tables,
    scale_tables,
    tables,
    trained_tables,
    zoo_tables,
)
from bench.tables import read, source  # noqa: E402

BLOCK = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)
ROWS = {
    "plain": "plain average",
    "none": "aligned",
    "reset_norm": "aligned + BatchNorm reset",
    "closed_form": "aligned + REPAIR, closed form",
    "forward": "aligned + REPAIR, forward",
    "sequential": "aligned + REPAIR, sequential",
    "distilled": "aligned + REPAIR, distilled",
}


def pairs_table() -> str:
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


TABLES: dict[str, Callable[[], str]] = {
    "pairs": pairs_table,
    "ablation": ablation_tables.ways,
    "ablation_counts": ablation_tables.counts,
    "trained": trained_tables.trained,
    "exactness": exactness_tables.goals,
    "exactness_batches": exactness_tables.batches,
    "floors": tables.floors,
    "predictions": tables.predictions,
    "other_predictions": tables.other_predictions,
    "providers": tables.providers,
    "compiled": tables.compiled,
    "designs": tables.designs,
    "cost": tables.cost,
    "cost_shares": tables.cost_shares,
    "cost_memory": tables.cost_memory,
    "errors": tables.errors,
    "moment_errors": tables.moment_errors,
    "soak": robustness_tables.soak,
    "fuzz": robustness_tables.fuzz,
    "zoo_summary": zoo_tables.summary,
    "zoo_families": zoo_tables.families,
    "zoo_pins": zoo_tables.pins,
    "zoo_networks": zoo_tables.networks,
    **scale_tables.TABLES,
}


def percent(metrics: dict[str, float]) -> str:
    """Return an accuracy in %."""
    return f"{100 * metrics['accuracy']:.2f}"


def fill(text: str) -> str:
    """Return a document with its tables filled."""
    return BLOCK.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)
    stale = []
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = file.read_text()
        if fill(text) != text:
            stale.append(file.relative_to(ROOT))
            if not options.check:
                file.write_text(fill(text))
    for file in stale:
        print(f"{file}: {'not what the results say' if options.check else 'written'}")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
