"""The embedded networks: they load, differ, reach what their card says, and the card is theirs."""

import hashlib

import pytest
import torch

from models.card import FOLDER, card, read_report
from models.datasets import load_embedded_fashion
from models.evaluate import evaluate
from models.pretrained import PAIRS, SEEDS, checkpoint_path, load_pair
from models.recipes import RECIPES


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_reaches_the_accuracy_on_its_card(name: str) -> None:
    images, labels = load_embedded_fashion("test")
    chosen = torch.arange(0, 2000, 4)
    for seed, model in zip(SEEDS, load_pair(name), strict=True):
        stated = read_report(name, seed)["embedded_test"]
        result = evaluate(model, images[chosen], labels[chosen], normalise="fashion")
        # Four standard errors of an accuracy on a quarter of the images.
        margin = 4 * (stated["accuracy"] * stated["error"] * 0.75 / 500) ** 0.5
        assert result["accuracy"] == pytest.approx(stated["accuracy"], abs=margin)


@pytest.mark.parametrize(("name", "least"), [("fashion_resnet20", 0.92), ("fashion_mlp10", 0.88)])
def test_the_stated_accuracies_are_good(name: str, least: float) -> None:
    for seed in SEEDS:
        report = read_report(name, seed)
        assert report["test_images"] == 10_000
        assert report["test"]["accuracy"] >= least


@pytest.mark.parametrize("name", PAIRS)
def test_a_report_is_of_its_file_and_recipe(name: str) -> None:
    for seed in SEEDS:
        report = read_report(name, seed)
        data = checkpoint_path(name, seed).read_bytes()
        assert hashlib.sha256(data).hexdigest() == report["sha256"]
        assert (report["recipe"], report["seed"]) == (name, seed)
        settings = {key: getattr(RECIPES[name], key) for key in report["settings"]}
        assert report["settings"] == settings | {"options": dict(settings["options"])}


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_differs_and_leaves_the_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    model_a, model_b = load_pair(name)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model_a.training
    assert all(torch.isfinite(value).all() for value in model_a.state_dict().values())
    first_a, first_b = next(model_a.parameters()), next(model_b.parameters())
    assert not torch.allclose(first_a, first_b, atol=0.1)


def test_the_card_is_generated_from_the_reports() -> None:
    assert (FOLDER / "README.md").read_text() == card()


@pytest.mark.parametrize(("name", "seed"), [("fashion_vgg", 0), ("fashion_mlp10", 2)])
def test_an_unknown_network_is_refused(name: str, seed: int) -> None:
    with pytest.raises(ValueError, match="the embedded pairs are .* got"):
        checkpoint_path(name, seed)
