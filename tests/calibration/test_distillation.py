"""Distilled corrections answer better than those they start from, and move nothing else."""

import pytest
import torch
from torch import Tensor, nn

import repair_kernels as rk
from models.resnet import CifarResNet
from repair_kernels.affine import ChannelAffine
from repair_kernels.batches import Batches
from repair_kernels.calibration.answers import Answers, endpoint_answers
from repair_kernels.calibration.distillation import Recipe, _split, distil
from repair_kernels.calibration.goals import goal
from repair_kernels.calibration.variants import correct
from repair_kernels.errors import ArgumentError
from repair_kernels.graph.network import state_of
from repair_kernels.interpolation import interpolate_state
from repair_kernels.statistics.collecting import collect
from tests.networks import assert_same, lively, snapshot

pytestmark = [
    pytest.mark.usefixtures("torch_backend"),
    # These networks are not trained, so that a repair may well make their loss worse.
    pytest.mark.filterwarnings("ignore::repair_kernels.errors.CalibrationWarning"),
]
SHORT = Recipe(epochs=3, batch_size=32)


def mlp(seed: int, outputs: int = 5) -> nn.Module:
    layers = [nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, outputs)]
    return lively(nn.Sequential(*layers), seed)


def resnet(seed: int) -> nn.Module:
    return lively(CifarResNet((1, 1), (4, 8)), seed)


def vectors(n: int = 240) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(0))


def images(n: int = 48) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Distillation:
    """What `distil` needs, of two networks that are taken to be aligned."""

    def __init__(self, a: nn.Module, b: nn.Module, x: Tensor, alpha: float = 0.5):
        data = Batches([x])
        self.graph = rk.trace(a, x)
        ends = state_of(a), state_of(b)
        taps = self.graph.resolve("conv", ())
        stats = collect(self.graph, *ends, data, taps=taps, cross=())
        self.state = interpolate_state(*ends, alpha)
        found = correct(self.graph, [self.state], ends, data, stats, taps, [alpha], "forward")
        self.start = found[0].affines
        self.goals = {tap: goal(stats[tap], alpha) for tap in taps}
        self.answers = endpoint_answers(self.graph, ends, data).at(alpha)

    def run(self, recipe: Recipe = SHORT, restore: str = "both") -> dict[str, ChannelAffine]:
        return distil(
            self.graph,
            self.state,
            self.start,
            self.goals,
            self.answers,
            restore=restore,
            recipe=recipe,
        )


def disagreement(model: nn.Module, answers: Answers) -> float:
    with torch.no_grad():
        output = model.eval()(answers.images)
    return float(answers.disagreement(output, torch.arange(len(answers.images))))


@pytest.mark.parametrize(("build", "x"), [(mlp, vectors()), (resnet, images(240))])
def test_it_answers_more_like_the_endpoints_than_repair(build, x):
    a, b = build(0), build(1)
    answers = Distillation(a, b, x).answers
    distilled, forward = (
        disagreement(rk.calibrate(a, b, [x], variant=variant, taps="conv"), answers)
        for variant in ("distilled", "forward")
    )
    assert distilled < 0.8 * forward


def test_outputs_that_are_no_classes_are_fitted_by_their_squares():
    a, b, x = mlp(0, outputs=1), mlp(1, outputs=1), vectors()
    answers = Distillation(a, b, x).answers
    assert not answers.are_probabilities
    expected = torch.lerp(a(x), b(x), 0.5).detach()
    torch.testing.assert_close(answers.wanted, expected)
    off = answers.disagreement(expected + 0.1, torch.arange(len(x)))
    torch.testing.assert_close(off, 0.01 / expected.square().mean())
    distilled = rk.calibrate(a, b, [x], variant="distilled")
    forward = rk.calibrate(a, b, [x], variant="forward")
    assert disagreement(distilled, answers) < disagreement(forward, answers)


def test_the_answers_wanted_are_the_endpoints_interpolated_probabilities():
    a, b, x = mlp(0), mlp(1), vectors(10)
    wanted = Distillation(a, b, x, alpha=0.25).answers.wanted
    expected = 0.75 * a(x).softmax(1) + 0.25 * b(x).softmax(1)
    torch.testing.assert_close(wanted, expected)


def test_what_does_not_answer_better_is_not_kept():
    held = Distillation(mlp(0), mlp(1), vectors())
    found = held.run(recipe=Recipe(epochs=2, batch_size=32, learning_rate=1e4))
    for tap, layer in held.start.items():
        torch.testing.assert_close(found[tap].scale, layer.scale, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found[tap].shift, layer.shift, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("n", "fitted", "held_out"), [(1, 1, 1), (50, 25, 25), (150, 150, 150), (200, 180, 20)]
)
def test_what_is_fitted_to_is_judged_by_other_images_if_there_are_enough_or_very_few(
    n, fitted, held_out
):
    parts = _split(n, torch.Generator().manual_seed(0))
    assert [len(part) for part in parts] == [fitted, held_out]
    assert set(torch.cat(parts).tolist()) == set(range(n))


@pytest.mark.parametrize("restore", ["std", "mean"])
def test_scales_or_shifts_alone(restore):
    held = Distillation(mlp(0), mlp(1), vectors())
    found = held.run(restore=restore)
    for tap, was in held.start.items():
        pairs = {"std": (found[tap].scale, was.scale), "mean": (found[tap].shift, was.shift)}
        for moments, (now, before) in pairs.items():
            moved = float((now - before).abs().max())
            assert moved > 1e-3 if moments == restore else moved < 1e-5


def test_channels_dead_in_both_endpoints_do_not_move():
    a, b = mlp(0), mlp(1)
    with torch.no_grad():
        for model in (a, b):
            model[0].weight[3] = 0
            model[0].bias[3] = 0.7
    affine = Distillation(a, b, vectors()).run()["0"]
    assert (float(affine.scale[3]), float(affine.shift[3])) == (1, 0)


def test_batches_and_repetition_make_no_difference():
    a, b, x = mlp(0), mlp(1), vectors()
    once, again, small = (
        state_of(rk.calibrate(a, b, batches, variant="distilled"))
        for batches in ([x], [x], list(x.split(7)))
    )
    for name in once:
        assert torch.equal(once[name], again[name])
        torch.testing.assert_close(small[name], once[name], rtol=1e-3, atol=1e-4)


def test_all_corrections_are_in_the_weights_and_nothing_else_is_touched():
    a, b, x = resnet(0), resnet(1), images()
    before, rng = (snapshot(a), snapshot(b)), torch.get_rng_state()
    merged = rk.calibrate(a, b, [x], variant="distilled")
    assert type(merged) is CifarResNet
    assert state_of(merged).keys() == state_of(a).keys()
    assert not any(t.requires_grad and t.grad is not None for t in merged.parameters())
    for was, model in zip(before, (a, b), strict=True):
        assert_same(was, snapshot(model))
    assert torch.equal(rng, torch.get_rng_state())


def test_networks_of_16_bits_stay_so():
    a, b, x = mlp(0).bfloat16(), mlp(1).bfloat16(), vectors().bfloat16()
    merged = rk.calibrate(a, b, [x], variant="distilled")
    assert {t.dtype for t in state_of(merged).values()} == {torch.bfloat16}
    assert bool(merged(x).isfinite().all())


class Words(nn.Module):
    """Reads numbers of words."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.fc = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(self.embedding(x).mean(1)).relu())


def test_inputs_that_are_whole_numbers_stay_so():
    a, b = lively(Words(), 0), lively(Words(), 1)
    x = torch.randint(11, (60, 5), generator=torch.Generator().manual_seed(0))
    answers = Distillation(a, b, x).answers
    assert answers.batch(torch.arange(4)).dtype == torch.int64
    distilled, forward = (
        disagreement(rk.calibrate(a, b, [x], variant=variant), answers)
        for variant in ("distilled", "forward")
    )
    assert distilled <= forward


class Cut(nn.Module):
    """Lets no gradient through."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(x).detach())


def test_a_network_without_gradients_is_refused():
    with pytest.raises(ArgumentError, match="needs gradients.*variant='sequential'"):
        rk.calibrate(Cut(), Cut(), [vectors()], variant="distilled", taps="fc")
