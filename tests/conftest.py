"""Test set-up: Triton's interpreter where there is no GPU, threads, hypothesis profiles."""

import contextlib
import importlib
import os
from collections.abc import Iterator

# One test process per core: each takes its share of the threads, before torch counts them.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

import hypothesis
import jaxtyping
import pytest
import torch

# Triton reads this once, when the kernels are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
# Ten times as many examples of everything: `pytest --hypothesis-profile slow`.
hypothesis.settings.register_profile("slow", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def torch_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the ops of CPU tensors in plain PyTorch: stage tests need no interpreted kernels."""
    # Triton is made for its interpreter when it is imported, or never.
    with contextlib.suppress(ImportError):
        importlib.import_module("repair_kernels.kernels")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def unchecked_annotations() -> Iterator[None]:
    """Let arguments of wrong types through to the package's own checks, as outside of the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
