"""Bad input: an error of the package's family that names what was wrong; models as they were."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import repair_kernels as rk
from repair_kernels.errors import (
    ArchitectureMismatchError,
    ArgumentError,
    CalibrationDataError,
    GraphCaptureError,
    NonFiniteActivationError,
    NonFiniteWeightError,
    RepairKernelsError,
)
from tests.networks import PLAIN, assert_same, lively, snapshot

pytestmark = [
    pytest.mark.usefixtures("torch_backend"),
    pytest.mark.usefixtures("unchecked_annotations"),
]


def sweep(a: nn.Module, b: nn.Module, batches: object, **options) -> rk.Path:
    evaluate = lambda model: {"loss": 0.0}  # noqa: E731
    return rk.sweep(a, b, batches, evaluate, **{"alphas": [0.5], **options})


ENTRIES: dict[str, Callable] = {
    "compute_stats": rk.compute_stats,
    "calibrate": rk.calibrate,
    "repair": rk.repair,
    "sweep": sweep,
}
everywhere = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())


def small(seed: int, *, bias: bool = True, width: int = 4, act: type = nn.ReLU) -> nn.Sequential:
    """Return a small network in which some modules train and some do not."""
    model = nn.Sequential(nn.Linear(3, width, bias=bias), act(), nn.Linear(width, 2))
    model = lively(model, seed)
    model[2].eval()
    model[0].weight.requires_grad_(False)
    return model


def images(n: int = 6) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0))


@contextmanager
def refused(error: type[RepairKernelsError], match: str, *models: nn.Module) -> Iterator[None]:
    """Assert that the block raises this error, and that the models are as they were after it."""
    before, rng = [snapshot(model) for model in models], torch.get_rng_state()
    with pytest.raises(error, match=match) as caught:
        yield
    assert isinstance(caught.value, RepairKernelsError)
    for model, was in zip(models, before, strict=True):
        assert_same(was, snapshot(model))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.is_grad_enabled()


# Networks


@everywhere
def test_networks_with_the_same_weights_but_other_operators(entry: Callable) -> None:
    a, b = small(0), small(1, act=nn.Tanh)
    with refused(ArchitectureMismatchError, "at 'relu' network a has .*relu.* b has .*tanh", a, b):
        entry(a, b, [images()])


@everywhere
def test_networks_with_other_options_of_a_layer(entry: Callable) -> None:
    a, b = (
        nn.Sequential(nn.Conv1d(1, 2, 2, dilation=d), nn.ReLU(), nn.AdaptiveAvgPool1d(1))
        for d in (1, 2)
    )
    with refused(ArchitectureMismatchError, "at 'conv1d' network a has", a, b):
        entry(a, b, [torch.ones(4, 1, 8)])


@everywhere
def test_a_network_with_more_layers(entry: Callable) -> None:
    a, b = small(0), nn.Sequential(*small(1), nn.ReLU())
    with refused(ArchitectureMismatchError, "of one architecture", a, b):
        entry(a, b, [images()])


@everywhere
def test_missing_keys(entry: Callable) -> None:
    a, b = small(0), small(1, bias=False)
    with refused(ArchitectureMismatchError, "same parameters.*only in a: 0.bias", a, b):
        entry(a, b, [images()])


@everywhere
def test_extra_keys(entry: Callable) -> None:
    a, b = small(0), nn.Sequential(*small(1), nn.Linear(2, 2))
    with refused(ArchitectureMismatchError, "same parameters.*only in b: 3.bias, 3.weight", a, b):
        entry(a, b, [images()])


@everywhere
def test_other_widths(entry: Callable) -> None:
    a, b = small(0), small(1, width=5)
    with refused(ArchitectureMismatchError, r"'0.weight' is \(4, 3\).*\(5, 3\) in network b", a, b):
        entry(a, b, [images()])


@everywhere
def test_other_dtypes(entry: Callable) -> None:
    a, b = small(0), small(1).double()
    with refused(ArchitectureMismatchError, "'0.weight' is torch.float32.*torch.float64", a, b):
        entry(a, b, [images()])


@everywhere
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(entry: Callable, value: float) -> None:
    a, b = small(0), small(1)
    with torch.no_grad():
        b[2].bias[1] = value
    with refused(NonFiniteWeightError, "'2.bias' of network b has NaN or infinity", a, b):
        entry(a, b, [images()])


@everywhere
def test_running_statistics_that_are_not_finite(entry: Callable) -> None:
    a, b = PLAIN.network(0), PLAIN.network(1)
    a[1].running_var[0] = float("nan")
    with refused(NonFiniteWeightError, "'1.running_var' of network a", a, b):
        entry(a, b, [PLAIN.inputs(2)])


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


# Models that cannot be exported


class Branching(nn.Module):
    """Takes another way for other values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else x


class FixedBatch(nn.Module):
    """Compares the batch with a number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.zeros(2, 3)[: x.shape[0]]


class OutsideTorch(nn.Module):
    """Leaves PyTorch on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[sum(row)] for row in self.fc(x).tolist()])


@everywhere
@pytest.mark.parametrize(
    ("model", "what_to_do"),
    [
        (Branching, "the forward must not branch on values: "),
        (FixedBatch, "the forward must not fix the batch size"),
        (OutsideTorch, "the forward must "),
    ],
)
def test_models_that_cannot_be_exported(
    entry: Callable, model: type[nn.Module], what_to_do: str
) -> None:
    a, b = model(), model()
    line = rf"{model.__name__}: at test_bad_input.py:\d+, `return .+`: "
    with refused(GraphCaptureError, f"could not capture {line}.+; {what_to_do}", a, b):
        entry(a, b, [images()])


class TwoInputs(nn.Module):
    """Wants a mask as well."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.fc(x) * mask


@everywhere
def test_models_with_two_inputs(entry: Callable) -> None:
    a, b = TwoInputs(), TwoInputs()
    with refused(CalibrationDataError, "TypeError: .*missing 1 required.*'mask'", a, b):
        entry(a, b, [images()])


def test_trace_names_why_a_model_cannot_be_exported() -> None:
    model = Branching().train()
    with refused(GraphCaptureError, "could not capture Branching", model):
        rk.trace(model, images())
