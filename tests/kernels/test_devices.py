"""What launch configurations know of a device."""

import pytest
import torch

from repair_kernels.kernels import devices


def test_a_tensor_on_a_cpu_means_the_interpreter():
    assert devices.device_of(torch.device("cpu")) is devices.INTERPRETER
    assert devices.INTERPRETER.is_interpreted


def test_known_chips_name_themselves():
    assert [device.arch for device in devices.KNOWN.values()] == list(devices.KNOWN)
    assert [device.arch for device in devices.KNOWN.values() if device.is_hip] == ["gfx942"]


@pytest.mark.gpu
def test_a_gpu_tells_its_processors():
    device = devices.device_of(torch.device("cuda"))
    assert device.processors == torch.cuda.get_device_properties(0).multi_processor_count
