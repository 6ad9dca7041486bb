"""Where the kernels of these tests run: on a GPU if there is one, else in the interpreter."""

import sys

import pytest
import torch

from repair_kernels.kernels.channel_moments import LaunchConfig


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


@pytest.fixture
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `paired_moments` tiles of 16 channels and splits of 48 positions: many of both."""
    config = LaunchConfig(block_n=16, block_c=16, split_size=48, num_warps=4, num_stages=2)
    module = sys.modules["repair_kernels.kernels.paired_moments"]
    monkeypatch.setattr(module, "launch_config", lambda *_: config)
