"""Bad data and options: an error of the package's family that names what was wrong."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import repair_kernels as rk
from repair_kernels.errors import (
    ArgumentError,
    CalibrationDataError,
    NonFiniteActivationError,
)
from tests.networks import PLAIN, assert_same, snapshot
from tests.refusals import everywhere, images, refused, small, sweep

pytestmark = [
    pytest.mark.usefixtures("torch_backend"),
    pytest.mark.usefixtures("unchecked_annotations"),
]


# Data


@everywhere
@pytest.mark.parametrize("batches", [[], (), iter([])], ids=["list", "tuple", "iterator"])
def test_no_batches(entry: Callable, batches: object) -> None:
    a, b = small(0), small(1)
    with refused(CalibrationDataError, "`batches` must hold at least one batch; it is empty", a, b):
        entry(a, b, batches)


@everywhere
def test_batches_without_images(entry: Callable) -> None:
    a, b = small(0), small(1)
    with refused(CalibrationDataError, "at least one image; all batches are empty", a, b):
        entry(a, b, [images(0), images(0)])


@everywhere
@pytest.mark.parametrize("batches", [torch.zeros(6, 3), 5, None])
def test_batches_that_are_no_iterable_of_batches(entry: Callable, batches: object) -> None:
    a, b = small(0), small(1)
    came = type(batches).__name__
    with refused(CalibrationDataError, f"`batches` must be an iterable.*got a {came}", a, b):
        entry(a, b, batches)


@everywhere
@pytest.mark.parametrize("batch", [{}, (), "image", None, [3.0], {"label": "cat"}, torch.zeros(())])
def test_batches_without_a_tensor(entry: Callable, batch: object) -> None:
    a, b = small(0), small(1)
    came = type(batch).__name__
    with refused(CalibrationDataError, f"must yield tensors.*batch 0 is a {came} whose", a, b):
        entry(a, b, [batch])


@everywhere
@pytest.mark.parametrize(
    ("batch", "came"),
    [
        (torch.zeros(6, 5), r"\(6, 5\) and torch.float32"),
        (torch.zeros(6), r"\(6,\) and torch.float32"),
        (torch.zeros(6, 3, dtype=torch.int64), r"\(6, 3\) and torch.int64"),
        (torch.zeros(6, 3, dtype=torch.float64), r"\(6, 3\) and torch.float64"),
    ],
)
def test_inputs_that_the_network_refuses(entry: Callable, batch: Tensor, came: str) -> None:
    a, b = small(0), small(1)
    with refused(CalibrationDataError, f"refuses an input of shape {came}: RuntimeError", a, b):
        entry(a, b, [batch])


@everywhere
def test_a_later_batch_of_another_shape(entry: Callable) -> None:
    a, b = PLAIN.network(0), PLAIN.network(1)
    with refused(CalibrationDataError, r"batch 1 has \(2, 3, 7, 7\)", a, b):
        entry(a, b, [PLAIN.inputs(2), torch.zeros(2, 3, 7, 7)])


@everywhere
def test_a_later_batch_without_a_tensor(entry: Callable) -> None:
    a, b = small(0), small(1)
    with refused(CalibrationDataError, "batch 1 is a str whose first item is str", a, b):
        entry(a, b, [images(), "image"])


@everywhere
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite(entry: Callable, value: float) -> None:
    a, b = small(0), small(1)
    broken = images()
    broken[3, 1] = value
    with refused(
        NonFiniteActivationError, "network a has NaN or infinity at.*'0' in batch 1", a, b
    ):
        entry(a, b, [images(), broken])


@everywhere
def test_activations_that_overflow(entry: Callable) -> None:
    a, b = small(0), small(1)
    with torch.no_grad():
        b[0].weight.fill_(3e38)
    with refused(
        NonFiniteActivationError, "network b has NaN or infinity at tap '0' in batch 0", a, b
    ):
        entry(a, b, [10 * images().abs()])


def test_a_data_loader_that_fails_leaves_the_networks_as_they_were() -> None:
    a, b = small(0), small(1)
    before = snapshot(a), snapshot(b)

    def failing() -> Iterator[Tensor]:
        yield images()
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        rk.repair(a, b, failing(), variant="none")
    assert_same(before[0], snapshot(a))
    assert_same(before[1], snapshot(b))


# Options


@everywhere
@pytest.mark.parametrize("taps", ["nowhere", ["0", "nowhere"], [""]])
def test_unknown_taps(entry: Callable, taps: object) -> None:
    a, b = small(0), small(1)
    name = "" if taps == [""] else "nowhere"
    with refused(
        ArgumentError, f"`taps` must name.*'{name}' is none of them; choose.*such as", a, b
    ):
        entry(a, b, [images()], taps=taps)


def test_an_unknown_cross_tap() -> None:
    a, b = small(0), small(1)
    with refused(ArgumentError, "'nowhere' is none of them", a, b):
        rk.compute_stats(a, b, [images()], cross=["nowhere"])


@pytest.mark.parametrize("entry", [rk.calibrate, rk.repair])
@pytest.mark.parametrize("variant", ["", "Forward", "plain", None, 3])
def test_unknown_variants(entry: Callable, variant: object) -> None:
    a, b = small(0), small(1)
    with refused(ArgumentError, rf"`variant` must be one of 'forward'.*got {variant!r}", a, b):
        entry(a, b, [images()], variant=variant)


def test_unknown_variants_of_a_sweep() -> None:
    a, b = small(0), small(1)
    with refused(ArgumentError, "`variant` must be one of.*'none', 'plain'; got 'best'", a, b):
        sweep(a, b, [images()], variants=["none", "best"])


@pytest.mark.parametrize("entry", [rk.compute_stats, rk.repair, sweep])
@pytest.mark.parametrize("precision", ["fp8", None])
def test_unknown_precisions(entry: Callable, precision: object) -> None:
    a, b = small(0), small(1)
    with refused(ArgumentError, rf"`precision` must be .*\"ieee\", got {precision!r}", a, b):
        entry(a, b, [images()], precision=precision)


@everywhere
def test_unknown_backends(entry: Callable) -> None:
    a, b = small(0), small(1)
    with refused(ArgumentError, "`backend` must be None.*got 'cuda'", a, b):
        entry(a, b, [images()], backend="cuda")


@everywhere
def test_triton_on_a_cpu(entry: Callable) -> None:
    a, b = small(0), small(1)
    with refused(ArgumentError, 'Triton runs on tensors on a CUDA or ROCm device.*on "cpu"', a, b):
        entry(a, b, [images()], backend="triton")


ALPHAS = [-0.01, 1.01, float("nan"), float("inf"), -float("inf"), True, "0.5", None]


@pytest.mark.parametrize("entry", [rk.calibrate, rk.repair])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_alphas_outside_0_and_1(entry: Callable, alpha: object) -> None:
    a, b = small(0), small(1)
    with refused(ArgumentError, rf"`alpha` must be a number in \[0, 1\].*got {alpha!r}", a, b):
        entry(a, b, [images()], alpha=alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_alphas_of_a_sweep_outside_0_and_1(alpha: object) -> None:
    a, b = small(0), small(1)
    with refused(ArgumentError, rf"`alpha` must be a number in \[0, 1\].*got {alpha!r}", a, b):
        sweep(a, b, [images()], alphas=[0.5, alpha])


@everywhere
@pytest.mark.parametrize("n_samples", [0, -1, True, 2.5, "5"])
def test_numbers_of_samples_that_are_none(entry: Callable, n_samples: object) -> None:
    a, b = small(0), small(1)
    with refused(CalibrationDataError, f"`n_samples` must be a positive.*got {n_samples!r}", a, b):
        entry(a, b, [images()], n_samples=n_samples)
