"""What is read off machine code, on code written by hand."""

from bench.compiled.disassembly import read_sass

SASS = """
 Function kernel:
  REG:40 STACK:16 SHARED:0 LOCAL:0 CONSTANT[0]:448 TEXTURE:0 SURFACE:0 SAMPLER:0
        /*0000*/                   LDG.E.64 R2, desc[UR4][R2.64] ;          /* 0x0 */
        /*0010*/                   MOV R1, R2 ;                             /* 0x0 */
        /*0020*/              @!P0 LDGSTS.E.BYPASS.LTC128B.128 [R3], desc[UR4][R8.64] ; /* 0x0 */
        /*0030*/                   LDG.E.U16 R9, desc[UR4][R8.64] ;         /* 0x0 */
        /*0040*/               @P1 BRA 0x70 ;                               /* 0x0 */
        /*0050*/                   FADD R1, R1, R2 ;                        /* 0x0 */
        /*0060*/                   DADD R4, R4, R6 ;                        /* 0x0 */
        /*0070*/                   HGMMA.64x64x8.F32.TF32 R24, gdesc[UR8], R24 ; /* 0x0 */
        /*0080*/               @P2 BRA 0x20 ;                               /* 0x0 */
        /*0090*/                   BRA 0x90 ;                               /* 0x0 */
"""


def test_loads_are_told_by_width_and_kind():
    code = read_sass(SASS)
    assert code.loads == {"LDG.64": 1, "LDGSTS.128": 1, "LDG.16": 1}
    assert code.widest_load == 16


def test_a_load_that_only_prefetches_128_bytes_into_the_cache_is_not_wide():
    code = read_sass(SASS.replace("LTC128B.128", "LTC128B"))
    assert code.loads["LDGSTS.32"] == 1


def test_products_and_registers():
    code = read_sass(SASS)
    assert (code.product, code.registers) == ("wgmma", 40)


def test_a_stack_frame_counts_as_spilled_only_if_something_is_stored_there():
    assert read_sass(SASS).spill_bytes == 0
    assert read_sass(SASS.replace("MOV R1, R2", "STL [R1], R2")).spill_bytes == 16


def test_a_loop_counts_issue_slots_and_what_a_branch_skips():
    # Two loads, two branches, one addition, one of fp64 at half the rate; products run beside.
    assert read_sass(SASS).loops == [(7, 3)]
