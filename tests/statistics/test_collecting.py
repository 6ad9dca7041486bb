"""Laws of the statistics: a two-pass oracle over hooks, any split of the data, untouched inputs."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from repair_kernels.batches import Batches
from repair_kernels.graph.network import NetworkGraph, state_of, trace
from repair_kernels.moments import PairedMoments
from repair_kernels.statistics.collecting import collect, compute_stats
from repair_kernels.statistics.paired_stats import PairedStats
from tests import oracles
from tests.equivariance import Calls
from tests.networks import assert_same, lively, snapshot

pytestmark = pytest.mark.usefixtures("torch_backend")

BUDGET = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Errors relative to a channel's magnitude, and to sqrt(m2_a m2_b): the design's, and float64's."""


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Residual(nn.Module):
    """A network every operator of which is a module, so that hooks see all that taps see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.sum = Sum()
        self.act2 = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(24, 5)
        self.act3 = nn.PReLU(5)
        self.fc2 = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.conv1(x))
        x = self.pool(self.drop(self.act2(self.sum(self.norm(self.conv2(x)), x))))
        return self.fc2(self.act3(self.fc1(self.flatten(x))))


TAPS = ("conv1", "act1", "conv2", "norm", "sum.add", "act2", "pool", "fc1", "act3", "fc2")


def pair(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    a, b = (lively(Residual(), seed).to(dtype).eval() for seed in (0, 1))
    return a, b


def images(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return (torch.randn(n, 3, 4, 4, generator=generator, dtype=torch.float64) + 1).to(dtype)


def hooked(model: nn.Module, batches: Sequence[Tensor], graph: NetworkGraph) -> dict[str, Tensor]:
    """Return every tap's activations over all batches, as forward hooks saw them."""
    seen: dict[str, list[Tensor]] = {name: [] for name in graph.taps}
    handles = [
        model.get_submodule(graph.tap(name).module).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen[name].append(output.clone())
        )
        for name in graph.taps
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(values) for name, values in seen.items()}


def close(ours: Tensor, truth: Tensor, scale: Tensor, tolerance: float) -> None:
    assert ours.dtype == torch.float64
    assert ours.shape == truth.shape
    assert ((ours - truth).abs() <= tolerance * scale).all()


def assert_moments(ours: PairedMoments, a: Tensor, b: Tensor, tolerance: float) -> None:
    """Compare with the two-pass oracle of the activations themselves."""
    assert ours.n_samples == a.numel() // a.shape[1]
    m2s = []
    for mean, m2, x in ((ours.mean_a, ours.m2_a, a), (ours.mean_b, ours.m2_b, b)):
        true_mean, true_m2 = map(torch.from_numpy, oracles.channel_moments(x, 1))
        size = (true_mean.square() + true_m2 / ours.n_samples).sqrt()
        close(mean, true_mean, size, tolerance)
        close(m2, true_m2, true_m2, tolerance)
        m2s.append(true_m2)
    if ours.cross is not None:
        cross = torch.from_numpy(oracles.cross(a, b, 1))
        close(ours.cross, cross, torch.outer(m2s[0].sqrt(), m2s[1].sqrt()), tolerance)


def assert_same_stats(ours: PairedStats, theirs: PairedStats, tolerance: float = 0) -> None:
    assert list(ours) == list(theirs)
    assert ours.n_images == theirs.n_images
    for tap in theirs:
        x, y = ours[tap], theirs[tap]
        assert x.n_samples == y.n_samples
        for own, other in ((x.a, y.a), (x.b, y.b)):
            size = (other.mean.square() + other.m2 / other.n_samples).sqrt()
            close(own.mean, other.mean, size, tolerance)
            close(own.m2, other.m2, other.m2, tolerance)
        assert (x.cross is None) == (y.cross is None)
        if x.cross is not None:
            scale = torch.outer(y.m2_a.sqrt(), y.m2_b.sqrt())
            close(x.cross, y.cross, scale, tolerance)


@pytest.fixture(scope="module")
def graph() -> NetworkGraph:
    return trace(pair()[0], images(2))


def test_every_tap_of_the_test_network_is_a_modules_output(graph):
    assert graph.taps == TAPS
    assert all(graph.tap(name).module is not None for name in TAPS)


@pytest.mark.parametrize("dtype", BUDGET)
def test_the_moments_of_every_tap_are_those_of_its_hooked_activations(dtype, graph):
    a, b = pair(dtype)
    batches = images(17, dtype).split([6, 6, 5])
    stats = compute_stats(a, b, batches, taps="all", cross="all")
    of_a, of_b = hooked(a, batches, graph), hooked(b, batches, graph)
    assert list(stats) == list(TAPS)
    assert stats.n_images == 17
    for tap in TAPS:
        assert_moments(stats[tap], of_a[tap], of_b[tap], BUDGET[dtype])


def test_statistics_are_those_of_evaluation_mode_also_of_models_in_training():
    a, b = pair()
    in_evaluation = compute_stats(a, b, [images(6)])
    assert_same_stats(compute_stats(a.train(), b.train(), [images(6)]), in_evaluation)


def collected(graph: NetworkGraph, batches: Sequence[Tensor]) -> PairedStats:
    a, b = pair(torch.float64)
    return collect(graph, state_of(a), state_of(b), Batches(batches), taps=TAPS, cross=TAPS)


# Every split adds roundings of 1e-16 in float64; activations themselves are rounded the same.
@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 13), max_size=5))
def test_any_split_of_the_data_gives_the_same_statistics(graph, cuts):
    x = images(13, torch.float64)
    ends = [0, *sorted(cuts), 13]
    parts = [x[start:stop] for start, stop in pairwise(ends)]
    assert_same_stats(collected(graph, parts), collected(graph, [x]), 1e-10)


def test_merged_shards_are_the_statistics_of_all_the_data(graph):
    x = images(13, torch.float64)
    shards = collected(graph, [x[:4]]).merge(collected(graph, [x[4:]]))
    assert_same_stats(shards, collected(graph, [x]), 1e-10)


def test_the_same_inputs_give_the_same_bits(graph):
    batches = images(12, torch.float64).split(5)
    assert_same_stats(collected(graph, batches), collected(graph, batches))


def test_n_samples_cuts_inside_a_batch():
    a, b = pair(torch.float64)
    x = images(12, torch.float64)
    cut = compute_stats(a, b, x.split(5), n_samples=7)
    assert_same_stats(cut, compute_stats(a, b, [x[:7]]), 1e-10)


def generated(x: Tensor) -> Iterator[Tensor]:
    yield from x.split(5)


FORMS: dict[str, Callable[[Tensor], object]] = {
    "tuples": lambda x: [(part, torch.zeros(len(part))) for part in x.split(5)],
    "dicts": lambda x: [{"image": part, "label": 0} for part in x.split(5)],
    "a generator": generated,
    "a DataLoader": lambda x: DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=5),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_the_batches_does_not_matter(form):
    a, b = pair()
    expected = compute_stats(a, b, images(12).split(5))
    assert_same_stats(compute_stats(a, b, FORMS[form](images(12))), expected)


def observed(*models: nn.Module) -> dict[str, Tensor]:
    """Return all that a caller could see changed, of the models and of the process."""
    found = {"rng": torch.get_rng_state(), "grad": torch.tensor(torch.is_grad_enabled())}
    for number, model in enumerate(models):
        found |= {f"{number}.{name}": tensor for name, tensor in snapshot(model).items()}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[f"{number}.{name}.grad"] = parameter.grad.clone()
    return found


def used_pair() -> tuple[nn.Module, nn.Module]:
    """Two models in the midst of training: gradients, mixed modes, a frozen parameter."""
    a, b = pair()
    a(images(2)).sum().backward()
    a.train()
    a.norm.eval()
    b.conv1.weight.requires_grad_(False)
    return a, b


def broken_off() -> Iterator[Tensor]:
    yield images(4)
    torch.rand(1)
    raise OSError("the disk is gone")


def test_models_generator_and_batches_are_as_before():
    a, b = used_pair()
    batch = images(6)
    before = observed(a, b)
    loader = DataLoader(TensorDataset(batch), batch_size=4, shuffle=True)
    compute_stats(a, b, loader, taps="all")
    assert_same(before, observed(a, b))
    assert torch.equal(batch, images(6))


def test_models_and_generator_are_as_before_after_an_exception():
    a, b = used_pair()
    before = observed(a, b)
    with pytest.raises(OSError, match="the disk is gone"):
        compute_stats(a, b, broken_off())
    assert_same(before, observed(a, b))


def test_a_network_that_overwrites_its_input_leaves_the_batch_alone():
    a, b = (Calls(lambda self, x: self.fc(x.relu_()), fc=nn.Linear(3, 4)) for _ in "ab")
    batch = torch.randn(5, 3)
    before = batch.clone()
    compute_stats(a, b, [batch])
    assert torch.equal(batch, before)


def test_default_taps_are_layers_and_blocks_with_matrices_where_matching_reads(graph):
    stats = compute_stats(*pair(), [images(3)])
    assert tuple(stats) == graph.default_taps
    assert {tap for tap in stats if stats[tap].cross is not None} == set(graph.match_taps)


def test_taps_may_be_named_by_module_or_by_tap_and_come_in_graph_order():
    stats = compute_stats(*pair(), [images(3)], taps=["fc1", "sum", "sum.add", "conv1"])
    assert list(stats) == ["conv1", "sum.add", "fc1"]


def test_one_name_stands_for_a_list_of_one():
    assert list(compute_stats(*pair(), [images(3)], taps="norm", cross=[])) == ["norm"]


@pytest.mark.parametrize(
    ("cross", "expected"),
    [([], set()), ("all", {"conv1", "sum.add"}), (["sum"], {"sum.add"}), (None, set())],
)
def test_matrices_are_kept_where_they_were_asked_for(cross, expected):
    stats = compute_stats(*pair(), [images(3)], taps=["conv1", "sum"], cross=cross)
    assert {tap for tap in stats if stats[tap].cross is not None} == expected


def test_a_tap_named_in_cross_is_recorded_also_where_taps_leave_it_out():
    stats = compute_stats(*pair(), [images(3)], taps=["fc1"], cross=["conv1"])
    assert list(stats) == ["conv1", "fc1"]
    assert stats["conv1"].cross is not None
    assert stats["fc1"].cross is None


def test_the_correlation_of_a_network_with_itself_is_one():
    a, _ = pair(torch.float64)
    stats = compute_stats(a, a, [images(9, torch.float64)], taps="all", cross="all")
    for moments in stats.values():
        alive = ~moments.dead_a
        assert alive.any()
        ones = torch.ones(int(alive.sum()), dtype=torch.float64)
        torch.testing.assert_close(moments.corr_diag[alive], ones, rtol=0, atol=1e-10)


def test_exchanging_the_networks_transposes_the_statistics():
    a, b = pair()
    one, other = compute_stats(a, b, [images(6)]), compute_stats(b, a, [images(6)])
    for tap in one:
        assert torch.equal(one[tap].mean_a, other[tap].mean_b)
        assert torch.equal(one[tap].m2_b, other[tap].m2_a)


def test_the_device_may_be_named(graph):
    stats = compute_stats(*pair(), [images(3)], device="cpu")
    assert all(moments.mean_a.device.type == "cpu" for moments in stats.values())


@pytest.mark.gpu
def test_models_on_the_cpu_may_be_measured_on_a_gpu():
    a, b = pair(torch.float64)
    x = images(12, torch.float64)
    on_gpu = compute_stats(a, b, x.split(5), device="cuda", backend="torch")
    assert all(moments.mean_a.device.type == "cuda" for moments in on_gpu.values())
    assert next(a.parameters()).device.type == "cpu"
    assert_same_stats(on_gpu.to("cpu"), compute_stats(a, b, x.split(5)), 1e-10)


@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "tf32"])
def test_a_cpu_has_one_precision(precision):
    expected = compute_stats(*pair(), [images(3)])
    assert_same_stats(compute_stats(*pair(), [images(3)], precision=precision), expected)


def test_the_progress_bar_is_shown_only_on_request(capsys):
    compute_stats(*pair(), [images(3)])
    assert capsys.readouterr().err == ""
    compute_stats(*pair(), [images(3)], progress=True)
    assert "statistics" in capsys.readouterr().err


@pytest.fixture
def alone(tmp_path) -> Iterator[dist.ProcessGroup]:
    """A group of this one process."""
    meeting = f"file://{tmp_path / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_a_group_of_one_process_changes_nothing(alone):
    a, b = pair()
    expected = compute_stats(a, b, images(7).split(5))
    assert_same_stats(compute_stats(a, b, images(7).split(5), process_group=alone), expected)
