"""The tables of docs/scale.md, from the committed result files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.scaling.exchange import Exchange
from bench.scaling.model import last_efficient
from bench.tables.results import read, source, table

MARKS = {
    "read": "r",
    "decode": "d",
    "copy": "h",
    "launch": "l",
    "compute": "c",
    "start": "s",
    "listing": "f",
    "first batch": "b",
    "exchange": "x",
}
AHEAD = ", decoded ahead"
VOLUMES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def span(seconds: float) -> str:
    """Return a time in the unit that suits it.

    Example:
        >>> span(0.0123), span(75), span(5400), span(259_200)
        ('12 ms', '75 s', '90 min', '3.0 d')
    """
    if seconds < 1e-3:
        return f"{1e6 * seconds:.0f} µs"
    for unit, size, most in (
        ("ms", 1e-3, 1),
        ("s", 1, 120),
        ("min", 60, 7200),
        ("h", 3600, 172800),
    ):
        if seconds < most:
            value = seconds / size
            return f"{value:.0f} {unit}" if value >= 9.95 else f"{value:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


def counts() -> str:
    """Return what is counted of each network."""
    lines = [
        [
            row["network"],
            f"{row['parameter_bytes'] / 2**20:.0f}",
            f"{row['forward_flops'] / 1e9:.1f}",
            f"{row['forward_bytes'] / 1e6:.0f}",
            f"{row['statistics_flops'] / 1e9:.2f}",
            f"{row['statistics_bytes'] / 1e6:.0f}",
            f"{row['taps']} / {row['crossed']}",
            f"{row['total_bytes'] / 2**20:.1f}",
        ]
        for row in read("scale.json")["networks"]
    ]
    heads = ["pair of", "MiB of weights, each", "Gflop per image, networks", "MB, networks"]
    heads += ["Gflop, statistics", "MB, statistics", "taps / with matrix", "MiB of totals"]
    return table(heads, lines)


def rates() -> str:
    """Return the images/s that each stage can do for one GPU."""
    lines = []
    for row in read("scale.json")["networks"]:
        for chip, times in row["chips"].items():
            found = times["rates"]
            slowest = min(found, key=lambda stage: found[stage])
            cells = [
                f"**{rate:,.0f}**" if stage == slowest else f"{rate:,.0f}"
                for stage, rate in found.items()
            ]
            share = times["statistics_seconds"] / times["forward_seconds"]
            lines.append([row["network"], chip.removeprefix("NVIDIA "), *cells, f"{share:.2f}"])
    heads = ["pair of", "GPU, values", "read", "decode", "copy", "launch", "compute"]
    return table([*heads, "statistics / networks, on the GPU"], lines)


def times() -> str:
    """Return the predicted times, and by a letter what takes longest."""
    found = by_place()
    blocks = []
    for images in (name for name in sets() if AHEAD not in name):
        networks = list(dict.fromkeys(network for network, _ in found))
        columns = [found[network, images] for network in networks]
        columns += [found[network, images + AHEAD] for network in networks]
        lines = [
            [f"{gpus:,}", *(f"{span(one[gpus]['seconds'])} ({mark(one[gpus])})" for one in columns)]
            for gpus in columns[0]
        ]
        heads = [*networks, *(f"{network}{AHEAD}" for network in networks)]
        blocks.append(f"**{images}**\n\n" + table(["GPUs", *heads], lines))
    return "\n\n".join([*blocks, source(read("scale.json"))])


def stops() -> str:
    """Return up to how many GPUs at least half of them is made use of, and what limits beyond."""
    lines = []
    for (network, images), rows in by_place().items():
        seconds = {gpus: row["seconds"] for gpus, row in rows.items()}
        last = last_efficient(seconds)
        beyond = rows[min(2 * last, max(rows))]
        bytes_read = images_of(images) / seconds[last] * bytes_of(images) / 1e9
        share = seconds[1] / (1024 * seconds[1024])
        cells = [rows[1]["limit"], f"{last:,}", span(seconds[last]), f"{bytes_read:.3g}"]
        lines.append([network, images, *cells, beyond["limit"], f"{100 * share:.2g} %"])
    heads = ["pair of", "images", "one GPU waits for", "half of the GPUs used up to", "time there"]
    heads += ["GB/s read there", "beyond, most time goes to", "used of 1,024"]
    return table(heads, lines)


def exchanges() -> str:
    """Return what the exchange of the totals costs."""
    networks = read("scale.json")["networks"]
    found, lines = by_place(), []
    for row in networks:
        runs = found[row["network"], "ImageNet"]
        took = [span(runs[gpus]["parts"]["exchange"]) for gpus in (2, 8, 64, 1024)]
        sent = row["exchange"]
        cells = [f"{row['total_bytes'] / 1e6:.1f}", str(sent["collectives"])]
        cells += [f"{sent['moved'] / 1e6:.1f}", str(sent["messages"])]
        lines.append([row["network"], *cells, f"{sent['message_bytes'] / 1e3:.1f}", *took])
    heads = ["pair of", "MB of totals", "collectives", "MB x passes", "messages", "kB of them"]
    heads += ["2 GPUs"]
    return table([*heads, "8", "64", "1,024"], lines)


def volumes() -> str:
    """Return how many GB all processes together send, and how many MB each, by their number."""
    lines = []
    for row in read("scale.json")["networks"]:
        found = Exchange(**row["exchange"])
        sent = {gpus: found.sent_bytes(gpus) for gpus in VOLUMES}
        cells = [f"{all_of / 1e9:.3g} / {all_of / gpus / 1e6:.3g}" for gpus, all_of in sent.items()]
        lines.append([row["network"], *cells])
    return table(["pair of", *(f"{gpus:,} GPUs" for gpus in VOLUMES)], lines)


def assumptions() -> str:
    """Return every constant of the model, with its source."""
    known = read("scale.json")["constants"]
    return table(
        ["constant", "value", "what it is", "from"],
        [[f"`{name}`", f"{value:,.6g}", *words] for name, (value, *words) in known.items()],
    )


def inputs() -> str:
    """Return what was measured for the model on one machine."""
    found = read("scale_inputs.json")
    decode, capture = found["decode"], found["capture_seconds"]
    kernels = found["compilation"]
    lines = [
        [
            f"one image of {decode['file_bytes'] / 1e3:.0f} kB, decoded and sized, on one core",
            span(decode["jpeg_seconds"]),
        ],
        ["the same from decoded pixels", span(decode["pixels_seconds"])],
        ["one name in a folder of class folders", span(found["listing_seconds"])],
        ["an operator with next to nothing to compute", span(found["operator_seconds"])],
        ["a new interpreter with the package", span(found["import_seconds"])],
        ["the graph of a pair: " + ", ".join(capture), ", ".join(map(span, capture.values()))],
        [
            "kernels without a cache: "
            + ", ".join(f"{one['kernels']}" for one in kernels.values()),
            ", ".join(span(one["seconds"]) for one in kernels.values()),
        ],
    ]
    return table(["measured", "processor time"], lines) + "\n\n" + source(found)


def checks() -> str:
    """Return predicted beside measured times of batches, on one machine."""
    result = read("scale_check.json")
    lines = []
    for row in result["rows"]:
        batch = row["batch_predicted"], row["batch_measured"]
        cells = [row["case"], str(row["processes"]), *map(span, batch)]
        lines.append([*cells, f"{batch[0] / batch[1]:.2f}"])
    heads = ["case", "processes", "batch, predicted", "measured", "predicted / measured"]
    return table(heads, lines) + "\n\n" + source(result)


def exchange_checks() -> str:
    """Return predicted beside measured bytes and times of the exchange, on one machine."""
    lines = []
    for row in read("scale_check.json")["rows"]:
        if row["processes"] == 1:
            continue
        sent = row["sent_predicted"], row["sent_measured"]
        took = row["exchange_predicted"], row["exchange_measured"]
        cells = [row["case"], str(row["processes"]), f"{row['total_bytes'] / 1e6:.2f}"]
        cells += [*(f"{one / 1e6:.2f}" for one in sent), f"{sent[0] / sent[1]:.3f}"]
        lines.append([*cells, *map(span, took), f"{took[0] / took[1]:.2f}"])
    heads = ["case", "processes", "MB of totals", "MB sent, predicted", "counted", "ratio"]
    return table([*heads, "time, predicted", "measured", "ratio"], lines)


def published() -> str:
    """Return the published speed of training beside three forward passes of the model."""
    lines = [
        [row["dtype"], f"{row['published']:,}", f"{row['predicted']:,.0f}"]
        + [f"{row['predicted'] / row['published']:.2f}"]
        for row in read("scale.json")["published"]
    ]
    heads = ["ResNet50 on one A100", "published, images/s of training"]
    return table([*heads, "model: three forward passes", "predicted / published"], lines)


def by_place() -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """Return the predictions by network and images, then by GPUs."""
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in read("scale.json")["rows"]:
        found.setdefault((row["network"], row["images"]), {})[row["gpus"]] = row
    return found


def sets() -> Iterable[str]:
    """Return the sets of images by name."""
    return dict.fromkeys(images for _, images in by_place())


def mark(row: dict[str, Any]) -> str:
    """Return the letter of what takes longest."""
    return MARKS[row["limit"]]


def images_of(name: str) -> int:
    """Return how many images a set has."""
    return read("scale.json")["image_sets"][name]["count"]


def bytes_of(name: str) -> float:
    """Return the bytes of one image of a set in storage."""
    return read("scale.json")["image_sets"][name]["bytes"]


TABLES = {
    "scale_counts": counts,
    "scale_rates": rates,
    "scale_times": times,
    "scale_stops": stops,
    "scale_exchange": exchanges,
    "scale_volumes": volumes,
    "scale_assumptions": assumptions,
    "scale_inputs": inputs,
    "scale_checks": checks,
    "scale_exchange_checks": exchange_checks,
    "scale_published": published,
}
