"""Pieces of all ranks' images are those that one process would cut."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repair_kernels.batches import cuts_of, in_pieces
from repair_kernels.calibration.rank_pieces import Plan, cut_at

SHARES = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any)


@given(n=st.integers(1, 60), images=st.integers(1, 12))
def test_the_cuts_are_known_before_the_images_are(n: int, images: int) -> None:
    ends = torch.tensor([len(piece) for piece in in_pieces([torch.zeros(n)], images)]).cumsum(0)
    assert [*cuts_of(n, images), n] == ends.tolist()


@given(counts=SHARES, images=st.integers(1, 12), batch=st.integers(1, 9))
def test_parts_of_one_number_are_one_piece(counts: list[int], images: int, batch: int) -> None:
    everyones = torch.arange(sum(counts))
    pieces: dict[int, list[torch.Tensor]] = {}
    for rank, own in enumerate(everyones.split(counts)):
        plan = Plan.of(counts, rank, images)
        parts = list(cut_at(own.split(batch) if len(own) else (), plan.cuts))
        for number, part in zip(plan.pieces, parts, strict=True):
            pieces.setdefault(number, []).append(part)
    expected = list(in_pieces([everyones], images))
    assert sorted(pieces) == list(range(len(expected)))
    for number, piece in enumerate(expected):
        assert torch.equal(torch.cat(pieces[number]), piece)


@given(counts=SHARES, images=st.integers(1, 12))
def test_no_rank_has_two_shared_pieces_in_one_turn(counts: list[int], images: int) -> None:
    plans = [Plan.of(counts, rank, images) for rank in range(len(counts))]
    holders = Counter(number for plan in plans for number in plan.pieces)
    shared = plans[0].shared
    assert all(plan.shared == shared for plan in plans)
    assert set(shared) == {number for number, ranks in holders.items() if ranks > 1}
    for turn in (shared[::2], shared[1::2]):
        assert all(len(set(turn) & set(plan.pieces)) <= 1 for plan in plans)


@pytest.mark.parametrize("cuts", [[], [3], [3, 5, 9]])
def test_the_last_part_has_what_is_left_whether_more_or_less(cuts: list[int]) -> None:
    for n in (2, 9, 14):
        parts = list(cut_at(torch.arange(n).split(4), cuts))
        assert torch.equal(torch.cat(parts), torch.arange(n))
        inner = [cut for cut in cuts if cut <= n]
        assert [len(part) for part in parts] == torch.tensor(
            [b - a for a, b in zip([0, *inner], [*inner, n], strict=True) if b > a]
        ).tolist()
