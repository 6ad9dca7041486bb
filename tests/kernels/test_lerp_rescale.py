"""`lerp_rescale` in three voices: oracle, reference, kernel."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repair_kernels import kernels, reference
from repair_kernels.kernels.devices import INTERPRETER, KNOWN
from repair_kernels.kernels.lerp_rescale import launch_config
from repair_kernels.kernels.lerp_table import (
    BODY,
    FIELDS,
    INNER,
    NUMEL,
    ROW,
    LerpTable,
    lerp_table,
    magic,
)
from repair_kernels.reference import Lerp
from tests import budget, oracles

MODULE = sys.modules["repair_kernels.kernels.lerp_rescale"]
# What numpy says in the interpreter where values are not finite.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Around 16 bytes, a block, a power of two; with and without space; one element and none.
SHAPES = [
    *((), (1,), (65,), (256,), (7, 63), (65, 1), (4, 64)),
    *((4, 5, 3, 3), (64, 64, 1, 1), (3, 257, 2), (6, 4, 2, 3, 2), (0, 4), (4, 0)),
]
ALPHAS = [0.0, 0.3, 0.5, 0.9, 1.0]


def check(items: list[Lerp], alphas: list[float]) -> None:
    """Hold the kernel to its budget, for all items and alphas of one launch."""
    outs = kernels.lerp_rescale(items, alphas)
    truths = reference.lerp_rescale(items, alphas)
    assert len(outs) == len(truths) == len(alphas)
    for k, alpha in enumerate(alphas):
        for item, out, truth in zip(items, outs[k], truths[k], strict=True):
            assert out.dtype == truth.dtype == item.a.dtype
            assert out.shape == truth.shape == item.a.shape
            oracle = oracles.lerp_rescale(*item[:2], alpha, *at(item, k)[2:])
            size = oracles.lerp_rescale(*magnitude(item)[:2], alpha, *at(magnitude(item), k)[2:])
            budget.within(out, truth, oracle, size, budget.LERP_FLOOR[item.a.dtype])
            # The reference has no other to lean on: its own two units in the last place.
            assert budget.error(truth, oracle, size) <= 2 * budget.LERP_FLOOR[item.a.dtype]


def at(item: Lerp, k: int) -> Lerp:
    """Return an item with the scale and shift of alpha number k."""
    vectors = {name: getattr(item, name) for name in ("scale", "shift")}
    return item._replace(
        **{name: v[k] if v is not None and v.dim() == 2 else v for name, v in vectors.items()}
    )


def magnitude(item: Lerp) -> Lerp:
    """Return an item whose result is what the other's is made of."""
    values = {name: getattr(item, name) for name in ("a", "b", "scale", "shift")}
    return item._replace(**{name: v.abs() for name, v in values.items() if v is not None})


def everything(shape, device, dtype=torch.float32, n_alphas=None) -> Lerp:
    """Return an item that uses every field; with `n_alphas` a scale for each."""
    a, b = (torch.randn(shape).to(device, dtype) for _ in "ab")
    c_out, c_in = (*shape, 1, 1)[:2]
    rows = (c_out,) if n_alphas is None else (n_alphas, c_out)
    return Lerp(
        a,
        b,
        index_out=torch.randperm(c_out).to(device),
        index_in=torch.randint(0, max(c_in, 1), (c_in,)) if len(shape) > 1 else None,
        scale=torch.randn(rows, device=device),
        shift=torch.randn(c_out, device=device),
    )


def only(item: Lerp, *names: str) -> Lerp:
    """Return an item with some of its options."""
    return Lerp(item.a, item.b, **{name: getattr(item, name) for name in names})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_shape_in_one_launch_meets_the_budget(dtype, device):
    check([everything(shape, device, dtype) for shape in SHAPES], ALPHAS)


@pytest.mark.parametrize(
    "options",
    [(), ("index_in",), ("index_out",), ("scale",), ("shift",), ("index_out", "scale")],
    ids="+".join,
)
def test_every_option_meets_the_budget_in_every_dtype(options, device):
    shapes = [(9, 33, 3), (4, 64), (8, 2, 2, 2)]
    items = [everything(shape, device, dtype) for shape in shapes for dtype in DTYPES]
    check([only(item, *options) for item in items], [0.7])


def test_scale_and_shift_may_differ_between_alphas(device):
    check([everything(shape, device, n_alphas=3) for shape in [(5, 4), (7,)]], [0.2, 0.5, 1.0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scales_of_any_dtype_are_taken(dtype, device):
    item = everything((6, 4), device)
    scale = item.scale.to(dtype)
    check([item._replace(scale=scale, shift=scale), only(item, "index_in")], [0.4])


def test_channels_behind_a_flatten_move_as_segments(device):
    a, b = torch.randn(2, 6, 5 * 9, device=device)
    index = torch.randperm(5)
    positions = (index[:, None] * 9 + torch.arange(9)).flatten()
    expanded = [Lerp(a, b, index_in=positions)]
    segments = [Lerp(a, b, index_in=index, segment=9, index_out=torch.randperm(6))]
    check(segments, [0.4])
    for backend in (kernels, reference):
        [[whole]] = backend.lerp_rescale([segments[0]._replace(index_out=None)], [0.4])
        assert torch.equal(whole, backend.lerp_rescale(expanded, [0.4])[0][0])


def test_a_weight_set_is_one_launch(device, monkeypatch):
    launches = []
    kernel = MODULE._lerp_rescale_kernel

    class Counting:
        def __getitem__(self, grid):
            launches.append(grid)
            return kernel[grid]

    monkeypatch.setattr(MODULE, "_lerp_rescale_kernel", Counting())
    items = [everything(shape, device, dtype) for shape in SHAPES[:5] for dtype in DTYPES]
    kernels.lerp_rescale(items, ALPHAS)
    assert len(launches) == 1


@pytest.mark.parametrize("backend", [kernels, reference], ids=["kernel", "reference"])
def test_one_launch_gives_the_bits_of_many(backend, device):
    items = [everything(shape, device, dtype) for shape in SHAPES[1:9] for dtype in DTYPES[:3]]
    together = backend.lerp_rescale(items, [0.3, 0.8])
    for k, item in enumerate(items):
        for at_alpha, alpha in zip(together, [0.3, 0.8], strict=True):
            [[alone]] = backend.lerp_rescale([item], [alpha])
            assert torch.equal(at_alpha[k], alone)


def test_nothing_to_do_is_no_launch(device, monkeypatch):
    monkeypatch.setattr(MODULE, "_lerp_rescale_kernel", None)
    empty = torch.empty(0, 4, device=device)
    assert [x.shape for x in kernels.lerp_rescale([Lerp(empty, empty)], [0.5])[0]] == [(0, 4)]
    assert kernels.lerp_rescale([Lerp(empty, empty)], []) == []


# Values


def test_float64_weights_are_not_rounded_to_float32(device):
    a, b = torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    [[out]] = kernels.lerp_rescale([Lerp(a.to(device), b.to(device))], [0.1])
    assert (out - 0.9).abs().max() < 1e-14


@pytest.mark.parametrize("backend", [kernels, reference], ids=["kernel", "reference"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_where_both_agree_nothing_changes(backend, dtype, device):
    a = torch.randn(500).to(device, dtype)
    for mixed in backend.lerp_rescale([Lerp(a, a.clone())], [0.1, 0.3, 0.5, 0.77]):
        assert torch.equal(mixed[0], a)


@pytest.mark.parametrize("backend", [kernels, reference], ids=["kernel", "reference"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_middle_is_rounded_once_even_where_both_cancel(backend, dtype, device):
    a = torch.randn(500).to(device, dtype)
    b = (-a.double() * (1 + 0.01 * torch.randn(500, device=device))).to(dtype)
    [[out]] = backend.lerp_rescale([Lerp(a, b)], [0.5])
    wanted = (a.double() + b.double()) / 2
    assert ((out.double() - wanted).abs() <= torch.finfo(dtype).eps * wanted.abs()).all()


@pytest.mark.parametrize("alpha", [1e-6, 0.5, 1 - 1e-6])
def test_a_large_value_with_a_small_share_is_not_rounded_away(alpha, device):
    big, small = 1e6 * torch.randn(200, device=device), torch.randn(200, device=device)
    check([Lerp(big, small), Lerp(small, big), Lerp(big, -big * (1 + 1e-6))], [alpha])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=10)
@given(values=st.lists(st.floats(width=16, allow_nan=False), min_size=3, max_size=3))
def test_the_ends_are_exact_whatever_the_other_holds(dtype, values):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    a = torch.tensor([-0.0, 1.5, 3e-5], dtype=dtype, device=device)
    b = torch.tensor(values, dtype=dtype, device=device)
    index = torch.tensor([2, 0, 1], device=device)
    items = [Lerp(a, b, index_out=index), Lerp(b, a, index_out=index)]
    for backend in (kernels, reference):
        (at_a, _), (_, at_b) = backend.lerp_rescale(items, [0.0, 1.0])
        assert torch.equal(at_a, a)
        assert torch.equal(at_a.signbit(), a.signbit())
        assert torch.equal(at_b, a[index])
        assert torch.equal(at_b.signbit(), a[index].signbit())


# Memory


def test_strides_of_both_are_followed(device):
    a = torch.randn(3, 8, 5, device=device).transpose(0, 1)
    b = torch.randn(16, 3, 5, device=device)[::2]
    expanded = torch.randn(8, 1, 1, device=device).expand(8, 3, 5)
    index = torch.tensor([2, 0, 1], device=device)
    check([Lerp(a, b, index_in=index), Lerp(b, a), Lerp(expanded, b), Lerp(a, expanded)], [0.4])


def test_overlapping_and_expanded_memory_is_read_where_it_lies(device):
    x = torch.randn(40, device=device)
    pairs = [
        (x.as_strided((6, 5, 3), (2, 3, 1)), x.as_strided((6, 5, 3), (1, 1, 1))),
        (x[:5].expand(6, 5), x[:1].expand(6, 5)),
        (x[:6, None].expand(6, 5), torch.zeros(1, 1, device=device).expand(6, 5)),
    ]
    (mixed,) = kernels.lerp_rescale([Lerp(a, b) for a, b in pairs], [0.25])
    for out, (a, b) in zip(mixed, pairs, strict=True):
        torch.testing.assert_close(out, torch.lerp(a, b, 0.25))


def test_a_strided_index_is_followed(device):
    a, b = torch.randn(2, 4, 3, device=device)
    check([Lerp(a, b, index_out=torch.arange(8).flip(0)[::2] // 2)], [0.4])
    check([Lerp(a, b, index_out=(torch.arange(8, device=device) // 2)[::2])], [0.4])


def test_vectors_start_only_where_16_bytes_do(device):
    a, b = torch.randn(2, 4 * 64 + 1, device=device)
    table, _ = table_of([Lerp(a[1:].view(4, 64), b[:-1].view(4, 64))])
    assert field(table, BODY) == 0
    check([Lerp(a[1:].view(4, 64), b[:-1].view(4, 64), index_out=torch.randperm(4))], [0.4])


@pytest.mark.parametrize("backend", [kernels, reference], ids=["kernel", "reference"])
def test_channels_last_weights_stay_so(backend, device):
    last = torch.channels_last
    a, b = (torch.randn(8, 4, 3, 3, device=device).to(memory_format=last) for _ in "ab")
    c = torch.randn(8, 4, 3, 3, device=device)
    index = torch.randperm(4)
    items = [
        Lerp(a, b),
        Lerp(a, c),
        Lerp(c, a),
        Lerp(a, b, index_in=index, index_out=index.repeat(2)),
    ]
    items += [Lerp(a, c, index_in=index), Lerp(c, a, index_in=index)]
    check(items, [0.4])
    for item, out in zip(items, backend.lerp_rescale(items, [0.4])[0], strict=True):
        assert out.stride() == item.a.stride()


def test_results_share_no_memory(device):
    items = [everything(shape, device) for shape in SHAPES[:6]]
    for backend in (kernels, reference):
        outs = [out for at_alpha in backend.lerp_rescale(items, ALPHAS) for out in at_alpha]
        storages = {out.untyped_storage().data_ptr() for out in outs}
        assert len(storages) == len(outs)
        assert all(out.untyped_storage().nbytes() == 4 * out.numel() for out in outs)


def test_inputs_stay_as_they_were(device):
    a, b = torch.randn(2, 6, 4, device=device)
    before = a.clone(), b.clone()
    for backend in (kernels, reference):
        backend.lerp_rescale(
            [Lerp(a, b, index_out=torch.randperm(6), scale=torch.full((6,), 2.0, device=device))],
            [0.0, 0.5, 1.0],
        )
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


def test_no_gradient_is_recorded(device):
    a = torch.randn(3, requires_grad=True, device=device)
    for backend in (kernels, reference):
        [[out]] = backend.lerp_rescale([Lerp(a, a, index_out=torch.arange(3))], [0.5])
        assert not out.requires_grad


@pytest.mark.usefixtures("_filled_with_nan")
def test_every_output_is_written(device):
    items = [everything(shape, device) for shape in SHAPES]
    for at_alpha in kernels.lerp_rescale(items, [0.5, 0.7]):
        assert all(out.isfinite().all() for out in at_alpha)


# The table


def table_of(items: list[Lerp]) -> tuple[LerpTable, list[torch.Tensor]]:
    """Return the table for one alpha, blocks of 8 vectors and 32 elements, and the outputs."""
    outs = [torch.empty_like(item.a, memory_format=torch.contiguous_format) for item in items]
    return lerp_table(items, [0.5], [outs], vectors=8, block=32), outs


def field(table: LerpTable, name) -> int:
    """Return a field of the first row."""
    return table.words[table.n_rows + name.value].item()


def test_rows_without_a_gather_are_one_run_of_vectors():
    table, _ = table_of([Lerp(torch.ones(4, 9, 2), torch.ones(4, 9, 2))])
    assert [field(table, name) for name in (BODY, NUMEL, ROW, INNER)] == [1, 72, 72, 72]
    assert table.n_blocks == 3
    assert not table.wide


def test_a_gather_of_rows_goes_by_vectors_if_16_bytes_divide_a_row():
    index = torch.arange(4)
    for c_in, body in ((8, 1), (9, 0)):
        a = torch.ones(4, c_in)
        assert field(table_of([Lerp(a, a, index_out=index)])[0], BODY) == body


def test_an_index_that_tensors_share_is_uploaded_once():
    a, index = torch.ones(4, 8), torch.arange(4)
    items = [Lerp(a, a, index_out=index)] * 3
    assert len(table_of(items)[0].words) == 3 * (1 + FIELDS.value + 1) + 2 + 4


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_division_by_multiplication_is_exact(divisor, n):
    factor, shift = magic(divisor) % 2**32, magic(divisor) >> 32
    for value in (n, n // divisor * divisor, max(n // divisor * divisor - 1, 0), 2**31 - 1):
        assert (value + (value * factor >> 32)) >> shift == value // divisor
    assert factor < 2**32


@pytest.mark.parametrize(
    ("shape", "wide"), [((2**31 - 64,), False), ((2**31,), True), ((2, 2**30 + 8), True)]
)
def test_elements_are_counted_in_64_bits_only_from_2_31(shape, wide):
    a = torch.empty(shape, device="meta")
    table, _ = table_of([Lerp(a, a)])
    assert table.wide == wide
    assert table.n_blocks == -(-a.numel() // 32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the memory must cost nothing until touched")
def test_offsets_beyond_32_bits_are_followed(device):
    # Two rows 2**31 values apart in memory of which only their pages are ever touched.
    a = torch.empty(2**31 + 8, dtype=torch.float16).as_strided((2, 8), (2**31, 1))
    a[0], a[1] = 1.0, 3.0
    [[out]] = kernels.lerp_rescale([Lerp(a, a, index_out=torch.tensor([1, 0]))], [0.5])
    assert out.tolist() == [[2.0] * 8] * 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="the memory must cost nothing until touched")
def test_the_last_of_more_than_2_31_elements_are_written(device):
    n = 2**31 + 40
    a, b = (torch.tensor([x], dtype=torch.float16).expand(n) for x in (1.0, 3.0))
    out = torch.empty(n, dtype=torch.float16)
    table = lerp_table([Lerp(a, b)], [0.5], [[out]], vectors=32, block=256)
    # One program, which takes itself for the last of them all.
    table.words[0] = 1 - table.n_blocks
    MODULE._lerp_rescale_kernel[(1,)](
        table.words, 1, 1, BODIES=table.bodies, WIDE=table.wide, VECTORS=32, BLOCK=256
    )
    assert table.wide
    assert out[-40:].eq(2.0).all()


def test_launch_config_takes_whole_blocks_on_every_device():
    for device in (*KNOWN.values(), INTERPRETER):
        for n in (1, 4096, 2**33):
            config = launch_config(n, device)
            lanes = config.vectors, config.block
            assert all(size & (size - 1) == 0 and size >= 32 for size in lanes)
