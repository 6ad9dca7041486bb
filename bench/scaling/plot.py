"""The picture of docs/scale.md: time over GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

AHEAD = ", decoded ahead"
COLOURS = ("#4269d0", "#efb118", "#ff725c")


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw each set of images beside the others, and each network as a line.

    Solid lines decode files on the way, dashed ones read decoded pixels, dotted ones would need no
    start-up: T(1) / N.
    """
    from matplotlib.figure import Figure

    sets = dict.fromkeys(row["images"].removesuffix(AHEAD) for row in rows)
    networks = dict.fromkeys(row["network"] for row in rows)
    figure = Figure(figsize=(3.6 * len(sets), 3.4), layout="constrained")
    for axes, images in zip(figure.subplots(1, len(sets)), sets, strict=True):
        for network, colour in zip(networks, COLOURS, strict=True):
            for name, dash in ((images, "-"), (images + AHEAD, "--")):
                line = [r for r in rows if (r["network"], r["images"]) == (network, name)]
                gpus, seconds = ([row[key] for row in line] for key in ("gpus", "seconds"))
                label = network if dash == "-" else None
                axes.loglog(gpus, seconds, dash, color=colour, base=10, label=label, lw=1.5)
                if dash == "-":
                    ideal = [seconds[0] / n for n in gpus]
                    axes.loglog(gpus, ideal, ":", color=colour, lw=0.8)
        axes.set_title(images, fontsize=10)
        axes.set_xlabel("GPUs")
        axes.set_ylim(bottom=0.5 * min(r["seconds"] for r in rows if images in r["images"]))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("predicted seconds")
    figure.axes[0].legend(fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
