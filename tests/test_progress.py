"""What is shown of a pass over data: every image once, on standard error, and only if asked."""

import io
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import repair_kernels as rk
from repair_kernels import progress
from repair_kernels.batches import Batches, images_in
from tests.networks import PLAIN


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def batches(*sizes: int) -> list[Tensor]:
    return [torch.zeros(size, 2) for size in sizes]


def lines(stream: io.StringIO) -> list[str]:
    """Return what a bar showed, state after state."""
    return [
        line.strip() for line in stream.getvalue().replace("\n", "\r").split("\r") if line.strip()
    ]


def test_nothing_is_shown_unless_asked(capsys: pytest.CaptureFixture) -> None:
    assert sum(map(len, progress.counted(batches(3, 2), "statistics", 5))) == 5
    with progress.shown(False):
        list(progress.counted(batches(3, 2), "statistics", 5))
    assert capsys.readouterr() == ("", "")


def test_every_image_is_counted_with_rate_and_time_left(capsys: pytest.CaptureFixture) -> None:
    with progress.shown():
        list(progress.counted(batches(3, 2), "statistics", 5))
    out, err = capsys.readouterr()
    assert out == ""
    last = err.strip().split("\r")[-1]
    assert last.startswith("statistics: 100% |")
    assert "| 5/5, " in last
    assert " images/s, 00:00 left" in last


def test_without_a_total_the_time_so_far_is_shown() -> None:
    stream = io.StringIO()
    with progress.shown(stream=stream):
        list(progress.counted(batches(3, 2), "statistics"))
    assert lines(stream)[-1].startswith("statistics: 5 images, ")
    assert lines(stream)[-1].endswith("so far")


@pytest.mark.parametrize("expected", [3, 5, 9])
def test_a_pass_ends_at_all_images_whatever_was_expected(expected: int) -> None:
    stream = io.StringIO()
    with progress.shown(stream=stream):
        list(progress.counted(batches(3, 2), "statistics", expected))
    assert "100%" in lines(stream)[-1]
    assert "| 5/5, " in lines(stream)[-1]


def test_a_bar_leaves_the_terminal_if_it_is_one_of_many() -> None:
    kept, gone = Terminal(), Terminal()
    for stream, keep in ((kept, True), (gone, False)):
        with progress.shown(stream=stream):
            list(progress.counted(batches(3, 2), "evaluation", 5, keep=keep))
    assert lines(kept)[-1].startswith("evaluation: 100%")
    assert gone.getvalue().endswith("\r")


def test_an_error_ends_what_is_shown() -> None:
    stream = io.StringIO()

    def fail() -> None:
        for _ in progress.counted(batches(3, 2), "statistics", 5):
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"), progress.shown(stream=stream):
        fail()
    before = stream.getvalue()
    list(progress.counted(batches(3), "statistics", 3))
    assert stream.getvalue() == before


class Loader:
    batch_size = 4

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Tensor]:
        return iter(batches(4, 4, 1))


@pytest.mark.parametrize(
    ("source", "known"),
    [(batches(3, 2), 5), ([(b, b) for b in batches(3, 2)], 5), (Loader(), 12), (iter([]), None)],
)
def test_the_images_of_a_source_are_known_before_it_is_read(source, known: int | None) -> None:
    assert images_in(source) == known


def test_after_one_pass_the_images_are_known_exactly() -> None:
    data = Batches(Loader())
    assert data.expected_images == data.pieces().expected_images == 12
    list(data)
    assert data.expected_images == 9
    assert Batches(batches(3, 2), n_samples=4).expected_images == 4


STAGES = {
    "forward": ["statistics", "calibration", "assessment"],
    "sequential": ["statistics", "calibration", "assessment"],
    "distilled": [
        "statistics",
        "calibration",
        "endpoints' answers",
        "distillation",
        "assessment",
    ],
    "reset_norm": ["statistics", "calibration", "assessment"],
    "closed_form": ["statistics", "assessment"],
}


@pytest.mark.usefixtures("torch_backend")
@pytest.mark.parametrize("variant", STAGES)
def test_every_pass_of_a_repair_is_shown_to_its_end(
    variant: str, capsys: pytest.CaptureFixture
) -> None:
    a, b = PLAIN.network(0), PLAIN.network(1)
    data = [PLAIN.inputs(8), PLAIN.inputs(3)]
    rk.repair(a, b, data, variant=variant, progress=True, on_worse="warn", verify=False)
    shown = capsys.readouterr().err.replace("\n", "\r").split("\r")
    ended = [line.partition(":")[0] for line in shown if "100%" in line]
    assert list(dict.fromkeys(ended)) == STAGES[variant]
    images = 10 * 6 if variant == "distilled" else 11  # ten epochs on what is not held out
    assert f"{images}/{images}" in "".join(shown)
