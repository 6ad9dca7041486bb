"""A contest checks before it times, and lets its providers take turns."""

import torch

from bench.measuring.contest import Contest, input_sets

CPU = torch.device("cpu")


def made() -> tuple[torch.Tensor]:
    return (torch.ones(4),)


def test_a_wrong_provider_gets_no_time_and_keeps_its_error():
    contest = Contest([made()], CPU)
    contest.enter("right", torch.neg, lambda out: 0.0, 1e-5)
    contest.enter("wrong", torch.neg, lambda out: 0.5, 1e-5)
    contest.enter("not a number", torch.neg, lambda out: float("nan"), 1e-5)
    contest.enter("broken", lambda x: x.no_such_thing, lambda out: 0.0, 1e-5)
    contest.warm_up()
    contest.play()
    results = contest.results()
    assert results["right"]["rounds"] == 1
    assert results["wrong"] == {"error": 0.5, "allowed": 1e-5}
    assert "seconds" not in results["not a number"]
    assert results["broken"]["failure"].startswith("AttributeError")


def test_providers_take_turns_in_every_place_and_inputs_rotate():
    calls = []
    contest = Contest([(1,), (2,), (3,)], CPU)
    for name in "abc":
        contest.enter(name, lambda x, name=name: calls.append((name, x)), lambda out: 0.0, 1.0)
    calls.clear()
    for _ in range(3):
        contest.play()
    assert ["".join(name for name, _ in calls[i : i + 3]) for i in (0, 3, 6)] == [
        "abc",
        "bca",
        "cab",
    ]
    assert [x for _, x in calls] == [1, 2, 3] * 3


def test_a_cpu_gets_two_sets_of_inputs():
    assert len(input_sets(made, CPU)) == 2
