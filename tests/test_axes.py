"""Laws of channel identities: whatever is found interchangeable really is."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repair_kernels.axes import ChannelAxes, Orbits


@pytest.fixture
def channels() -> ChannelAxes:
    return ChannelAxes()


def sizes(orbits: Orbits) -> list[int]:
    return sorted(orbits.sizes)


@st.composite
def structures(draw: st.DrawFn) -> ChannelAxes:
    """A few axes, tied, bound, cut, repeated and pinned at random."""
    channels = ChannelAxes()
    axes = [channels.fresh(n) for n in draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))]
    for _ in range(draw(st.integers(0, 6))):
        axis = draw(st.sampled_from(axes))
        alike = [other for other in axes if len(other) == len(axis)]
        match draw(st.sampled_from(["tie", "tie backwards", "bind", "cut", "join", "pin", "rows"])):
            case "tie":
                channels.tie(axis, draw(st.sampled_from(alike)))
            case "tie backwards":
                channels.tie(axis, draw(st.sampled_from(alike))[::-1])
            case "bind":
                other = draw(st.sampled_from(alike))[:: draw(st.sampled_from([1, -1]))]
                channels.bind(np.stack([axis, other], axis=1))
            case "cut":
                axes.append(channels.occur(axis[draw(st.integers(0, len(axis) - 1)) :]))
            case "join":
                axes.append(channels.occur(np.concatenate([axis, channels.copy(axis)])))
            case "pin":
                channels.pin(axis[:1], "for a reason")
            case "rows":
                if len(axis) % 2 == 0:
                    channels.bind(axis.reshape(-1, 2))
    return channels


def tied_classes(channels: ChannelAxes) -> list[int]:
    """Return the name of each vertex's class: its smallest member, found by plain relabelling."""
    name = list(range(channels.count))
    for x, y in channels.ties:
        for one, other in zip(x.tolist(), y.tolist(), strict=True):
            keep, drop = sorted((name[one], name[other]))
            name = [keep if n == drop else n for n in name]
    return name


@given(structures())
def test_exchanging_two_blocks_of_an_orbit_maps_all_axes_and_bindings_onto_themselves(channels):
    name = tied_classes(channels)
    orbits = channels.orbits()
    place = {
        name[v]: (int(orbits.orbit[v]), int(orbits.block[v]), int(orbits.role[v]))
        for v in range(channels.count)
        if orbits.orbit[v] >= 0
    }
    at = {where: who for who, where in place.items()}
    assert len(at) == len(place)  # No two channels of one block play the same part.
    for orbit, size in enumerate(orbits.sizes):
        for one, other in combinations(range(size), 2):
            swap = {one: other, other: one}

            def exchanged(v: int, orbit=orbit, swap=swap) -> int:
                number, block, role = place.get(name[v], (-1, 0, 0))
                return at[number, swap.get(block, block), role] if number == orbit else name[v]

            for axis in channels.axes:
                assert sorted(map(exchanged, axis)) == sorted(name[v] for v in axis)
            for rows in channels.bindings:
                after = sorted(tuple(map(exchanged, row)) for row in rows)
                assert after == sorted(tuple(name[v] for v in row) for row in rows)
            for v in channels.pinned:
                assert exchanged(v) == name[v]


@given(structures())
def test_every_channel_has_either_a_place_in_an_orbit_or_a_reason(channels):
    orbits = channels.orbits()
    moves = {v for v in range(channels.count) if orbits.orbit[v] >= 0}
    assert moves | orbits.reasons.keys() == set(range(channels.count))
    assert not moves & orbits.reasons.keys()


@given(structures())
def test_every_orbit_holds_as_many_blocks_as_its_size_says(channels):
    orbits = channels.orbits()
    for number, size in enumerate(orbits.sizes):
        assert size > 1
        assert set(orbits.block[orbits.orbit == number]) == set(range(size))


def test_channels_of_which_nothing_is_known_form_one_orbit(channels):
    axis = channels.fresh(5)
    assert channels.orbits().on(axis)[0].tolist() == [[0], [1], [2], [3], [4]]


def test_channels_of_two_axes_without_a_relation_form_two_orbits(channels):
    channels.fresh(5)
    channels.fresh(3)
    assert sizes(channels.orbits()) == [3, 5]


def test_a_single_channel_has_none_to_change_places_with(channels):
    axis = channels.fresh(1)
    orbits = channels.orbits()
    assert orbits.on(axis) == {}
    assert orbits.reasons == {0: "no other channel is like it"}


def test_tied_axes_move_as_one(channels):
    x, y = channels.fresh(4), channels.fresh(4)
    channels.tie(x, y[::-1].copy())
    orbits = channels.orbits()
    assert orbits.sizes == [4]
    position_on_y = orbits.on(y)[0][np.argsort(orbits.on(x)[0].ravel())]
    assert position_on_y.ravel().tolist() == [3, 2, 1, 0]


def test_the_rest_of_an_axis_moves_where_some_channels_are_pinned(channels):
    axis = channels.fresh(5)
    channels.pin(axis[1:3], "these stay")
    orbits = channels.orbits()
    assert orbits.on(axis)[0].ravel().tolist() == [0, 3, 4]
    assert orbits.reasons == {1: "these stay", 2: "these stay"}


def test_the_first_reason_for_which_a_channel_is_pinned_is_kept(channels):
    axis = channels.fresh(1)
    channels.pin(axis, "first")
    channels.pin(axis, "second")
    assert channels.orbits().reasons == {0: "first"}


def test_what_is_tied_to_a_pinned_channel_is_pinned_for_its_reason(channels):
    x, y = channels.fresh(2), channels.fresh(2)
    channels.tie(x, y)
    channels.pin(x, "x stays")
    assert set(channels.orbits().reasons.values()) == {"x stays"}


def test_a_block_with_a_pinned_member_is_pinned_for_its_reason(channels):
    x, y = channels.fresh(3), channels.fresh(3)
    channels.bind(np.stack([x, y], axis=1))
    channels.pin(x[:1], "the first stays")
    orbits = channels.orbits()
    assert orbits.sizes == [2]
    assert orbits.reasons == {0: "the first stays", 3: "the first stays"}


def test_a_cut_parts_the_channels_inside_from_those_outside(channels):
    axis = channels.fresh(5)
    channels.occur(axis[1:3])
    on = channels.orbits().on(axis)
    assert sorted(positions.ravel().tolist() for positions in on.values()) == [[0, 3, 4], [1, 2]]


def test_bound_rows_move_whole_and_each_member_keeps_its_part(channels):
    axis = channels.fresh(6)
    channels.bind(axis.reshape(3, 2))
    positions = channels.orbits().on(axis)[0]
    assert sorted(map(sorted, positions.tolist())) == [[0, 1], [2, 3], [4, 5]]
    parts = positions % 2
    assert (parts == parts[0]).all()


def test_copies_of_an_axis_move_with_it_and_are_told_apart(channels):
    axis = channels.fresh(3)
    joined = channels.occur(np.concatenate([channels.copy(axis), channels.copy(axis)]))
    positions = channels.orbits().on(joined)[0]
    assert positions.shape == (3, 2)
    assert (positions // 3 == positions[0] // 3).all()
    assert (positions % 3 == positions[:, :1] % 3).all()


def test_a_channel_that_stands_twice_on_one_axis_is_pinned(channels):
    axis = channels.fresh(3)
    channels.occur(np.concatenate([axis, axis]))
    assert set(channels.orbits().reasons.values()) == {"one channel stands twice on one axis"}


def test_members_of_a_block_that_cannot_be_told_apart_are_pinned(channels):
    axis = channels.fresh(4)
    channels.bind(np.stack([axis, axis[::-1]], axis=1))
    assert set(channels.orbits().reasons.values()) == {
        "two channels of one block play the same part"
    }


def test_no_axes_have_no_orbits(channels):
    assert channels.orbits().sizes == []
