"""Activations are addressed where they lie."""

import pytest
import torch

from repair_kernels import kernels
from repair_kernels.kernels.positions import Positions, addressed_alike
from tests.kernels.layouts import LAYOUTS


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "crop"])
def test_no_common_layout_is_copied(layout):
    x, channel_dim = LAYOUTS[layout](14, 5, torch.float32)
    assert Positions.of(x, channel_dim).view.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_positions_and_channels_are_counted(layout):
    x, channel_dim = LAYOUTS[layout](14, 5, torch.float32)
    positions = Positions.of(x, channel_dim)
    assert (positions.n, positions.channels) == (x.numel() // 5, 5)


def test_channels_last_images_are_rows():
    x = torch.randn(2, 5, 3, 4).contiguous(memory_format=torch.channels_last)
    positions = Positions.of(x, 1)
    assert positions.is_rows
    expected = x.permute(0, 2, 3, 1).reshape(24, 5)
    assert torch.equal(positions.as_rows().view[0].t(), expected)


def test_images_in_channel_order_are_not_rows():
    assert not Positions.of(torch.randn(2, 5, 3, 4), 1).is_rows
    assert Positions.of(torch.randn(1, 5, 3, 4), 1).is_rows


def test_overlapping_windows_are_read_where_they_lie(device):
    x = torch.randn(60, device=device)
    for size, stride in (((20, 8), (1, 1)), ((5, 6, 4), (3, 2, 1)), ((6, 5), (0, 1))):
        windows = x.as_strided(size, stride)
        for cross in (True, "diagonal"):
            read = kernels.paired_moments(windows, windows.flip(0), cross=cross)
            copied = kernels.paired_moments(windows.clone(), windows.flip(0), cross=cross)
            for one, other in zip(read[:4], copied[:4], strict=True):
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", [(20, 8), (5, 6, 4), (1, 5), (7, 1)])
def test_overlapping_and_expanded_memory_is_read_by_every_form(shape, device):
    x = torch.randn(60, device=device)
    overlapping = x.as_strided(shape, tuple(range(len(shape), 0, -1)))
    expanded = x[:1].expand(shape)
    for a in (overlapping, expanded):
        b = a + 1
        for read, copied in (
            (kernels.channel_moments(a), kernels.channel_moments(a.clone())),
            (
                kernels.paired_moments(a, b, joint=True),
                kernels.paired_moments(a.clone(), b, joint=True),
            ),
        ):
            for one, other in zip(read, copied, strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "channels_last", "unit", "align"),
    [
        ((2, 64, 56, 56), False, "place", 16),
        ((2, 64, 14, 14), False, "place", 4),
        ((2, 64, 7, 7), False, "place", 1),
        ((2, 24, 7, 7), True, "channel", 8),
        ((2, 64, 7, 7), True, "channel", 16),
        ((1, 3, 5, 4), True, "channel", 1),
        ((8, 40), False, "channel", 8),
    ],
)
def test_runs_and_their_alignment_are_told(shape, channels_last, unit, align):
    x = torch.empty(shape)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    _, addressing = addressed_alike(Positions.of(x, 1), Positions.of(x, 1))
    assert (addressing["UNIT"], addressing["ALIGN"]) == (unit, align)


def test_layouts_that_differ_have_no_common_run():
    x = torch.empty(2, 16, 4, 4)
    last = x.contiguous(memory_format=torch.channels_last)
    _, addressing = addressed_alike(Positions.of(x, 1), Positions.of(last, 1))
    assert addressing == {"ROWS": False, "UNIT": "none", "ALIGN": 1}


def test_counting_in_64_bits_changes_nothing(monkeypatch, device):
    a, b = torch.randn(9, 5, 31, device=device), torch.randn(9, 3, 31, device=device)
    narrow = kernels.paired_moments(a, b), kernels.channel_moments(a)
    monkeypatch.setattr(Positions, "needs_64_bits", lambda *_: True)
    wide = kernels.paired_moments(a, b), kernels.channel_moments(a)
    for one, other in zip((*narrow[0][:5], *narrow[1]), (*wide[0][:5], *wide[1]), strict=True):
        assert torch.equal(one, other)


def test_images_of_2_31_places_are_counted_in_64_bits():
    x = torch.empty(2, 2, 1).expand(2, 2, 2**31)
    assert Positions.of(x, 1).needs_64_bits(64, 64)
    assert not Positions.of(x[:, :, : 2**30], 1).needs_64_bits(64, 64)
    # Within one image they are counted from the start of the split.
    assert not Positions.of(x[:1], 1).needs_64_bits(64, 64)
    assert Positions.of(x[:1], 1).needs_64_bits(2**31 - 64, 64)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the memory must cost nothing until touched")
def test_offsets_beyond_32_bits_are_followed():
    # Two positions 2**31 values apart in memory of which only their pages are ever touched.
    x = torch.empty(2**31 + 8, dtype=torch.float16).as_strided((2, 8), (2**31, 1))
    x[0], x[1] = 1.0, 3.0
    assert kernels.channel_moments(x).mean.tolist() == [2.0] * 8
    assert kernels.paired_moments(x, x).cross.tolist() == [[2.0] * 8] * 8
