"""One pass for several weight sets: each has the moments that it has alone."""

import math

import pytest
import torch
from torch import Tensor

from repair_kernels.affine import ChannelAffine
from repair_kernels.calibration.channel_statistics import collect_channels
from repair_kernels.errors import CalibrationDataError, NonFiniteActivationError
from repair_kernels.graph.network import NetworkGraph, State, state_of, trace
from repair_kernels.graph.taps import Tap
from repair_kernels.moments import ChannelMoments
from repair_kernels.statistics.collecting import compute_stats
from tests.merging import Counted
from tests.networks import PLAIN

pytestmark = pytest.mark.usefixtures("torch_backend")
TAPS = ("0", "1", "3")


def networks(count: int) -> tuple[NetworkGraph, list[State]]:
    models = [PLAIN.network(seed) for seed in range(count)]
    return trace(models[0], PLAIN.inputs(2)), [state_of(model) for model in models]


def assert_bits(ours: ChannelMoments, theirs: ChannelMoments) -> None:
    assert ours.n_samples == theirs.n_samples
    assert torch.equal(ours.mean, theirs.mean)
    assert torch.equal(ours.m2, theirs.m2)


def test_one_networks_moments_are_its_part_of_the_pairs() -> None:
    graph, states = networks(2)
    batches = list(PLAIN.inputs(12).split(5))
    both = compute_stats(PLAIN.network(0), PLAIN.network(1), batches, taps="all")
    found = collect_channels(graph, states, batches, taps=TAPS)
    for tap in TAPS:
        for ours, theirs in zip(found, (both[tap].a, both[tap].b), strict=True):
            assert ours[tap].n_samples == theirs.n_samples
            torch.testing.assert_close(ours[tap].mean, theirs.mean, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(ours[tap].m2, theirs.m2, rtol=1e-6, atol=0)


def test_each_weight_set_has_the_bits_that_it_has_alone_in_one_pass() -> None:
    graph, states = networks(3)
    batches = Counted(PLAIN.inputs(12).split(5))

    def halve(tap: Tap, number: int, value: Tensor, moments: ChannelMoments) -> Tensor:
        return value / (number + 1) - moments.mean.mean()

    found = collect_channels(graph, states, batches, taps=TAPS, correct=halve)
    assert (batches.passes, batches.read) == (1, 3)
    for number, state in enumerate(states):
        [alone] = collect_channels(
            graph,
            [state],
            batches,
            taps=TAPS,
            correct=lambda tap, _, value, moments, number=number: halve(
                tap, number, value, moments
            ),
        )
        for tap in TAPS:
            assert_bits(found[number][tap], alone[tap])


def test_a_correction_is_what_later_taps_see() -> None:
    graph, [state] = networks(1)
    x = PLAIN.inputs(6)
    [plain] = collect_channels(graph, [state], [x], taps=("0", "1"))
    [shifted] = collect_channels(
        graph,
        [state],
        [x],
        taps=("0", "1"),
        correct=lambda tap, _, value, __: value + 1 if tap.name == "0" else value,
    )
    slope = (state["1.weight"] / (state["1.running_var"] + 1e-5).sqrt()).double()
    torch.testing.assert_close(shifted["0"].mean, plain["0"].mean)
    torch.testing.assert_close(shifted["1"].mean, plain["1"].mean + slope, rtol=1e-5, atol=1e-5)


def test_affines_are_applied_to_their_own_weight_set_before_it_is_read() -> None:
    graph, [state] = networks(1)
    x = PLAIN.inputs(6)
    c = len(state["0.weight"])
    double = ChannelAffine(torch.full((c,), 2.0), torch.zeros(c))
    [plain, doubled] = collect_channels(
        graph, [state, state], [x], taps=("0",), affines=[{}, {"0": double}]
    )
    torch.testing.assert_close(doubled["0"].mean, 2 * plain["0"].mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(doubled["0"].m2, 4 * plain["0"].m2, rtol=1e-6, atol=0)


def test_a_bad_activation_is_named_with_its_weight_set_tap_and_batch() -> None:
    graph, states = networks(2)
    bad = PLAIN.inputs(6)
    bad[0, 0, 0, 0] = math.nan
    batches = [PLAIN.inputs(6), bad]
    with pytest.raises(NonFiniteActivationError, match="network merged .* '0' in batch 1"):
        collect_channels(graph, states[:1], batches, taps=("0",))
    states[1]["0.weight"] = states[1]["0.weight"] * math.inf
    with pytest.raises(NonFiniteActivationError, match="network second .* '0' in batch 0"):
        collect_channels(graph, states, batches, taps=("0",), networks=["first", "second"])


def test_no_batches_are_refused() -> None:
    graph, states = networks(1)
    with pytest.raises(CalibrationDataError, match="at least one batch"):
        collect_channels(graph, states, [], taps=("0",))
