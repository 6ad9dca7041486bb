"""Where the kernels of these tests run: on a GPU if there is one, else in the interpreter."""

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def _filled_with_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what `torch.empty` gives with NaN, so that an output that nothing writes shows."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
