"""Write the card of the embedded networks from the reports of their training.

    python -m models.card        # measures them on the embedded images; writes README.md

Each network has a report beside it, `<name>_seed<seed>.json`, written by `models.train`.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from models.datasets import load_embedded_fashion
from models.evaluate import evaluate
from models.pretrained import FOLDER, PAIRS, SEEDS, checkpoint_path, load_pair

HEAD = """# The embedded networks and images

Written by `python -m models.card`; do not edit.

Each pair was trained by one recipe of `models/recipes.py` from two seeds, which fix the first
weights, the order of the images and their random changes. `load_pair("fashion_resnet20")` of
`models.pretrained` loads a pair. Inputs are grey images (n, 1, 28, 28), normalised by
`models.datasets.normalise(images, "fashion")`.

| network | parameters | test accuracy | test loss | on the embedded images | their loss |
|---|---|---|---|---|---|
"""

MIDDLE = """
Test accuracy is that of the last epoch's weights on all {test_images:,} test images of
FashionMNIST; no epoch was chosen by it. The embedded images are the {embedded_images:,} test images
in `fashion_subset.npz`. Losses are cross-entropies in nats.

## How they were trained
"""

TAIL = """
## Licences

The networks are part of this project and have its licence (MIT).

`fashion_subset.npz` holds, of each file of FashionMNIST (Xiao, Rasul and Vollgraf, 2017), the first
200 images of each class in the file's order, with their indices; `python -m models.fashion_subset`
makes it. FashionMNIST is copyright 2017 Zalando SE and has the MIT licence in
`FASHION_MNIST_LICENSE`.
"""


def measure(name: str) -> None:
    """Add to both reports of a pair what the networks reach on the embedded test images."""
    images, labels = load_embedded_fashion("test")
    for seed, model in zip(SEEDS, load_pair(name), strict=True):
        report = read_report(name, seed)
        report["embedded_images"] = len(images)
        report["embedded_test"] = evaluate(model, images, labels, normalise="fashion")
        report["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        report["sha256"] = hashlib.sha256(checkpoint_path(name, seed).read_bytes()).hexdigest()
        report_path(name, seed).write_text(json.dumps(report, indent=1) + "\n")


def report_path(name: str, seed: int) -> Path:
    """Return the file of the report of one embedded network."""
    return checkpoint_path(name, seed).with_suffix(".json")


def read_report(name: str, seed: int) -> dict:
    """Return the report of one embedded network."""
    return json.loads(report_path(name, seed).read_text())


def card() -> str:
    """Return the card's text, all its figures from the reports."""
    reports = {(name, seed): read_report(name, seed) for name in PAIRS for seed in SEEDS}
    rows = [
        f"| `{name}_seed{seed}` | {report['parameters']:,} | {_accuracy(report['test'])} "
        f"| {report['test']['loss']:.4f} | {_accuracy(report['embedded_test'])} "
        f"| {report['embedded_test']['loss']:.4f} |"
        for (name, seed), report in reports.items()
    ]
    details = [
        f"\n### {name}_seed{seed}\n\n    {report['command']}\n\n"
        + f"- recipe `{report['recipe']}`: {_settings(report['settings'])}\n"
        + f"- last epoch: training accuracy {_accuracy(report['last_epoch'])}, "
        + f"loss {report['last_epoch']['loss']:.4f}\n"
        + f"- torch {report['versions']['torch']}, Python {report['versions']['python']}\n"
        + f"- sha256 of the file: `{report['sha256']}`\n"
        for (name, seed), report in reports.items()
    ]
    middle = MIDDLE.format(**next(iter(reports.values())))
    return HEAD + "\n".join(rows) + "\n" + middle + "".join(details) + TAIL


def _accuracy(result: dict) -> str:
    return f"{100 * result['accuracy']:.2f} %"


def _settings(settings: dict) -> str:
    """Return the settings that are not off, as text."""
    return ", ".join(
        f"{key} {value}" for key, value in settings.items() if value and key != "source"
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure the networks and write the card; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.card", description=__doc__)
    parser.parse_args(arguments)
    for name in PAIRS:
        measure(name)
    (FOLDER / "README.md").write_text(card())
    print(card())
    return 0


if __name__ == "__main__":
    sys.exit(main())
