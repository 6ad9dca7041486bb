"""What statistics say that they are of, and which of them belong together."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repair_kernels.digests import digest_of_tensors
from repair_kernels.errors import (
    ArchitectureMismatchError,
    CheckpointError,
    StatisticsMismatchError,
)
from repair_kernels.graph.network import state_of, trace
from repair_kernels.moments import PairedMoments
from repair_kernels.statistics.collecting import compute_stats
from repair_kernels.statistics.fingerprint import Coverage, Fingerprint, combined
from repair_kernels.statistics.identity import architecture_digest
from repair_kernels.statistics.paired_stats import PairedStats
from tests.networks import FAMILIES, PLAIN

PART = Fingerprint("graph", "weights a", "weights b", "taps", "images", Coverage.of([(0, 4)], 10))
NUMBERS = st.sets(st.integers(0, 30))


def covering(numbers: set[int]) -> Coverage:
    return Coverage.of([(n, n + 1) for n in numbers])


def numbers_of(coverage: Coverage) -> set[int]:
    return {n for start, stop in coverage.ranges for n in range(start, stop)}


@given(numbers=NUMBERS)
def test_ranges_hold_exactly_the_numbers_that_they_were_made_from(numbers) -> None:
    coverage = covering(numbers)
    assert numbers_of(coverage) == numbers
    assert coverage.n_images == len(numbers)
    assert numbers_of(Coverage(coverage.missing)) == set(range(max(numbers, default=-1))) - numbers
    edges = [edge for one in coverage.ranges for edge in one]
    assert edges == sorted(set(edges))


@given(one=NUMBERS, other=NUMBERS)
def test_an_overlap_is_found_exactly_where_there_is_one(one, other) -> None:
    found = covering(one).overlap(covering(other))
    assert (found is None) == (not one & other)
    assert found is None or set(range(*found)) <= one & other
    assert found is None or found[0] == min(one & other)


@given(one=NUMBERS, other=NUMBERS)
def test_merged_coverage_is_the_union(one, other) -> None:
    other -= one
    merged = covering(one).merge(covering(other))
    assert merged == covering(other).merge(covering(one)) == covering(one | other)


def test_missing_shards_are_named_where_all_are_of_one_division() -> None:
    two = Coverage((), shards=("2/4",)).merge(Coverage((), shards=("4/4",)))
    assert two.missing_shards == ("1/4", "3/4")
    assert two.merge(Coverage((), shards=("1/3",))).missing_shards == ()


def test_words_name_the_first_ranges() -> None:
    assert str(Coverage(())) == "no images"
    assert str(Coverage.of([(0, 1500)], total=3000)) == "images 0 to 1,500 of 3,000"
    many = Coverage.of((n, n + 1) for n in range(0, 20, 2))
    assert str(many) == "images 0 to 1, 2 to 3, 4 to 5 and 7 ranges more"


def test_fingerprints_of_disjoint_parts_merge() -> None:
    other = replace(PART, coverage=Coverage.of([(4, 10)], 10))
    assert PART.merge(other).coverage == Coverage.of([(0, 10)], 10)
    assert combined([PART, other]) == PART.merge(other)


def test_where_one_part_does_not_say_its_images_neither_does_the_whole() -> None:
    silent = replace(PART, data=None, coverage=None)
    assert PART.merge(silent) == silent.merge(PART) == silent
    assert combined([PART, None]) is None
    assert combined([]) is None


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"architecture": "other"}, ArchitectureMismatchError, "must be of one architecture.*same"),
        ({"taps": "other"}, ArchitectureMismatchError, "the same taps and keep .* same options"),
        ({"weights_a": "x"}, StatisticsMismatchError, "two networks; the weights of a differ;"),
        (
            {"weights_a": "weights b", "weights_b": "weights a"},
            StatisticsMismatchError,
            r"the weights of a and b differ \(a and b have changed places\); compute all parts",
        ),
        ({"data": "x"}, StatisticsMismatchError, "same data; one is of 'images' and .* 'x'; compu"),
        (
            {"coverage": Coverage.of([(3, 9)], 10)},
            StatisticsMismatchError,
            "different images; images 3 to 4 would be counted twice; leave one of them out",
        ),
        (
            {"coverage": Coverage.of([(4, 9)], 9)},
            StatisticsMismatchError,
            "one selection of images; one is of 10 images in all and the other of 9; compute",
        ),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(change, error, words) -> None:
    with pytest.raises(error, match=words):
        PART.merge(replace(PART, **{"coverage": Coverage.of([(4, 10)], 10), **change}))


def test_json_gives_back_what_it_was_made_from() -> None:
    for one in (
        PART,
        replace(PART, data=None, coverage=None),
        replace(PART, coverage=Coverage.of([(0, 2), (5, 6)], None, ["2/3"])),
        replace(PART, coverage=Coverage((), 0, ("1/1",))),
    ):
        assert Fingerprint.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights_a": None}, "expected a fingerprint with architecture, weights_a"),
        ({"data": 3}, "expected the data's fingerprint as text, got 3"),
        ({"ranges": 3}, "each with its two ends"),
        ({"ranges": [[0, 1, 2]]}, "each with its two ends"),
        ({"ranges": [[4, 2]]}, "ascending and apart"),
        ({"ranges": [[0, 2], [1, 3]]}, "ascending and apart"),
        ({"ranges": [[-1, 2]]}, "ascending and apart"),
        ({"ranges": [[0, 2.5]]}, "ascending and apart"),
        ({"ranges": [[0, 10**30]]}, "ascending and apart"),
        ({"total": 3}, "expected the number of all images, got 3"),
        ({"total": "many"}, "expected the number of all images, got many"),
        ({"shards": ["0/3"]}, "expected shards such as '3/16'"),
        ({"shards": None}, "expected shards such as '3/16'"),
    ],
)
def test_json_that_is_no_fingerprint_is_refused(change, words) -> None:
    with pytest.raises(CheckpointError, match=words):
        Fingerprint.from_json({**PART.to_json(), **change})


# --- of networks ---------------------------------------------------------------------------------


def test_equal_networks_have_equal_digests_wherever_they_are_traced() -> None:
    x = PLAIN.inputs(3)
    model, same = PLAIN.network(0), PLAIN.network(0)
    digests = {
        architecture_digest(trace(network, batch), state_of(network))
        for network, batch in ((model, x), (same, x[:2]), (PLAIN.network(1), x))
    }
    assert len(digests) == 1
    assert digest_of_tensors(state_of(model)) == digest_of_tensors(state_of(same))


def test_networks_of_different_architectures_have_different_digests() -> None:
    digests = set()
    for family in FAMILIES.values():
        model = family.network(0)
        digests.add(architecture_digest(trace(model, family.inputs(2)), state_of(model)))
    assert len(digests) == len(FAMILIES)


@pytest.mark.parametrize("change", [lambda x: x.neg_(), lambda x: x.view(-1)[0].add_(1e-6)])
def test_a_digest_sees_the_smallest_change_of_a_weight(change) -> None:
    state = {name: tensor.clone() for name, tensor in state_of(PLAIN.network(0)).items()}
    before = digest_of_tensors(state)
    change(state["0.weight"])
    assert digest_of_tensors(state) != before
    assert digest_of_tensors({"x": torch.zeros(2, 3)}) != digest_of_tensors({"x": torch.zeros(6)})
    assert digest_of_tensors({"x": torch.tensor(0.0)}) != digest_of_tensors({"x": torch.tensor(0)})


def test_statistics_know_their_networks_and_keep_that_through_a_file(tmp_path) -> None:
    a, b, x = PLAIN.network(0), PLAIN.network(1), PLAIN.inputs(8)
    first, last = (compute_stats(a, b, [part], backend="torch") for part in (x[:3], x[3:]))
    merged = first.merge(last)
    assert merged.fingerprint == first.fingerprint == first.to("cpu").fingerprint
    merged.save(tmp_path / "x")
    assert PairedStats.load(tmp_path / "x").fingerprint == merged.fingerprint
    turned = compute_stats(b, a, [x], backend="torch")
    with pytest.raises(StatisticsMismatchError, match="a and b have changed places"):
        first.merge(turned)


def test_statistics_that_were_changed_do_not_say_what_they_are_of() -> None:
    stats = PairedStats({"x": PairedMoments.empty(1, 1)}, n_images=0, fingerprint=PART)
    assert stats.permuted_b({"x": [0]}).fingerprint is None
    assert stats.scaled_b({"x": torch.ones(1)}).fingerprint is None


def test_a_part_without_images_still_counts_as_a_shard() -> None:
    nothing = replace(PART, coverage=Coverage((), 10, ("2/2",)))
    some = PairedStats({"x": PairedMoments.empty(1, 1)}, n_images=0, fingerprint=PART)
    for merged in (
        some.merge(PairedStats({}, n_images=0, fingerprint=nothing)),
        PairedStats({}, n_images=0, fingerprint=nothing).merge(some),
    ):
        assert merged.fingerprint == PART.merge(nothing)
        assert list(merged) == ["x"]
