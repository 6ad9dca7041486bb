"""Laws of channel identities: whatever is found interchangeable really is."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repair_kernels.axes import ChannelAxes, Orbits
from repair_kernels.axes.orbits import Level


@pytest.fixture
def channels() -> ChannelAxes:
    return ChannelAxes()


def sizes(orbits: Orbits) -> list[int]:
    return sorted(orbits.sizes)


@st.composite
def structures(draw: st.DrawFn) -> ChannelAxes:
    """A few axes, tied, bound, gathered, cut, repeated and pinned at random."""
    channels = ChannelAxes()
    axes = [channels.fresh(n) for n in draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))]
    for _ in range(draw(st.integers(0, 6))):
        axis = draw(st.sampled_from(axes))
        alike = [other for other in axes if len(other) == len(axis)]
        verbs = ["tie", "tie backwards", "bind", "cut", "join", "pin", "rows", "sets", "columns"]
        match draw(st.sampled_from(verbs)):
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
            case "sets":
                if len(axis) % 2 == 0:
                    axes.append(channels.gather(axis.reshape(-1, 2)))
            case "columns":
                if len(axis) == 6:
                    axes.append(channels.gather(axis.reshape(3, 2).T))
    return channels


def exchange(level: Level, number: int, one: int, other: int) -> dict[int, set[int]]:
    """Return for each vertex those that may take its place when two blocks are exchanged.

    Tied vertices are in one place, so there may be several.
    """
    swap = {one: other, other: one}
    at: dict[tuple[int, int], set[int]] = {}
    for v in np.flatnonzero(level.orbit == number).tolist():
        at.setdefault((int(level.block[v]), int(level.role[v])), set()).add(v)
    moved = {v: {v} for v in range(len(level.orbit))}
    for (block, role), held in at.items():
        for v in held:
            moved[v] = at[swap.get(block, block), role]
    return moved


@given(structures())
def test_exchanging_two_blocks_maps_all_that_is_said_onto_itself(channels):
    orbits = channels.orbits()
    for level in orbits.levels:
        for number in np.unique(level.orbit[level.orbit >= 0]).tolist():
            for one, other in combinations(range(orbits.sizes[number]), 2):
                moved = exchange(level, number, one, other)
                # The vertices of one place are all tied, so any of them may stand for all.
                name = {v: min(held) for held in moved.values() for v in held}
                name = {v: name.get(v, v) for v in range(channels.count)}
                image = {name[v]: min(held) for v, held in moved.items()}
                assert sorted(image) == sorted(image.values())

                def mapped(rows, image=image, name=name):
                    return [tuple(image[name[v]] for v in row) for row in rows.tolist()]

                def named(rows, name=name):
                    return [tuple(name[v] for v in row) for row in rows.tolist()]

                for axis in channels.axes:
                    assert sorted(mapped(axis[:, None])) == sorted(named(axis[:, None]))
                for rows in channels.bindings:
                    assert sorted(mapped(rows)) == sorted(named(rows))
                for rows in channels.gatherings:
                    assert sets(mapped(rows)) == sets(named(rows))
                for x, y in channels.ties:
                    pairs = np.stack([x, y], axis=1)
                    assert set(mapped(pairs)) <= set(named(pairs)) | {(v, v) for v in image}
                for v in channels.pinned:
                    assert image[name[v]] == name[v]


def sets(rows: list[tuple[int, ...]]) -> list[tuple[tuple[int, ...], int]]:
    return sorted((tuple(sorted(row[:-1])), row[-1]) for row in rows)


@given(structures())
def test_every_channel_has_either_a_place_in_an_orbit_or_a_reason(channels):
    orbits = channels.orbits()
    moves = {v for level in orbits.levels for v in np.flatnonzero(level.orbit >= 0).tolist()}
    assert moves | orbits.reasons.keys() == set(range(channels.count))
    assert not moves & orbits.reasons.keys()


@given(structures())
def test_every_orbit_holds_as_many_blocks_as_its_size_says(channels):
    orbits = channels.orbits()
    for level in orbits.levels:
        for number in np.unique(level.orbit[level.orbit >= 0]).tolist():
            size = orbits.sizes[number]
            assert size > 1
            assert set(level.block[level.orbit == number]) == set(range(size))


@given(structures())
def test_an_orbit_inside_of_another_lies_in_the_block_that_is_named(channels):
    orbits = channels.orbits()
    for number, (outer, block, _) in orbits.inside.items():
        held = np.any([level.orbit == number for level in orbits.levels], axis=0)
        (level,) = (level for level in orbits.levels if (level.orbit == outer).any())
        assert (level.orbit[held] == outer).all()
        assert (level.block[held] == block).all()


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


def test_two_halves_of_an_axis_that_are_tied_move_in_pairs(channels):
    axis = channels.fresh(6)
    channels.tie(axis[:3], axis[3:])
    positions = channels.orbits().on(axis)[0]
    assert sorted(map(sorted, positions.tolist())) == [[0, 3], [1, 4], [2, 5]]


def test_members_of_a_set_change_places_within_it_and_sets_as_blocks(channels):
    axis = channels.fresh(6)
    handles = channels.gather(axis.reshape(2, 3))
    orbits = channels.orbits()
    on = orbits.on(axis)
    assert [sorted(map(tuple, on[n].tolist())) for n in on] == [
        [(0,), (1,), (2,)],
        [(3,), (4,), (5,)],
        [(0, 1, 2), (3, 4, 5)],
    ]
    assert {n: at[:2] for n, at in orbits.inside.items()} == {0: (2, 0), 1: (2, 1)}
    assert orbits.on(handles)[2].tolist() == [[0], [1]]


def test_rows_and_columns_of_a_grid_change_places_as_wholes(channels):
    grid = channels.fresh(6).reshape(2, 3)
    channels.gather(grid)
    channels.gather(grid.T)
    orbits = channels.orbits()
    blocks = [sorted(map(sorted, p.tolist())) for p in orbits.on(grid.ravel()).values()]
    assert sorted(blocks) == [[[0, 1, 2], [3, 4, 5]], [[0, 3], [1, 4], [2, 5]]]
    assert orbits.inside == {}


def test_sets_of_sets_nest(channels):
    leaves = channels.fresh(12)
    channels.gather(channels.gather(leaves.reshape(6, 2)).reshape(2, 3))
    orbits = channels.orbits()
    assert sizes(orbits) == [2] * 6 + [2] + [3] * 2
    chain = [orbits.inside[0][0]]
    assert orbits.sizes[chain[0]] == 3
    assert orbits.sizes[orbits.inside[chain[0]][0]] == 2


def test_a_set_whose_handle_is_pinned_stays_but_its_members_move(channels):
    axis = channels.fresh(4)
    channels.pin(channels.gather(axis.reshape(2, 2)), "the handles stay")
    assert sizes(channels.orbits()) == [2, 2]


def test_sets_of_different_structure_do_not_change_places(channels):
    axis = channels.fresh(6)
    channels.gather(axis.reshape(2, 3))
    channels.occur(axis[:1])
    assert sizes(channels.orbits()) == [2, 3]


def test_sets_that_two_operators_gather_have_one_handle(channels):
    rows = channels.fresh(6).reshape(2, 3)
    assert channels.gather(rows) is channels.gather(rows[:, ::-1])


def test_no_axes_have_no_orbits(channels):
    assert channels.orbits().sizes == []
