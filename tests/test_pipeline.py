"""The whole way on small networks of every family: two networks in, one repaired network out."""

import functools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import repair_kernels as rk
from repair_kernels.errors import CalibrationDataError
from tests import oracles
from tests.merging import VARIANTS, Counted, mlps
from tests.networks import FAMILIES, PLAIN, assert_same, lively, snapshot

# Random networks: whether a correction makes their loss worse means nothing.
pytestmark = [
    pytest.mark.usefixtures("torch_backend"),
    pytest.mark.filterwarnings("ignore::repair_kernels.errors.CalibrationWarning"),
]
repair = functools.partial(rk.repair, on_worse="warn")


def hidden_variance(model: nn.Module, x: Tensor) -> float:
    """Return the variance of what the last linear layer reads, summed over its channels."""
    last, seen = [m for m in model.modules() if isinstance(m, nn.Linear)][-1], []
    hook = last.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(x)
    hook.remove()
    return float(oracles.rows(seen[0], 1).var(axis=0).sum())


# repair


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_merged_and_repaired(family: str) -> None:
    a, b = FAMILIES[family].network(0), FAMILIES[family].network(1)
    x = FAMILIES[family].inputs(16)
    before, merged = (snapshot(a), snapshot(b)), []

    def keep(model: nn.Module) -> dict[str, float]:
        merged.append(model)
        return {"variance": hidden_variance(model, x)}

    path = rk.sweep(a, b, [x], keep, alphas=[0.5], variants=["none", "forward"])
    assert_same(before[0], snapshot(a))
    assert_same(before[1], snapshot(b))
    repaired = merged[-1]
    assert type(repaired) is type(a)
    folds = family in ("mlp", "vgg", "vgg_batch_norm")
    assert folds == (list(repaired.state_dict()) == list(a.state_dict()))
    assert repaired(x).isfinite().all()
    if family != "resnet_layer_norm":  # whose norms leave no collapse to repair
        goal = sum(path.endpoints("variance")) / 2
        collapsed = path.values("variance", variant="none")[1] / goal
        restored = path.values("variance", variant="forward")[1] / goal
        assert collapsed < 1
        assert abs(math.log(restored)) < abs(math.log(collapsed))


@pytest.mark.parametrize("variant", VARIANTS)
def test_repair_is_match_permute_and_calibrate(variant: str) -> None:
    a, b, x = PLAIN.network(0), PLAIN.network(1), PLAIN.inputs(40)
    result = repair(a, b, x.split(16), variant=variant)
    groups = rk.trace(a, x).groups
    stats = rk.compute_stats(a, b, x.split(16))
    perms = rk.match(stats, groups, by="weights", networks=(a, b))
    assert result.permutations == perms
    aligned = rk.permute(b, groups, perms)
    if variant == "none":
        assert_same(snapshot(result.model), snapshot(rk.interpolate(a, aligned)))
        return
    wanted = rk.calibrate(a, aligned, x.split(16), variant=variant)
    assert list(result.model.state_dict()) == list(wanted.state_dict())
    for name, tensor in result.model.state_dict().items():
        # Statistics of b before or after its permutation: sums in another order.
        torch.testing.assert_close(tensor, wanted.state_dict()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_and_its_permuted_copy_merge_into_the_network(variant: str) -> None:
    a, x = PLAIN.network(0).double(), PLAIN.inputs(40).double()
    groups = rk.trace(a, x).groups
    generator = torch.Generator().manual_seed(1)
    perms = {name: rk.Permutation.random(g.size, generator) for name, g in groups.items()}
    result = repair(a, rk.permute(a, groups, perms), [x], variant=variant)
    with torch.no_grad():
        wanted, found = a(x), result.model(x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9 * wanted.abs().max().item())
    for correlation in result.report.matched_correlation.values():
        assert correlation == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("alpha", [0, 1])
def test_the_ends_are_a_and_the_permuted_b_bit_for_bit(variant: str, alpha: int) -> None:
    a, b, x = mlps()
    result = repair(a, b, [x], alpha=alpha, variant=variant)
    permuted = rk.permute(b, rk.trace(a, x).groups, result.permutations)
    assert_same(snapshot((a, permuted)[alpha]), snapshot(result.model))


def test_the_report_says_what_was_done() -> None:
    family = FAMILIES["resnet_option_a"]
    a, b, x = family.network(0), family.network(1), family.inputs(30)
    result = repair(a, b, x.split(20), alpha=0.25, variant="sequential")
    report = result.report
    graph = rk.trace(a, x)
    assert (report.variant, report.alpha, report.n_images) == ("sequential", 0.25, 30)
    assert report.corrected == graph.calibration_taps
    assert report.explicit == tuple(t for t in report.corrected if graph.tap(t).kind == "block")
    assert report.matched_correlation.keys() == result.permutations.keys() == graph.groups.keys()
    assert 0 < report.permutation_deviation < 1e-12
    assert all(-1 <= value <= 1 for value in report.matched_correlation.values())
    assert report.dead_channels.keys() == set(report.corrected)
    explicit = {f"{tap.rsplit('.', 1)[0]}.channel_affine" for tap in report.explicit}
    layers = {n for n, m in result.model.named_modules() if isinstance(m, rk.ChannelAffine)}
    assert layers == explicit
    for words in ("sequential at alpha 0.25", "of 30 images", *report.explicit):
        assert words in str(report)


def test_the_report_counts_dead_channels() -> None:
    a, b, x = mlps()
    with torch.no_grad():
        for model in (a, b):
            model.fc1.weight[[1, 4, 6]] = 0
    report = repair(a, b, [x]).report
    assert report.dead_channels == {"fc1": 3, "fc2": 0}
    assert "dead channels left alone: 3" in str(report)


def test_without_a_correction_nothing_is_reported_as_corrected() -> None:
    a, b, x = mlps()
    report = repair(a, b, [x], variant="none").report
    assert (report.corrected, report.explicit, report.dead_channels) == ((), (), {})
    assert "explicit layers: none" in str(report)


def test_what_folds_has_the_class_and_keys_of_the_endpoints() -> None:
    a, b = PLAIN.network(0), PLAIN.network(1)
    result = repair(a, b, [PLAIN.inputs(8)])
    assert not result.report.explicit
    assert type(result.model) is type(a)
    assert list(result.model.state_dict()) == list(a.state_dict())
    PLAIN.build().load_state_dict(result.model.state_dict())


def test_statistics_are_those_of_the_networks_as_they_were_given() -> None:
    a, b, x = mlps()
    wanted = rk.compute_stats(a, b, [x])
    stats = repair(a, b, [x]).stats
    for tap in ("fc1", "fc2"):
        torch.testing.assert_close(stats[tap].mean_b, wanted[tap].mean_b)


def test_a_merged_network_can_be_merged_again() -> None:
    family = FAMILIES["resnet_option_a"]
    a, b, c, d = (family.network(seed) for seed in range(4))
    x = family.inputs(24)
    first, second = repair(a, b, [x]).model, repair(c, d, [x]).model
    result = repair(first, second, [x])
    assert result.report.permutation_deviation < 1e-12
    assert result.model(x).isfinite().all()


class Casting(nn.Module):
    """A network that computes its second half in float32, whatever comes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.to(self.first.weight.dtype)).relu().float()
        return self.second(x.to(self.second.weight.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_that_cast_inside_are_repaired(dtype: torch.dtype) -> None:
    a, b = (lively(Casting(), seed).to(dtype) for seed in (0, 1))
    result = repair(a, b, [torch.randn(20, 5)])
    assert result.model(torch.randn(4, 5)).isfinite().all()


class Labelling(nn.Module):
    """A network that returns logits and the labels that they stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.second(self.first(x).relu())
        return {"logits": logits, "labels": logits.argmax(dim=1)}


def test_networks_that_return_labels_beside_logits_are_repaired() -> None:
    a, b = (lively(Labelling(), seed) for seed in (0, 1))
    result = repair(a, b, [torch.randn(20, 5)])
    assert result.model(torch.randn(4, 5)).keys() == {"logits", "labels"}
    assert result.report.permutation_deviation < 1e-12


def test_only_n_samples_images_are_read() -> None:
    a, b, x = mlps()
    result = repair(a, b, x.split(8), n_samples=20)
    assert result.report.n_images == 20


def test_a_data_loader_of_labelled_images_serves_as_it_is() -> None:
    a, b, x = mlps()
    loader = DataLoader(TensorDataset(x, torch.zeros(40)), batch_size=16, shuffle=True)
    before = torch.get_rng_state()
    assert repair(a, b, loader).report.n_images == 40
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("variant", "passes"), [("none", 1), ("closed_form", 1), ("forward", 2), ("sequential", 2)]
)
@pytest.mark.parametrize("assess", [True, False])
def test_the_data_is_read_as_often_as_the_variant_says(
    variant: str, passes: int, assess: bool
) -> None:
    a, b, x = mlps()
    batches = Counted(x.split(16))
    repair(a, b, batches, variant=variant, assess=assess)
    passes += assess and variant != "none"
    assert batches.passes == passes
    assert batches.read == 3 * passes


@pytest.mark.parametrize("variant", ["none", "closed_form"])
def test_an_iterator_serves_where_one_pass_is_enough(variant: str) -> None:
    a, b, x = mlps()
    found = repair(a, b, iter(x.split(16)), variant=variant)
    wanted = repair(a, b, x.split(16), variant=variant)
    assert_same(snapshot(wanted.model), snapshot(found.model))


@pytest.mark.parametrize("variant", ["forward", "sequential"])
def test_an_iterator_is_refused_before_it_is_spent(variant: str) -> None:
    a, b, x = mlps()
    with pytest.raises(CalibrationDataError, match=f"variant '{variant}' reads `batches` twice"):
        repair(a, b, iter(x.split(16)), variant=variant)


def test_the_same_call_gives_the_same_bits() -> None:
    a, b, x = mlps()
    first, second = (repair(a, b, x.split(16)).model for _ in range(2))
    assert_same(snapshot(first), snapshot(second))


# Interpreted kernels


def test_the_kernels_give_what_torch_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    a, b = (lively(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), s) for s in (0, 1))
    x = torch.randn(17, 3) + 0.5
    wanted = repair(a, b, x.split(10), variant="forward", backend="torch")
    if not torch.cuda.is_available():
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = repair(a, b, x.split(10), variant="forward")
    assert found.permutations == wanted.permutations
    for name, tensor in found.model.state_dict().items():
        # float32 sums of 17 terms in another order, divided by each other.
        torch.testing.assert_close(tensor, wanted.model.state_dict()[name], rtol=1e-5, atol=1e-6)
