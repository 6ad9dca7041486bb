"""How many programs of a kernel live on one processor at once, from what the compiler allotted.

Rules: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", with the
allocation sizes of NVIDIA's occupancy calculator; for gfx942 LLVM's AMDGPU usage guide and the
CDNA3 ISA reference. Registers are counted for each thread, as compilers print them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one streaming multiprocessor, or compute unit, can hold."""

    warp_size: int
    warps: int
    programs: int
    partitions: int  # a warp's registers lie in one of them
    registers: int  # 32-bit, for each thread's lane of a partition: all warps of it share them
    register_step: int  # registers of a thread are rounded up to this
    shared_bytes: int
    shared_step: int
    shared_reserved: int  # kept by the system for each program

    def programs_at_once(self, num_warps: int, registers: int, shared_bytes: int) -> int:
        """Return how many programs fit; 0 when not even one does."""
        step = self.register_step
        lanes = max(step, -(-registers // step) * step)
        by_registers = self.partitions * (self.registers // lanes) // num_warps
        step = self.shared_step
        shared = -(-(shared_bytes + self.shared_reserved) // step) * step
        by_shared = self.shared_bytes // shared if shared else self.programs
        return min(self.programs, self.warps // num_warps, by_registers, by_shared)

    def occupancy(self, num_warps: int, registers: int, shared_bytes: int) -> float:
        """Return the share of the warps that the processor could hold at most."""
        return self.programs_at_once(num_warps, registers, shared_bytes) * num_warps / self.warps


def _nvidia(shared_kib: int) -> Limits:
    # 65,536 registers are 16,384 in each of 4 partitions: 512 for each lane of a warp. A warp gets
    # them in steps of 256, which are 8 for a thread.
    return Limits(32, 64, 32, 4, 512, 8, shared_kib * 1024, 128, 1024)


LIMITS = {
    "sm_80": _nvidia(164),
    "sm_90": _nvidia(228),
    "sm_100": _nvidia(228),
    # 4 SIMDs of 8 waves; 512 vector registers, of both kinds, for each lane; 16 groups of several
    # waves; 64 KiB of LDS in steps of 512 bytes.
    "gfx942": Limits(64, 32, 16, 4, 512, 8, 64 * 1024, 512, 0),
}
