"""Devices by name."""

import pytest
import torch

from repair_kernels.devices import check_device
from repair_kernels.errors import ArgumentError


def test_a_device_that_is_here_is_returned() -> None:
    assert check_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["foo", "cuda:4096", "cpu:x", "meta", ""])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    match = f"`device` must be one that PyTorch finds here; got '{name}' .*; name one of cpu.*, or"
    with pytest.raises(ArgumentError, match=match):
        check_device(name)
