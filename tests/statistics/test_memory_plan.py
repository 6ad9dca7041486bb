"""What statistics need is known before they are computed, and refused where it is not there."""

import gc
from dataclasses import replace

import pytest
import torch
from torch import nn

from repair_kernels.errors import ArgumentError, InsufficientMemoryError
from repair_kernels.graph.execution import execute
from repair_kernels.graph.network import state_of, trace
from repair_kernels.ranks import Ranks
from repair_kernels.statistics import row_layout
from repair_kernels.statistics.collecting import compute_stats
from repair_kernels.statistics.memory_plan import (
    _available,
    _in_group,
    activation_peak,
    free_memory,
    in_words,
    plan_memory,
)
from tests.alive import Alive
from tests.networks import FAMILIES

CUDA = torch.device("cuda:0")
CPU = torch.device("cpu")
N = 5


@pytest.mark.parametrize(
    ("name", "meet"),
    [
        ("mlp", True),
        ("vgg_batch_norm", False),
        ("resnet_option_a", True),
        ("resnet_layer_norm", False),
        ("resnet_layer_norm", True),
    ],
)
def test_the_peak_of_activations_is_what_is_alive_at_once(name, meet) -> None:
    family = FAMILIES[name]
    model, batch = family.network(0), family.inputs(N)
    graph = trace(model, batch)
    states = [state_of(model), state_of(family.network(1))]
    taps = graph.match_taps if meet else ()
    known = [batch, *(tensor for state in states for tensor in state.values())]
    gc.collect()
    with torch.no_grad(), Alive(known) as alive:
        execute(graph, states, batch, lambda tap, values: None, taps)
    # What an operator needs within itself is alive as well, so that this is a bound from below.
    assert 0.7 * alive.peak <= activation_peak(graph, N, taps) <= alive.peak


def test_activations_grow_with_the_batch_and_less_where_they_are_written_over() -> None:
    family = FAMILIES["vgg_batch_norm"]
    graph = trace(family.network(0), family.inputs(2))
    one = activation_peak(graph, 1)
    assert activation_peak(graph, 7) == 7 * one
    assert activation_peak(graph, 1, overwrite=True) < one
    assert activation_peak(graph, 1, graph.match_taps) >= one


@pytest.fixture(scope="module")
def graph():
    model = nn.Sequential(
        nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    return trace(model, torch.zeros(2, 3)), state_of(model)


def planned(graph, products, device=CUDA, free=10**9, **options):
    return plan_memory(
        graph[0],
        [graph[1]] * 2,
        torch.zeros(4, 3),
        products,
        device=device,
        free=lambda place: free,
        **options,
    )


@pytest.mark.parametrize(
    ("products", "numbers"),
    [
        ({"0": "none"}, 4 * 64),
        ({"0": "cross"}, 4 * 64 + 64 * 64),
        ({"0": "joint", "2": "none"}, 4 * 64 + 3 * 64 * 64 + 4 * 16),
        ({"0": "diagonal", "2": "cross"}, 4 * 64 + 64 + 4 * 16 + 16 * 16),
        ({}, 0),
    ],
)
def test_totals_are_eight_bytes_for_each_number_that_is_kept(graph, products, numbers) -> None:
    assert planned(graph, products).totals == 8 * numbers


def test_totals_are_those_that_statistics_have(graph) -> None:
    family = FAMILIES["resnet_projection"]
    a, b, x = family.network(0), family.network(1), family.inputs(N)
    stats = compute_stats(a, b, [x], joint=True, backend="torch")
    products = {tap: moments.products for tap, moments in stats.items()}
    plan = plan_memory(trace(a, x), [state_of(a)] * 2, x, products, device=CPU)
    held = [tensor for moments in stats.values() for tensor in moments.tensors.values()]
    assert plan.totals == sum(tensor.nbytes for tensor in held)


def test_weights_count_where_they_are_still_to_be_brought(graph) -> None:
    size = sum(tensor.nbytes for tensor in graph[1].values())
    assert planned(graph, {}).weights == 2 * size
    assert planned(graph, {}, device=CPU).weights == 0


def test_a_compiler_is_only_counted_its_batch(graph) -> None:
    assert planned(graph, {}, compile=True).activations == 4 * 3 * 4


def test_totals_go_to_the_host_where_they_do_not_fit_on_the_device(graph) -> None:
    products = {"0": "cross"}
    plan = planned(graph, products)
    assert not plan.on_host
    short = planned(graph, products, free=plan.device_bytes - 1)
    assert short.on_host
    assert short.device_bytes == plan.device_bytes - plan.totals
    assert short.host_bytes == plan.totals
    assert not planned(graph, products, free=0, totals="device").on_host
    assert planned(graph, products, totals="host").on_host
    assert not planned(graph, products, device=CPU, free=0, totals="host").on_host


def test_what_does_not_fit_is_refused_with_all_its_parts(graph) -> None:
    plan = planned(graph, {"0": "cross"})
    plan.check(lambda place: plan.device_bytes)
    with pytest.raises(
        InsufficientMemoryError,
        match=r"need at least \d.* KiB on cuda:0 \(.* of weights, .* of activations of 4 images, "
        r"32\.0 KiB of sums of one batch, 34\.0 KiB of totals\), but 1\.0 KiB are free; use "
        r'smaller batches, fewer taps in `cross`, totals="host", totals="ranks" over several '
        "processes, or a machine with more memory",
    ):
        plan.check(lambda place: 1024)
    on_host = replace(plan, place="host")
    with pytest.raises(InsufficientMemoryError, match="at least 34.0 KiB on cpu .* on the host"):
        on_host.check(lambda place: 0 if place == CPU else 10**9)
    on_host.check(lambda place: None)


# --- totals by rows over ranks -------------------------------------------------------------------


class Others(Ranks):
    """One of several ranks, of which the others say what they are told to say."""

    def __init__(self, *others: tuple[bool, bool]):
        super().__init__()
        self.size = 1 + len(others)
        self.others = others

    def exchange(self, topic, message):
        assert topic == "memory"
        return [message, *self.others]


ROOMY, SHORT, FULL = (False, True), (True, True), (True, False)
"""What a rank says: has it too little room for all totals, and enough for rows?"""


@pytest.mark.parametrize("device", [CUDA, CPU])
def test_by_rows_a_rank_keeps_its_share_and_has_the_whole_in_the_end(graph, device) -> None:
    products = {"0": "joint", "2": "cross", "4": "none"}
    plan = planned(graph, products, device=device, totals="ranks", ranks=Others(ROOMY, ROOMY))
    assert plan.by_rows
    vectors = 4 * (64 + 16 + 2) + 2 * (64 + 16)
    assert plan.own_rows == 8 * (22 * 64 * 3 + 6 * 16 + vectors)
    sums, buffers = 8 * (3 * 64 * 64 + 16 * 16), 2 * 8 * 3 * 22 * 64
    running = plan.activations + sums + buffers + plan.own_rows
    if device == CUDA:
        assert (plan.device_bytes, plan.host_bytes) == (plan.weights + running, plan.totals)
    else:
        assert (plan.device_bytes, plan.host_bytes) == (max(running, plan.totals), 0)


def test_without_products_there_are_no_rows(graph) -> None:
    assert not planned(graph, {"0": "none"}, totals="ranks", ranks=Others(ROOMY)).by_rows


@pytest.mark.parametrize(
    ("others", "place"),
    [
        ((ROOMY, ROOMY), "device"),
        ((ROOMY, SHORT), "ranks"),
        ((SHORT, SHORT), "ranks"),
        ((SHORT, FULL), "device"),
        ((), "device"),
    ],
)
def test_rows_are_chosen_if_one_rank_needs_and_all_can(graph, others, place) -> None:
    assert planned(graph, {"0": "cross"}, ranks=Others(*others)).place == place


@pytest.mark.parametrize("by_rows", [True, False])
def test_what_fits_by_rows_alone_goes_to_rows_if_it_may(graph, monkeypatch, by_rows) -> None:
    monkeypatch.setattr(row_layout, "BUFFER_BYTES", 1)
    products = dict.fromkeys(("0", "1", "2"), "joint")
    options = {"ranks": Others(ROOMY, ROOMY), "by_rows": by_rows}
    needed = planned(graph, products, totals="device").device_bytes
    plan = planned(graph, products, free=needed - 1, **options)
    assert plan.place == ("ranks" if by_rows else "host")
    assert planned(graph, products, free=100, **options).place == "host"


def test_what_does_not_fit_by_rows_is_refused_with_all_its_parts(graph) -> None:
    plan = planned(graph, {"0": "cross"}, totals="ranks", ranks=Others(ROOMY, ROOMY))
    plan.check(lambda place: plan.device_bytes)
    with pytest.raises(
        InsufficientMemoryError,
        match=r"on cuda:0 \(.*, 98\.0 KiB of sums of one batch, 14\.0 KiB of rows of one of 3 "
        r"ranks; in the end 34\.0 KiB of totals on the host\), but 1\.0 KiB are free; use smaller "
        r'batches, fewer taps in `cross`, totals="host", more ranks, or a machine with more memory',
    ):
        plan.check(lambda place: 1024)
    with pytest.raises(InsufficientMemoryError, match="at least 34.0 KiB on cpu"):
        plan.check(lambda place: 0 if place == CPU else 10**9)


@pytest.mark.parametrize(
    ("device", "place", "advised"),
    [
        (CUDA, "device", 'totals="host", totals="ranks"'),
        (CPU, "device", 'totals="ranks"'),  # A rank's rows and no activations when it has the rest.
        (CUDA, "host", ""),
    ],
)
def test_rows_are_advised_where_they_need_less(graph, device, place: str, advised: str) -> None:
    ranks = Others(ROOMY, ROOMY)
    small = planned(graph, {"0": "cross"}, device=device, totals=place, ranks=ranks)
    plan = replace(small, totals=10**7, activations=10**7)
    said = ", ".join(["fewer taps in `cross`", *filter(None, [advised]), "or a machine"])
    with pytest.raises(InsufficientMemoryError, match=said):
        plan.check(lambda where: 1024 if place == "device" or where == CPU else 10**9)


def test_rows_are_not_advised_where_a_steps_sums_take_more(graph) -> None:
    plan = planned(graph, {"0": "cross"}, totals="device", ranks=Others(ROOMY, ROOMY))
    assert replace(plan, place="ranks").device_bytes > plan.device_bytes
    with pytest.raises(InsufficientMemoryError, match='totals="host", or a machine'):
        plan.check(lambda place: 1024)


def test_statistics_are_refused_before_anything_is_computed(graph, monkeypatch) -> None:
    def batches():
        yield torch.zeros(4, 12)
        pytest.fail("a batch was asked for")

    monkeypatch.setattr("repair_kernels.statistics.memory_plan.free_memory", lambda place: 100)
    a, b = (FAMILIES["mlp"].network(seed) for seed in (0, 1))
    with pytest.raises(InsufficientMemoryError, match="but 100 bytes are free"):
        compute_stats(a, b, batches())


def test_an_unknown_place_is_refused(graph) -> None:
    with pytest.raises(
        ArgumentError, match="must be one of 'auto', 'device', 'host', 'ranks'; got 'disk';"
    ):
        planned(graph, {}, totals="disk")


def test_free_memory_is_what_the_system_and_the_container_leave(tmp_path) -> None:
    assert free_memory(torch.device("meta")) is None
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:    10 kB\n")
    assert _available(tmp_path / "meminfo") == 10240
    assert _available(tmp_path / "absent") is None
    assert _in_group(tmp_path) is None
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert _in_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert _in_group(tmp_path) == 450


def test_sizes_are_said_in_the_unit_that_fits() -> None:
    assert [in_words(1023), in_words(2048), in_words(2**60)] == [
        "1023 bytes",
        "2.0 KiB",
        "1048576.0 TiB",
    ]


# --- totals apart from the device ----------------------------------------------------------------


def test_the_place_of_the_totals_changes_nothing() -> None:
    family = FAMILIES["mlp"]
    a, b = family.network(0), family.network(1)
    batches = [family.inputs(n, n) for n in (4, 3)]
    here, host = (
        compute_stats(a, b, batches, joint=True, totals=place, backend="torch")
        for place in ("device", "host")
    )
    for tap, moments in here.items():
        for name, value in moments.tensors.items():
            assert torch.equal(host[tap].tensors[name], value)


@pytest.mark.gpu
def test_totals_on_the_host_are_those_on_the_device() -> None:
    family = FAMILIES["resnet_projection"]
    a, b = family.network(0).cuda(), family.network(1).cuda()
    batches = [family.inputs(n, n).cuda() for n in (4, 3)]
    here, host = (
        compute_stats(a, b, batches, joint=True, totals=place) for place in ("device", "host")
    )
    for tap, moments in here.items():
        for name, value in moments.tensors.items():
            kept = host[tap].tensors[name]
            assert kept.device.type == "cpu"
            scale = value.abs().max().item()
            torch.testing.assert_close(kept, value.cpu(), rtol=1e-12, atol=1e-12 * scale)
