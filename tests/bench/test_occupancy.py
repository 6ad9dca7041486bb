"""Occupancy by the rules of the programming guides, against figures worked out by hand."""

import pytest

from bench.compiled.occupancy import LIMITS


@pytest.mark.parametrize(
    ("target", "warps", "registers", "shared", "programs"),
    [
        ("sm_90", 8, 32, 0, 8),  # 64 warps
        ("sm_90", 8, 64, 0, 4),  # 65,536 / (64 · 256) registers
        ("sm_90", 8, 65, 0, 3),  # 72 registers: 7 warps in each partition
        ("sm_90", 8, 255, 0, 1),
        ("sm_90", 1, 32, 0, 32),  # no more programs than 32
        ("sm_90", 4, 32, 100 * 1024, 2),  # 1 KiB more is the system's
        ("sm_80", 4, 32, 100 * 1024, 1),
        ("sm_80", 4, 32, 163 * 1024, 1),
        ("gfx942", 4, 128, 0, 4),  # 4 waves on each of 4 SIMDs
        ("gfx942", 8, 256, 0, 1),
        ("gfx942", 4, 32, 32 * 1024, 2),
    ],
)
def test_programs_on_one_processor(target, warps, registers, shared, programs):
    assert LIMITS[target].programs_at_once(warps, registers, shared) == programs


def test_occupancy_is_the_share_of_warps():
    assert LIMITS["sm_90"].occupancy(8, 64, 0) == pytest.approx(0.5)
    assert LIMITS["sm_80"].occupancy(8, 64, 300 * 1024) == 0
