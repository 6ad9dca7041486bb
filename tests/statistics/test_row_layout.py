"""Every row of a matrix has one rank, and what a rank needs is known before."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repair_kernels import ops
from repair_kernels.moments import totals
from repair_kernels.ranks import Ranks
from repair_kernels.statistics import row_layout
from repair_kernels.statistics.row_layout import RowLayout
from repair_kernels.statistics.row_sharded import RowShardedProducts
from tests.alive import Alive

CHANNELS = {"stem": 7, "conv": 64, "fc": 3}
PRODUCTS = {"stem": "cross", "conv": "joint", "add": "none", "fc": "cross"}
CPU = torch.device("cpu")


def layout(ranks: int) -> RowLayout:
    return RowLayout({**CHANNELS, "add": 64}, PRODUCTS, ranks)


def rank(number: int, size: int) -> Ranks:
    one = Ranks()
    one.rank, one.size = number, size
    return one


@given(channels=st.integers(1, 70), ranks=st.integers(1, 80))
def test_every_row_has_one_rank(channels: int, ranks: int) -> None:
    one = RowLayout({"conv": channels}, {"conv": "cross"}, ranks)
    own = [range(channels)[one.rows("conv", number)] for number in range(ranks)]
    assert [row for rows in own for row in rows] == list(range(channels))
    assert max(map(len, own)) == one.share("conv") == -(-channels // ranks)


@pytest.mark.parametrize("ranks", [1, 2, 3, 70])
def test_the_first_rank_holds_the_bytes_of_the_formula_and_no_rank_more(ranks: int) -> None:
    held = []
    for number in range(ranks):
        rows = RowShardedProducts(layout(ranks), rank(number, ranks), CPU).rows
        assert {tap: set(own) for tap, own in rows.items()} == {
            "stem": {"cross"},
            "conv": {"cross", "within_a", "within_b"},
            "fc": {"cross"},
        }
        held.append(sum(one.nbytes for own in rows.values() for one in own.values()))
    assert held[0] == max(held) == layout(ranks).row_bytes
    assert sum(held) == 8 * (7 * 7 + 3 * 64 * 64 + 3 * 3)


@pytest.mark.parametrize(
    ("buffer", "groups"),
    [
        (2**20, [("stem", "conv", "fc")]),
        (8 * 3 * 64 * 64, [("stem",), ("conv",), ("fc",)]),
        (8 * (7 * 7 + 3 * 64 * 64), [("stem", "conv"), ("fc",)]),
        (1, [("stem",), ("conv",), ("fc",)]),
    ],
)
def test_taps_whose_sums_fit_are_merged_together(monkeypatch, buffer: int, groups: list) -> None:
    monkeypatch.setattr(row_layout, "BUFFER_BYTES", buffer)
    assert layout(3).groups == groups


def test_a_step_takes_its_largest_group_and_two_buffers(monkeypatch) -> None:
    most = 8 * 3 * 64 * 4
    monkeypatch.setattr(row_layout, "BUFFER_BYTES", most)
    assert layout(3).at_once("conv") == 4
    assert layout(3).step_bytes == 8 * 3 * 64 * 64 + 2 * most
    # A row of each rank is sent at least, and no more rows than a rank has.
    assert layout(100).at_once("conv") == 1
    assert layout(3).at_once("fc") == 1


class First(Ranks):
    """The first of three ranks, of which the others have no batch; with as much memory as if."""

    def __init__(self):
        super().__init__()
        self.size = 3

    def exchange(self, topic, message):
        return [message, {}, {}]

    def add_up_shares(self, shares):
        return torch.empty_like(shares).copy_(shares)[0]


def some_sums(width: int) -> ops.PairedSums:
    vectors = torch.ones(4, width, dtype=torch.float64)
    matrices = (torch.ones(width, width, dtype=torch.float64) for _ in range(3))
    cross, within_a, within_b = matrices
    return ops.PairedSums(*vectors, cross, within_a=within_a, within_b=within_b)


def test_the_pass_holds_no_more_than_the_formula_says(monkeypatch) -> None:
    """Two taps of one width: the sums of the second one come when those of the first are gone.

    What the op itself takes to compute them is not counted.
    """
    width = 400
    monkeypatch.setattr(row_layout, "BUFFER_BYTES", 8 * 3 * width * 20)
    one = RowLayout(dict.fromkeys("ab", width), dict.fromkeys("ab", "joint"), 3)
    with Alive([]) as alive:
        rows = RowShardedProducts(one, First(), CPU)
        for _ in range(2):
            for tap in one.matrices:
                rows.add(tap, 30, some_sums(width))
    needed = one.row_bytes + one.step_bytes
    at_once = 8 * totals.OUTER_ELEMENTS  # products of a rank's means that are added
    vectors = 8 * width * 30
    assert needed < alive.peak < needed + at_once + vectors
    assert alive.bytes < one.row_bytes + vectors < needed


def test_without_products_nothing_is_needed() -> None:
    nothing = RowLayout({"add": 5}, {"add": "none"}, 3)
    assert (nothing.groups, nothing.row_bytes, nothing.step_bytes) == ([], 0, 0)
