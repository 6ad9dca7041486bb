"""Laws of compiled statistics: the budget, ragged batches, any weights, the same errors."""

import functools
import math
from collections.abc import Callable

import pytest
import torch
import torch._inductor.config
from torch import Tensor, nn

from repair_kernels.batches import Batches
from repair_kernels.errors import ArgumentError, CompilationError, NonFiniteActivationError
from repair_kernels.graph.compiled import CompiledPair
from repair_kernels.graph.network import State, state_of, trace
from repair_kernels.library import PRODUCTS
from repair_kernels.moments import PairedMoments
from repair_kernels.statistics import collecting as statistics
from repair_kernels.statistics.collecting import collect, compute_stats
from repair_kernels.statistics.paired_stats import PairedStats
from tests.networks import PLAIN, assert_same, lively, snapshot

pytestmark = [
    pytest.mark.usefixtures("torch_backend"),
    # torch 2.13's own, when its compiler is imported:
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]

FLOOR = 1e-6
"""What the design allows, relative to a channel's magnitude, to m2 and to sqrt(m2_a m2_b)."""


class Residual(nn.Module):
    """A network that overwrites activations behind its taps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.relu(self.norm(self.conv2(x)) + x)
        return self.fc(x.mean((2, 3)))


def pair(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    a, b = (lively(Residual(), seed).to(dtype).eval() for seed in (0, 1))
    return a, b


def images(n: int) -> Tensor:
    return torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(2)) + 1


def deviations(ours: PairedMoments, truth: PairedMoments) -> dict[str, float]:
    """Return how far moments are from others, in the units of the budget."""
    assert ours.n_samples == truth.n_samples
    n, scale = truth.n_samples, {"a": truth.m2_a, "b": truth.m2_b}
    found = {}
    for name in ("mean", "m2"):
        for network in "ab":
            own, other = (getattr(m, f"{name}_{network}") for m in (ours, truth))
            size = (truth.a if network == "a" else truth.b).mean.square() + scale[network] / n
            size = size.sqrt() if name == "mean" else scale[network]
            found[f"{name}_{network}"] = ((own - other).abs() / size).max().item()
    for name in ("cross", "diagonal", "within_a", "within_b"):
        own, other = getattr(ours, name), getattr(truth, name)
        assert (own is None) == (other is None)
        if own is None:
            continue
        rows = scale["b" if name == "within_b" else "a"]
        columns = scale["a" if name == "within_a" else "b"]
        size = rows * columns if name == "diagonal" else torch.outer(rows, columns)
        found[name] = ((own - other).abs() / size.sqrt()).max().item()
    return found


def assert_within_budget(ours: PairedStats, eager: PairedStats, truth: PairedStats) -> None:
    """Compare with the same networks in float64: as near as eager's own error allows."""
    assert list(ours) == list(eager) == list(truth)
    assert ours.n_images == eager.n_images == truth.n_images
    for tap in truth:
        allowed = deviations(eager[tap], truth[tap])
        for name, error in deviations(ours[tap], truth[tap]).items():
            assert error <= 2 * allowed[name] + FLOOR, (tap, name)


def assert_same_stats(ours: PairedStats, eager: PairedStats) -> None:
    """Compare what the same operators computed, merged in the same order."""
    assert list(ours) == list(eager)
    assert ours.n_images == eager.n_images
    for tap in eager:
        for name, error in deviations(ours[tap], eager[tap]).items():
            assert error <= FLOOR, (tap, name)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go the compiled way without its compiler: dynamo captures, ATen's operators run."""
    traced = functools.partial(CompiledPair, compiler="aot_eager")
    monkeypatch.setattr(statistics, "CompiledPair", traced)


@pytest.fixture
def compiled_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of the batches that a compiled function took."""
    sizes: list[int] = []
    call = CompiledPair.__call__

    def counted(self: CompiledPair, inputs: list[Tensor], batch: Tensor) -> dict:
        sizes.append(len(batch))
        return call(self, inputs, batch)

    monkeypatch.setattr(CompiledPair, "__call__", counted)
    return sizes


def test_compiled_statistics_of_a_ragged_stream_keep_to_the_budget(compiled_calls):
    a, b = pair()
    batches = images(19).split(8)
    options = {"taps": "all", "cross": "all"}
    ours = compute_stats(a, b, batches, compile=True, **options)
    assert compiled_calls == [8, 8]
    eager = compute_stats(a, b, batches, **options)
    wide = [batch.double() for batch in batches]
    assert_within_budget(ours, eager, compute_stats(*pair(torch.float64), wide, **options))


def test_compiled_16_bit_networks_round_where_they_do_uncompiled():
    a, b = (model.to(memory_format=torch.channels_last) for model in pair(torch.bfloat16))
    x = images(8).bfloat16().to(memory_format=torch.channels_last)
    options = {"taps": "all", "cross": "all"}
    ours = compute_stats(a, b, [x, x], compile=True, **options)
    eager = compute_stats(a, b, [x, x], **options)
    for tap in eager:
        # An activation that lies between two values of bfloat16 may round to the other one.
        assert max(deviations(ours[tap], eager[tap]).values()) <= 1e-4, tap


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"taps": "all"},
        {"cross": "all"},
        {"taps": ["conv2"], "cross": ["conv1"]},
        {"taps": ["relu_1"], "cross": []},
    ],
    ids=str,
)
def test_the_choice_of_taps_is_the_same_when_compiled(options):
    a, b = pair()
    batches = images(13).split([5, 5, 3])
    ours = compute_stats(a, b, batches, compile=True, **options)
    assert_same_stats(ours, compute_stats(a, b, batches, **options))


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("joint", [False, True])
def test_all_products_are_the_same_when_compiled(joint):
    a, b = pair()
    graph, states = trace(a, images(2)), [state_of(a), state_of(b)]
    batches = Batches(images(13).split([5, 5, 3]))
    options = {
        "taps": graph.taps,
        "cross": graph.taps[:2],
        "diagonal": graph.taps[1:4],
        "joint": joint,
    }
    ours = collect(graph, *states, batches, compile=True, **options)
    assert_same_stats(ours, collect(graph, *states, batches, **options))


@pytest.mark.usefixtures("uncompiled")
def test_n_samples_cuts_inside_a_batch_when_compiled(compiled_calls):
    a, b = pair()
    ours = compute_stats(a, b, images(12).split(5), n_samples=7, compile=True)
    assert compiled_calls == [5]
    assert_same_stats(ours, compute_stats(a, b, [images(12)[:7]]))


@pytest.mark.usefixtures("uncompiled")
def test_a_smaller_batch_in_the_middle_changes_nothing(compiled_calls):
    a, b = pair()
    batches = images(14).split([4, 3, 4, 3])
    assert_same_stats(compute_stats(a, b, batches, compile=True), compute_stats(a, b, batches))
    assert compiled_calls == [4, 4]


@pytest.mark.usefixtures("uncompiled")
def test_networks_and_batches_are_left_as_they_were():
    a, b = (model.train() for model in pair())
    x = images(6)
    before, x_before = (snapshot(a), snapshot(b)), x.clone()
    random = torch.get_rng_state()
    compute_stats(a, b, [x, x], compile=True)
    assert_same(before[0], snapshot(a))
    assert_same(before[1], snapshot(b))
    torch.testing.assert_close(x, x_before, rtol=0, atol=0)
    assert torch.equal(random, torch.get_rng_state())
    assert torch.is_grad_enabled()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_input_is_named_by_network_tap_and_batch_when_compiled(bad):
    x = images(12)
    x[5, 0, 0, 0] = bad
    with pytest.raises(NonFiniteActivationError, match="network a .* tap 'conv1' in batch 1"):
        compute_stats(*pair(), x.split(4), compile=True)


@pytest.mark.usefixtures("uncompiled")
def test_an_overflow_of_network_b_is_named_when_compiled():
    a, b = pair()
    with torch.no_grad():
        b.fc.weight.fill_(3e38)
    with pytest.raises(NonFiniteActivationError, match="network b .* tap 'fc' in batch 0"):
        compute_stats(a, b, images(8).split(4), compile=True)


@pytest.mark.usefixtures("uncompiled")
def test_interpreted_kernels_run_inside_a_compiled_graph(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    options = {"taps": ["conv1"], "cross": ["conv1"]}
    ours = compute_stats(*pair(), [images(4)], compile=True, backend="triton", **options)
    assert_same_stats(ours, compute_stats(*pair(), [images(4)], backend="torch", **options))


def test_one_compiled_graph_serves_any_weights():
    graphs = 0

    def compiler(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        nonlocal graphs
        graphs += 1
        return module.forward

    x = PLAIN.inputs(4)
    graph = trace(PLAIN.network(0), x)
    taps = dict.fromkeys(graph.taps, "cross")
    run = CompiledPair(graph, x, taps, compiler=compiler)
    for seed in (0, 2):
        a, b = PLAIN.network(seed), PLAIN.network(seed + 1)
        states: list[State] = [state_of(a), state_of(b)]
        truth = collect(graph, *states, Batches([x]), taps=graph.taps, cross=graph.taps)
        for tap, (n, sums) in run(run.inputs(states), x).items():
            assert n == truth[tap].n_samples
            torch.testing.assert_close(sums.cross, truth[tap].cross, rtol=0, atol=0)
    assert graphs == 1


def test_what_no_tap_needs_is_not_compiled():
    operators: list[str] = []

    def compiler(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        operators.extend(str(node.target) for node in module.graph.nodes)
        return module.forward

    x = PLAIN.inputs(4)
    graph = trace(PLAIN.network(0), x)
    run = CompiledPair(graph, x, {graph.taps[0]: "none"}, compiler=compiler)
    run(run.inputs([state_of(PLAIN.network(seed)) for seed in (0, 1)]), x)
    assert sum("conv2d" in name for name in operators) == 2
    assert not any("linear" in name or "batch_norm" in name for name in operators)


def test_only_batches_of_the_first_ones_layout_are_taken():
    x = images(4)
    run = CompiledPair(trace(pair()[0], x), x, {"conv1": "none"})
    assert run.takes(images(4) * 2)
    assert not run.takes(x[:3])
    assert not run.takes(x.double())
    assert not run.takes(x.to(memory_format=torch.channels_last))


@pytest.mark.parametrize("products", PRODUCTS)
def test_results_have_the_fields_that_were_asked_for(products):
    x = PLAIN.inputs(4)
    graph = trace(PLAIN.network(0), x)
    run = CompiledPair(graph, x, {graph.taps[0]: products}, compiler="eager")
    ((_, sums),) = run(run.inputs([state_of(PLAIN.network(0))] * 2), x).values()
    assert (sums.cross is not None) == (products in ("cross", "joint"))
    assert (sums.diagonal is not None) == (products == "diagonal")
    assert (sums.within_a is not None) == (products == "joint")


def test_a_missing_compiler_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    a, b = (lively(nn.Sequential(nn.Linear(3, 5), nn.GELU()), seed) for seed in (0, 1))
    with pytest.raises(CompilationError, match="InvalidCxxCompiler.*install a C\\+\\+"):
        compute_stats(a, b, [torch.rand(4, 3)], taps="all", compile=True)


def test_a_compiler_that_fails_is_no_silent_fallback(monkeypatch):
    def refuse(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        raise NotImplementedError("no such target")

    refusing = functools.partial(CompiledPair, compiler=refuse)
    monkeypatch.setattr(statistics, "CompiledPair", refusing)
    with pytest.raises(CompilationError, match="NotImplementedError: no such target; leave it out"):
        compute_stats(*pair(), [images(4)], compile=True)


@pytest.mark.usefixtures("uncompiled")
def test_an_error_of_an_operator_is_its_own():
    with pytest.raises(ArgumentError, match="`precision` must be"):
        compute_stats(*pair(), [images(4)], compile=True, precision="tf16")


@pytest.mark.gpu
@pytest.mark.parametrize("backend", [None, "torch"])
def test_replayed_statistics_keep_to_the_budget(backend, compiled_calls):
    a, b = (model.cuda() for model in pair())
    batches = images(35).cuda().split(8)
    options = {"taps": "all", "cross": "all", "backend": backend, "precision": "ieee"}
    ours = compute_stats(a, b, batches, compile=True, **options)
    assert compiled_calls == [8] * 4
    eager = compute_stats(a, b, batches, **options)
    wide = [batch.double() for batch in batches]
    truth = compute_stats(*(m.cuda() for m in pair(torch.float64)), wide, **options)
    assert_within_budget(ours, eager, truth)


@pytest.mark.gpu
def test_a_recording_follows_other_weights():
    x = PLAIN.inputs(4).cuda()
    networks = [PLAIN.network(seed).cuda() for seed in range(4)]
    graph = trace(networks[0], x)
    run = CompiledPair(graph, x, dict.fromkeys(graph.taps, "cross"))
    for models in (networks[:2], networks[2:]):
        states = [state_of(model) for model in models]
        truth = collect(graph, *states, Batches([x]), taps=graph.taps, cross=graph.taps)
        inputs = run.inputs(states)
        for _ in range(4):  # warm up, record, replay
            found = {tap: (n, sums.m2_a.clone()) for tap, (n, sums) in run(inputs, x).items()}
        for tap, (n, m2_a) in found.items():
            assert n == truth[tap].n_samples
            torch.testing.assert_close(m2_a, truth[tap].m2_a, rtol=1e-4, atol=0)
