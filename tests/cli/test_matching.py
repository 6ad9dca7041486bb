"""Channels are matched by statistics of the networks given, and of no others."""

import pytest

from repair_kernels.checkpoints import save_state_dict
from repair_kernels.cli import main
from repair_kernels.statistics.paired_stats import PairedStats
from tests.command_lines import mlp

pytestmark = pytest.mark.usefixtures("torch_backend")


@pytest.fixture
def match(pair, tmp_path):
    """Return a function that computes statistics with some options, and matches with others."""

    def run(stats_options: list[str], match_options: list[str]) -> int:
        stats = str(tmp_path / "stats")
        assert main(["stats", *pair, *stats_options, "-o", stats]) == 0
        output = str(tmp_path / "permutations.json")
        return main(["match", *pair, "--stats", stats, *match_options, "-o", output])

    return run


def test_statistics_of_other_networks_are_refused(match, tmp_path, capsys) -> None:
    save_state_dict(mlp(7).state_dict(), tmp_path / "c.safetensors")
    assert match([], ["--b", str(tmp_path / "c.safetensors")]) == 1
    said = capsys.readouterr().err
    assert "must be of the two networks given; the weights of b differ; give the" in said
    assert not (tmp_path / "permutations.json").exists()


def test_statistics_of_networks_that_changed_places_are_refused(match, tmp_path, capsys) -> None:
    a, b = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    assert match([], ["--a", b, "--b", a]) == 1
    said = "the weights of a and b differ (a and b have changed places); give the checkpoints"
    assert said in capsys.readouterr().err


def test_statistics_of_a_part_are_warned_of(match, capsys) -> None:
    assert match(["--shard", "2/3"], []) == 0
    said = capsys.readouterr().err
    assert "warning: the statistics should be of all images; they are of images" in said
    assert "shards 1/3, 3/3 are among the missing; merge all parts first" in said


def test_statistics_of_all_samples_are_whole(match, capsys) -> None:
    assert match(["--samples", "30"], []) == 0
    assert "warning" not in capsys.readouterr().err


def test_statistics_that_do_not_say_of_what_are_taken(match, pair, tmp_path) -> None:
    assert match([], []) == 0
    stats = PairedStats.load(tmp_path / "stats")
    PairedStats(stats, n_images=stats.n_images).save(tmp_path / "unknown")
    save_state_dict(mlp(7).state_dict(), tmp_path / "b.safetensors")
    options = ["--stats", str(tmp_path / "unknown"), "-o", str(tmp_path / "permutations.json")]
    assert main(["match", *pair, *options]) == 0
