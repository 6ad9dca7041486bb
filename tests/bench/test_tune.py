"""The candidates of the tuner."""

from dataclasses import dataclass

from bench.tune import candidates, changed


@dataclass(frozen=True)
class Config:
    block_n: int = 64
    split_size: int = 128
    num_warps: int = 8
    other: str = "kept"


def test_the_present_choice_comes_first_and_the_order_is_fixed():
    found = candidates("paired_moments", Config(), 1000)
    assert found[0] == {}
    assert found == candidates("paired_moments", Config(), 1000)
    assert set(found[1]) == {"block_n", "splits", "num_warps"}


def test_a_split_is_whole_blocks():
    config = changed(Config(), {"block_n": 32, "splits": 4}, 1000)
    assert config == Config(block_n=32, split_size=256)
    assert changed(Config(), {}, 1000) == Config()
