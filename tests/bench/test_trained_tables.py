"""The table of pairs that were trained: what the default gains, and on how many."""

import pytest

from bench.tables.trained import gains_of, least_gains


def row(**accuracy: float) -> dict:
    curves = {
        name: {"alphas": [0.3, 0.5], "accuracy": [0.0, value]} for name, value in accuracy.items()
    }
    return {"curves": curves}


def test_the_gain_is_over_aligning_and_over_the_best_of_the_papers_ways() -> None:
    found = gains_of(row(aligned=0.5, reset=0.6, forward=0.7, ours=0.65))
    assert found == (pytest.approx(0.15), pytest.approx(-0.05))


@pytest.mark.parametrize("ways", [{"aligned": 0.5, "ours": 0.6}, {"forward": 0.5, "ours": 0.6}])
def test_pairs_that_were_not_merged_in_all_ways_do_not_count(ways: dict[str, float]) -> None:
    assert gains_of(row(**ways)) is None


def test_the_table_has_the_committed_experiments() -> None:
    assert "| mlp_width, full |" in least_gains()
