"""The model behind the predicted times, on launches made up here."""

import os
from types import SimpleNamespace

import pytest

from bench.measuring.roofline import RATES

H100 = RATES["NVIDIA H100"]
ROW = {
    "programs_at_once": 2,
    "product": "wgmma",
    "loops": [[100, 40], [160, 40]],
    "loads": {"LDGSTS.128": 4},
}
SIZES = {
    "BLOCK_N": 64,
    "BLOCK_C": 128,
    "PRECISION": "tf32",
    "HAS_RAW": True,
    "num_warps": 8,
    "num_stages": 3,
}


@pytest.fixture
def predict(monkeypatch):
    # Importing it prepares Triton's compiler; this process goes on with the interpreter.
    monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", "0"))
    import bench.predict

    return bench.predict


@pytest.fixture
def terms(predict):
    case = predict.launches.Case("paired_moments", "tap", "bf16", "", "cross", "tf32x3", 0, 0)

    def of(programs, sizes=SIZES, **scalars):
        signature = (("a_ptr", "*bf16"), ("b_ptr", "*bf16"))
        launch = SimpleNamespace(sizes=sizes, signature=signature)
        started = SimpleNamespace(
            launch=launch,
            programs=programs,
            tensors=(("a_ptr", 10**8), ("b_ptr", 10**8)),
            scalars=tuple({"split_size": 6400, "turns": 1, **scalars}.items()),
        )
        return predict.launch_terms(case, started, ROW, H100, "16bit")

    return of


def test_a_full_chip_moves_bytes_as_a_copy_does(terms):
    assert terms(264)["memory"] == pytest.approx(2e8 / (0.9 * 3.35e12))


def test_few_programs_have_too_little_in_flight(terms):
    assert terms(4)["memory"] > 10 * terms(264)["memory"]


def test_products_are_those_of_whole_tiles(terms):
    flops = 264 * 6400 * 2 * 128 * 128
    assert terms(264)["products"] == pytest.approx(flops / (0.8 * 990e12))


def test_a_wave_that_is_not_full_costs_as_much_as_a_full_one(terms):
    assert terms(265)["products"] == pytest.approx(2 * terms(264)["products"])


def test_sums_taken_in_turns_cost_less_issue(terms):
    alone, in_turns = terms(264)["issue"], terms(264, turns=4)["issue"]
    assert in_turns / alone == pytest.approx(70 / 100)


def test_without_a_raw_loop_the_longer_one_runs(terms):
    centred = terms(264, sizes={**SIZES, "HAS_RAW": False})["issue"]
    assert centred / terms(264)["issue"] == pytest.approx(1.6)


def test_a_second_stage_asks_for_the_block_that_it_adds_up(predict):
    def asked_for(**sizes):
        launch = SimpleNamespace(sizes={"num_warps": 4, **sizes}, signature=())
        return predict._in_flight(SimpleNamespace(launch=launch), ROW, None)

    assert asked_for(BLOCK_S=8, BLOCK_X=16, BLOCK_Y=8, BLOCK_C=128) == 4 * 1024
    assert asked_for(BLOCK_S=64, BLOCK_C=8) == 3 * 8 * 512
    assert asked_for(VECTORS=512) == 2048
