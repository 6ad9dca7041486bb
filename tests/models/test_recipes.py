"""The recipes: each builds its network, and its learning rate is the one described."""

import math

import pytest
import torch

from models.datasets import IMAGE_SETS
from models.recipes import RECIPES, Recipe, fast

SMALL = Recipe(
    model="models.mlp:MLP",
    options={"depth": 1, "width": 4},
    dataset="fashion",
    batch_size=8,
    epochs=2,
    lr=0.5,
    decay="linear",
)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_builds_a_network_for_its_images(name: str) -> None:
    recipe = RECIPES[name]
    image_set = IMAGE_SETS[recipe.dataset]
    with torch.device("meta"):
        model = recipe.build().eval()
        assert model(torch.empty(2, *image_set.shape)).shape == (2, image_set.classes)


def test_recipe_is_a_value_and_its_options_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        SMALL.lr = 1.0
    with pytest.raises(TypeError):
        SMALL.options["depth"] = 2


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_learning_rate_rises_to_its_peak_and_falls_to_zero(decay: str) -> None:
    recipe = Recipe("m:f", "mnist", 1, 1, lr=2.0, decay=decay, warmup=0.2)
    assert recipe.learning_rate(0.1) == pytest.approx(1.0)
    assert recipe.learning_rate(0.2) == pytest.approx(2.0)
    assert recipe.learning_rate(0.6) == pytest.approx(1.0)
    assert recipe.learning_rate(1.0) == pytest.approx(0.0)
    quarter = {"linear": 1.5, "cosine": 1 + math.cos(math.pi / 4)}[decay]
    assert recipe.learning_rate(0.4) == pytest.approx(quarter)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decay": "step"}, '`decay` must be "linear" or "cosine", got \'step\''),
        ({"warmup": 1.0}, r"`warmup` must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_settings_are_refused(change: dict, message: str) -> None:
    settings = {"lr": 1.0, "decay": "linear"} | change
    with pytest.raises(ValueError, match=message):
        Recipe("m:f", "mnist", 1, 1, **settings)


def test_the_fast_recipe_trains_the_same_network_without_what_long_trainings_need() -> None:
    slow = RECIPES["cifar10_resnet18"]
    quick = fast(slow, 40)
    assert (quick.model, quick.options, quick.dataset) == (slow.model, slow.options, slow.dataset)
    assert (quick.epochs, quick.batch_size, quick.nesterov) == (40, 1000, True)
    assert (quick.flip, quick.alternate_flip) == (False, True)
    assert (quick.cutout, quick.label_smoothing) == (0, 0.0)
    assert quick.lr == pytest.approx(slow.lr * math.sqrt(1000 / slow.batch_size))
    assert not fast(RECIPES["mnist_mlp5"], 3).alternate_flip
