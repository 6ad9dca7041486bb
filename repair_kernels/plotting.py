"""Pictures: barrier curves, variance collapse, correlation matrices, matched filters.

Needs matplotlib, which the extra `plot` installs; it is imported when a picture is drawn. Figures
are made without pyplot, so that neither a display nor the caller's own figures matter.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from repair_kernels.atomic import atomic_path
from repair_kernels.errors import ArgumentError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from repair_kernels.evaluation import Path
    from repair_kernels.graph.permutation import Permutation

# How pictures call the ways of merging, and the colours that these have in every picture.
VARIANT_LABELS = {
    "plain": "plain average",
    "none": "aligned",
    "closed_form": "aligned + REPAIR (closed form)",
    "forward": "aligned + REPAIR (forward)",
    "sequential": "aligned + REPAIR (sequential)",
}
COLOURS = dict(
    zip(
        VARIANT_LABELS.values(),
        ("tab:grey", "tab:red", "tab:orange", "tab:blue", "tab:green"),
        strict=True,
    )
)
LABELLED_TAPS = 45
DPI = 120


def plot_barrier(
    path: Path,
    file: str | os.PathLike[str],
    *,
    metric: str | None = None,
    title: str = "Networks on the path between two trained networks",
) -> None:
    """Draw metrics along a path: a curve per variant, and the endpoints' straight line.

    Args:
        path: what `sweep` returned
        file: the picture; its suffix says the format (`.png`, `.pdf`, `.svg`)
        metric: the metric to draw; None draws each in a panel of its own
        title: heading of the picture

    Raises:
        ArgumentError: when the path has no such metric
        MissingExtraError: when matplotlib is not installed
    """
    names = path.metric_names if metric is None else (metric,)
    curves = {
        (name, variant): path.values(name, variant=variant)
        for name in names
        for variant in path.variants
    }
    with _figure(file, (6.4 * len(names), 5.6), title) as figure:
        for axes, name in zip(_row(figure, len(names)), names, strict=True):
            for variant in path.variants:
                barrier = path.barrier(name, variant=variant)
                label = VARIANT_LABELS.get(variant, variant)
                axes.plot(
                    path.alphas,
                    curves[name, variant],
                    marker="o",
                    markersize=4,
                    color=COLOURS.get(label),
                    label=f"{label}: barrier {barrier:.3g}",
                )
            axes.plot(
                (0, 1),
                path.endpoints(name),
                color="black",
                linestyle="--",
                linewidth=1,
                label="straight line between the endpoints",
            )
            better = "higher" if path.higher_is_better(name) else "lower"
            axes.set_xlabel("alpha (0: network a, 1: network b)")
            axes.set_ylabel(f"{name} ({better} is better)")
            axes.set_xlim(-0.02, 1.02)
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14))


def plot_variance_collapse(
    ratios: Mapping[str, Mapping[str, float]],
    file: str | os.PathLike[str],
    *,
    title: str = "Variance of the merged network's activations, layer by layer",
) -> None:
    """Draw how much of the endpoints' variance is left at each tap.

    Args:
        ratios: by curve's label and tap, what `variance_ratio` returned; taps in network order
        file: the picture
        title: heading of the picture

    Raises:
        ArgumentError: when there is no curve, or a curve without taps
        MissingExtraError: when matplotlib is not installed
    """
    if not ratios or not all(ratios.values()):
        raise ArgumentError(
            "`ratios` must have one curve with one tap at least, but it lacks that; give "
            "{label: {tap: ratio}}"
        )
    taps = list(dict.fromkeys(tap for curve in ratios.values() for tap in curve))
    every = math.ceil(len(taps) / LABELLED_TAPS)
    with _figure(file, (max(6.4, 0.32 * min(len(taps), LABELLED_TAPS)), 5.2), title) as figure:
        axes = figure.add_subplot()
        for name, curve in ratios.items():
            label = VARIANT_LABELS.get(name, name)
            axes.plot(
                range(len(taps)),
                [curve.get(tap, math.nan) for tap in taps],
                marker="o",
                markersize=4,
                color=COLOURS.get(label),
                label=label,
            )
        axes.axhline(
            1, color="black", linestyle="--", linewidth=1, label="endpoints: no variance collapse"
        )
        axes.set_ylim(bottom=0)
        axes.set_xticks(
            range(0, len(taps), every), taps[::every], rotation=60, ha="right", fontsize="small"
        )
        axes.set_xlabel("tap, from the input to the output")
        axes.set_ylabel("variance / mean variance of the endpoints")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")


def plot_correlation(
    matrix: Tensor,
    file: str | os.PathLike[str],
    *,
    permutation: Permutation | None = None,
    title: str = "Correlation of the channels of two networks",
) -> None:
    """Draw a correlation matrix as colours; with a permutation, also in the matched order.

    Args:
        matrix: correlation of every channel of a (rows) with every channel of b (columns)
        file: the picture
        permutation: the match; its panel shows column `indices[i]` at place i, so that the matched
            pairs lie on the diagonal
        title: heading of the picture

    Raises:
        ArgumentError: when `matrix` is no matrix, or the permutation has another size
        MissingExtraError: when matplotlib is not installed
    """
    if matrix.dim() != 2 or matrix.numel() == 0:
        raise ArgumentError(
            f"`matrix` must have channels of a by channels of b, but has shape "
            f"{tuple(matrix.shape)}; pass `stats[tap].corr`"
        )
    values = matrix.detach().cpu().double()
    panels = {"channels in the networks' own order": values}
    if permutation is not None:
        if len(permutation.indices) != values.shape[1]:
            raise ArgumentError(
                f"`permutation` must have as many channels as the matrix has columns, "
                f"{values.shape[1]}, but has {len(permutation.indices)}; pass the permutation of "
                "this tap's group"
            )
        panels["b's channels in a's order"] = values[:, permutation.indices]
    with _figure(file, (5.4 * len(panels) + 0.8, 5.2), title) as figure:
        row = _row(figure, len(panels))
        image = None
        for axes, (caption, panel) in zip(row, panels.items(), strict=True):
            mean = round(float(panel.diagonal().mean()), 2) + 0.0  # no -0.00
            image = axes.imshow(
                panel.numpy(),
                cmap="RdBu_r",
                vmin=-1,
                vmax=1,
                interpolation="nearest",
                aspect="auto",
            )
            axes.set_title(f"{caption}\nmean of the diagonal {mean:.2f}", fontsize="medium")
            axes.set_xlabel("channel of network b")
            axes.set_ylabel("channel of network a")
        if image is not None:
            figure.colorbar(image, ax=row, label="correlation")


def plot_filters(
    weight_a: Tensor,
    weight_b: Tensor,
    file: str | os.PathLike[str],
    *,
    permutation: Permutation | None = None,
    n_filters: int = 16,
    title: str = "First-layer filters of two networks, matched",
) -> None:
    """Draw the first-layer filters of two networks, each of a above its partner of b.

    Args:
        weight_a: weights of network a's first layer: (channels, 1 or 3, height, width), or
            (channels, pixels) of a square image
        weight_b: the same of network b
        file: the picture
        permutation: carries b's filters into a's order; None if they are in it already
        n_filters: how many pairs to draw; those with the largest filters of a are taken
        title: heading of the picture

    Raises:
        ArgumentError: when the weights are no filters of images, or of different shapes
        MissingExtraError: when matplotlib is not installed
    """
    filters_a, filters_b = _as_images(weight_a, "weight_a"), _as_images(weight_b, "weight_b")
    if filters_a.shape != filters_b.shape:
        raise ArgumentError(
            f"`weight_b` must have the shape of `weight_a`, {tuple(weight_a.shape)}, but has "
            f"{tuple(weight_b.shape)}; pass the same layer of both networks"
        )
    if permutation is not None:
        filters_b = filters_b[permutation.indices]
    order = filters_a.flatten(1).norm(dim=1).argsort(descending=True)[:n_filters]
    columns = min(len(order), 16)
    blocks = math.ceil(len(order) / columns)
    with _figure(file, (0.62 * columns + 1.2, 1.5 * blocks + 0.7), title) as figure:
        grid = figure.subplots(2 * blocks, columns, squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for place, channel in enumerate(order.tolist()):
            block, column = divmod(place, columns)
            for line, filters in enumerate((filters_a, filters_b)):
                axes = grid[2 * block + line, column]
                axes.imshow(_as_picture(filters[channel]).numpy(), cmap="gray", vmin=0, vmax=1)
            grid[2 * block, column].set_title(f"{channel}", fontsize="small")
        for line in range(2 * blocks):
            grid[line, 0].set_ylabel("ab"[line % 2], rotation=0, ha="right", va="center")
        figure.supxlabel("columns: channels, by number in network a", fontsize="small")


@contextmanager
def _figure(
    file: str | os.PathLike[str], size: tuple[float, float], title: str
) -> Iterator[Figure]:
    """Yield an empty figure, which is written whole to `file` at the end."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "pictures need matplotlib, which cannot be imported; install it with the extra `plot`: "
            "pip install 'repair-kernels[plot]'"
        ) from error
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(title)
    yield figure
    known = figure.canvas.get_supported_filetypes()
    suffix = os.path.splitext(file)[1].removeprefix(".")
    if suffix not in known:
        raise ArgumentError(
            f"`file` must have the suffix of a picture ({', '.join(sorted(known))}), but got "
            f"{os.fspath(file)}; take .png if in doubt"
        )
    with atomic_path(file) as temporary:
        figure.savefig(temporary, format=suffix)


def _row(figure: Figure, n: int) -> list[Axes]:
    """Add `n` panels side by side."""
    return list(figure.subplots(1, n, squeeze=False)[0])


def _as_images(weight: Tensor, name: str) -> Tensor:
    """Return first-layer weights as filters (channels, height, width, colours)."""
    values = weight.detach().cpu().double()
    side = math.isqrt(values.shape[1]) if values.dim() == 2 else 0
    if values.dim() == 2 and side**2 == values.shape[1] > 0 and len(values):
        return values.reshape(len(values), side, side, 1)
    if values.dim() == 4 and values.shape[1] in (1, 3) and values.numel():
        return values.permute(0, 2, 3, 1)
    raise ArgumentError(
        f"`{name}` must be the weight of a layer that sees images, (channels, 1 or 3, height, "
        f"width) or (channels, pixels of a square), but has shape {tuple(weight.shape)}; pass the "
        "first layer's"
    )


def _as_picture(image: Tensor) -> Tensor:
    """Scale a filter to [0, 1], with zero in the middle."""
    largest = image.abs().max().clamp_min(torch.finfo(image.dtype).tiny)
    return 0.5 + image / (2 * largest)
