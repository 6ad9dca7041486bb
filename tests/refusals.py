"""What every test of bad input asserts: an error that names what is wrong, models as they were."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import repair_kernels as rk
from repair_kernels.errors import RepairKernelsError
from tests.networks import assert_same, lively, snapshot


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
