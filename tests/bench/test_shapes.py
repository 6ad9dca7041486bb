"""The counted work, on figures worked out by hand."""

import math

import pytest

from bench.measuring.roofline import floor_seconds, unit_of
from bench.shapes import RESNET50, Tap


def test_bytes_and_flops_of_a_tap():
    tap = Tap("net", "conv", batch=2, channels=64, height=5, width=7)
    assert tap.n == 70
    assert tap.paired_bytes(4) == 70 * 512  # 512 bytes for each pair of positions
    assert tap.paired_flops() == 70 * 8192
    assert tap.paired_flops("joint") == 2 * 70 * (64 * 64 + 64 * 65)
    assert tap.paired_flops("diagonal") == 2 * 70 * 64


def test_the_state_of_resnet50_is_complete():
    buffers = sum(w.shape[0] for w in RESNET50 if "running" in w.name)
    assert sum(math.prod(w.shape) for w in RESNET50) - buffers == 25_557_032  # torchvision's count


def test_the_larger_of_two_times_is_the_floor():
    assert floor_seconds("NVIDIA H100 80GB HBM3", 3_350_000, 0) == pytest.approx(1e-6)
    assert floor_seconds("NVIDIA H100 PCIe", 8, 990_000_000, "16bit") == pytest.approx(1e-6)
    assert math.isnan(floor_seconds("CPU", 1))


def test_sixteen_bit_values_have_a_unit_of_their_own():
    assert [unit_of("bf16", "tf32"), unit_of("fp32", "tf32"), unit_of("fp32", "")] == [
        "16bit",
        "tf32",
        "ieee",
    ]
