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

from bench.tables import (  # noqa: E402
    ablation,
    exactness,
    numerics,
    pairs,
    performance,
    robustness,
    scale,
    trained,
    zoo,
)

BLOCK = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)

TABLES: dict[str, Callable[[], str]] = {
    "pairs": pairs.accuracies,
    "ablation": ablation.ways,
    "ablation_counts": ablation.counts,
    "trained": trained.least_gains,
    "exactness": exactness.goals,
    "exactness_batches": exactness.batches,
    "floors": performance.floors,
    "predictions": performance.predictions,
    "other_predictions": performance.other_predictions,
    "providers": performance.providers,
    "compiled": performance.compiled,
    "designs": performance.designs,
    "cost": performance.cost,
    "cost_shares": performance.cost_shares,
    "cost_memory": performance.cost_memory,
    "errors": numerics.errors,
    "moment_errors": numerics.moment_errors,
    "soak": robustness.soak,
    "fuzz": robustness.fuzz,
    "zoo_summary": zoo.summary,
    "zoo_families": zoo.families,
    "zoo_pins": zoo.pins,
    "zoo_networks": zoo.networks,
    **scale.TABLES,
}


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
