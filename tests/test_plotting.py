"""Pictures: each is written whole, without a display, and says what it shows."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from repair_kernels import plotting
from repair_kernels.errors import ArgumentError, RepairKernelsError
from repair_kernels.evaluation import Path as AlphaPath
from repair_kernels.graph.permutation import Permutation

ALPHA_PATH = AlphaPath(
    (0.0, 0.5, 1.0),
    {
        "none": {"accuracy": (0.9, 0.2, 0.8), "loss": (0.3, float("nan"), 0.5)},
        "forward": {"accuracy": (0.9, 0.7, 0.8), "loss": (0.3, 0.9, 0.5)},
        "our own": {"accuracy": (0.9, 0.8, 0.8), "loss": (0.3, 0.6, 0.5)},
    },
)
RATIOS = {
    "none": {f"layer{i}.conv": 0.8**i for i in range(70)},
    "forward": {f"layer{i}.conv": 1.0 for i in range(0, 70, 2)},
}
PICTURES: dict[str, Callable[[Path], None]] = {
    "barrier": lambda file: plotting.plot_barrier(ALPHA_PATH, file),
    "collapse": lambda file: plotting.plot_variance_collapse(RATIOS, file),
    "correlation": lambda file: plotting.plot_correlation(
        torch.eye(6)[:, :5], file, permutation=Permutation([4, 3, 2, 1, 0])
    ),
    "filters": lambda file: plotting.plot_filters(
        torch.randn(20, 3, 3, 3), torch.randn(20, 3, 3, 3), file, n_filters=20
    ),
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect the figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def collecting(figure: Figure, *args, **kwargs) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", collecting)
    return figures


def texts(figure: Figure) -> str:
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return "\n".join(text.get_text() for text in found)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_written_whole(tmp_path: Path, name: str) -> None:
    PICTURES[name](tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert os.listdir(tmp_path) == ["x.png"]


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_the_suffix_says_the_format(tmp_path: Path, suffix: str) -> None:
    PICTURES["barrier"](tmp_path / f"x.{suffix}")
    start = (tmp_path / f"x.{suffix}").read_bytes()[:5]
    assert start == {"pdf": b"%PDF-", "svg": b"<?xml"}[suffix]


def test_barrier_curves_say_what_they_are(tmp_path: Path, drawn: list[Figure]) -> None:
    PICTURES["barrier"](tmp_path / "x.png")
    written = texts(drawn[0])
    for words in (
        "aligned: barrier 0.65",
        "aligned + REPAIR (forward): barrier 0.15",
        "our own: barrier",
        "straight line between the endpoints",
        "accuracy (higher is better)",
        "loss (lower is better)",
        "alpha (0: network a, 1: network b)",
    ):
        assert words in written


def test_a_variant_has_one_colour_by_its_name_and_by_its_label(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    ratios = {"forward": {"t": 1.0}, "none": {"t": 0.1}, "aligned": {"t": 0.1}}
    plotting.plot_variance_collapse(ratios, tmp_path / "x.png")
    forward, none, aligned, _ = (line.get_color() for line in drawn[0].axes[0].lines)
    assert none == aligned != forward


def test_one_metric_makes_one_panel(tmp_path: Path, drawn: list[Figure]) -> None:
    plotting.plot_barrier(ALPHA_PATH, tmp_path / "x.png", metric="accuracy")
    assert len(drawn[0].axes) == 1
    assert len(drawn[0].axes[0].lines) == 4


def test_many_taps_are_drawn_but_not_all_labelled(tmp_path: Path, drawn: list[Figure]) -> None:
    PICTURES["collapse"](tmp_path / "x.png")
    axes = drawn[0].axes[0]
    assert len(axes.lines[0].get_xdata()) == 70
    assert len(axes.get_xticklabels()) <= plotting.LABELLED_TAPS


def test_the_matched_order_has_its_pairs_on_the_diagonal(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    p = Permutation([2, 0, 3, 1])
    matrix = torch.eye(4)[p.inverse().indices].T
    plotting.plot_correlation(matrix[:, p.inverse().indices], tmp_path / "x.png", permutation=p)
    matched = drawn[0].axes[1].images[0].get_array()
    assert matched is not None
    assert torch.equal(torch.as_tensor(matched.data), matrix.double())


def test_matched_filters_are_drawn_above_each_other(tmp_path: Path, drawn: list[Figure]) -> None:
    weight = torch.randn(4, 16)
    p = Permutation([2, 0, 3, 1])
    plotting.plot_filters(
        weight, weight[p.inverse().indices], tmp_path / "x.png", permutation=p, n_filters=3
    )
    grid = [axes.images[0].get_array() for axes in drawn[0].axes if axes.images]
    assert len(grid) == 6
    assert (grid[0] == grid[3]).all()
    assert (grid[2] == grid[5]).all()


def test_pyplot_and_its_figures_are_left_alone(tmp_path: Path) -> None:
    program = (
        "import sys; from repair_kernels import plotting\n"
        f"plotting.plot_variance_collapse({{'x': {{'t': 1.0}}}}, {str(tmp_path / 'x.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "DISPLAY": ""})


def test_a_missing_matplotlib_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    match = r"pictures need matplotlib, which cannot be imported; install it .*repair-kernels\[plot"
    with pytest.raises(plotting.MissingExtraError, match=match) as caught:
        PICTURES["barrier"](tmp_path / "x.png")
    assert isinstance(caught.value, RepairKernelsError)
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("name", ["x.txt", "x"])
def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, name: str) -> None:
    match = r"suffix of a picture \(.*png.*\), but got .*; take \.png if in doubt"
    with pytest.raises(ArgumentError, match=match):
        PICTURES["collapse"](tmp_path / name)
    assert not os.listdir(tmp_path)


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`metric` must be one of 'accuracy', 'loss'"):
        plotting.plot_barrier(ALPHA_PATH, tmp_path / "x.png", metric="top1")


@pytest.mark.parametrize("ratios", [{}, {"none": {}}])
def test_a_collapse_without_taps_is_refused(tmp_path: Path, ratios: dict) -> None:
    with pytest.raises(ArgumentError, match="one curve with one tap at least, .*; give"):
        plotting.plot_variance_collapse(ratios, tmp_path / "x.png")


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (0, 3)])
def test_what_is_no_matrix_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="`matrix` must have channels .* has shape .*; pass"):
        plotting.plot_correlation(torch.zeros(shape), tmp_path / "x.png")


def test_a_permutation_of_another_size_is_refused(tmp_path: Path) -> None:
    match = "as many channels as the matrix has columns, 4, but has 3; pass the permutation of this"
    with pytest.raises(ArgumentError, match=match):
        plotting.plot_correlation(
            torch.eye(4), tmp_path / "x.png", permutation=Permutation.identity(3)
        )


@pytest.mark.parametrize("shape", [(4, 5), (4, 7, 3, 3), (4,), (0, 9)])
def test_what_are_no_filters_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    weight = torch.zeros(shape)
    with pytest.raises(
        ArgumentError, match="`weight_a` must be the weight of a layer that sees im"
    ):
        plotting.plot_filters(weight, weight, tmp_path / "x.png")


def test_filters_of_different_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match="`weight_b` must have the shape of `weight_a`, .*; pas"
    ):
        plotting.plot_filters(torch.ones(2, 9), torch.ones(3, 9), tmp_path / "x.png")
