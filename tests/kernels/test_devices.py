"""What launch configurations know of a device."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from repair_kernels import ops
from repair_kernels.kernels import devices


def test_a_tensor_on_a_cpu_means_the_interpreter():
    assert devices.device_of(torch.device("cpu")) is devices.INTERPRETER
    assert devices.INTERPRETER.is_interpreted


def test_known_chips_name_themselves():
    assert [device.arch for device in devices.KNOWN.values()] == list(devices.KNOWN)
    assert [device.arch for device in devices.KNOWN.values() if device.is_hip] == ["gfx942"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled, not interpreted")
def test_threads_take_turns_in_the_interpreter():
    x = torch.randn(64, 8)
    alone = ops.channel_moments(x, backend="triton")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ops.channel_moments(x, backend="triton"), range(32)))
    assert all(torch.equal(sums.m2, alone.m2) for sums in found)


@pytest.mark.gpu
def test_a_gpu_tells_its_processors():
    device = devices.device_of(torch.device("cuda"))
    assert device.processors == torch.cuda.get_device_properties(0).multi_processor_count
