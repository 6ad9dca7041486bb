"""The parts of the paper's experiments: splits, baselines, stand-ins, pieces, ways to merge."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.paper.baselines import bias_corrected, split_baselines
from bench.paper.endpoints import key_of, settings_of, trained
from bench.paper.experiments import EXPERIMENTS
from bench.paper.images import ImageData, split_by_class
from bench.paper.pieces import endpoints_of, main, pack, unpack
from bench.paper.report import epochs_of
from bench.paper.sizes import SIZES, recipe_at, with_second_cycle
from bench.paper.sources import Settings, source_of
from bench.paper.ways import WAYS, aligned_for
from bench.ways import PAPER, realigned
from models import datasets
from models.recipes import RECIPES, fast
from models.resnet import CifarResNet
from models.train import train
from repair_kernels.alignment import align
from tests.networks import lively

pytestmark = pytest.mark.usefixtures("torch_backend")


def test_split_data_is_disjoint_whole_and_biased_by_class() -> None:
    labels = torch.arange(10).repeat_interleave(50)[torch.randperm(500)]
    first, second = split_by_class(labels)
    assert torch.equal(torch.cat([first, second]).sort().values, torch.arange(500))
    assert torch.bincount(labels[first]).tolist() == [40] * 5 + [10] * 5
    assert torch.bincount(labels[second]).tolist() == [10] * 5 + [40] * 5
    assert torch.equal(first, split_by_class(labels)[0])


def test_cifar10_stands_in_where_cifar100_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, train: int | None, test: int | None) -> ImageData:
        if name == "cifar100":
            raise datasets.DataNotFoundError("not here")
        return ImageData.stand_in(name, 50, 20)

    monkeypatch.setattr(ImageData, "load", load)
    experiment = EXPERIMENTS["split_data"]
    source = source_of(experiment, experiment.points[0], (0, 1), Settings(SIZES["cpu"]))
    assert source.identity["images"] == {"set": "cifar10", "train": 50}
    assert source.identity["recipe"]["options"]["classes"] == 10


def test_bias_correction_takes_the_shares_of_the_classes_out_of_the_answers() -> None:
    likelihood = torch.randn(20, 3, dtype=torch.float64)
    seen = torch.tensor([0] * 6 + [1] * 3)
    prior = torch.tensor([2 / 3, 1 / 3, 1.0], dtype=torch.float64)
    corrected = bias_corrected(likelihood + prior.log(), seen)
    difference = (corrected - likelihood)[:, :2]
    assert torch.allclose(difference, difference[:1, :1].expand_as(difference))


def test_baselines_of_one_network_with_itself_are_its_own_metrics() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    batches = [(torch.randn(8, 1, 2, 2), torch.arange(8) % 3)]
    labels = torch.arange(9) % 3
    found = split_baselines([model] * 2, [labels] * 2, lambda: model, batches, (0.3, 0.5))
    assert found["bias_corrected"] == [found["full"]] * 2
    assert found["ensemble"]["alphas"] == [0.3, 0.5]
    assert found["ensemble"]["loss"] == pytest.approx([found["full"]["loss"]] * 2)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "svhn"])
def test_embedded_images_stand_in_for_every_set(name: str) -> None:
    data = ImageData.stand_in(name, 30, 20)
    assert tuple(data.train.shape) == (30, *datasets.image_set_of(name).shape)
    assert len(data.test) == len(data.test_labels) == 20
    assert int(data.train_labels.max()) < datasets.image_set_of(name).classes


@pytest.mark.parametrize("size", SIZES)
def test_every_point_of_a_size_has_a_network_that_takes_its_images(size: str) -> None:
    for experiment in EXPERIMENTS.values():
        for point in experiment.points:
            if experiment.source != "trained" or size not in point.sizes:
                continue
            recipe = recipe_at(SIZES[size], RECIPES[point.recipe], point.epochs)
            shape = datasets.image_set_of(recipe.dataset).shape
            with torch.device("meta"):
                logits = recipe.build().eval()(torch.empty(2, *shape))
            assert logits.shape == (2, datasets.image_set_of(recipe.dataset).classes)
            full = RECIPES[point.recipe]
            assert size != "full" or (recipe.model, recipe.options) == (full.model, full.options)


def test_vggs_are_trained_again_at_full_size_by_the_fast_recipe_alone() -> None:
    vgg11 = next(p for p in EXPERIMENTS["vgg_depth"].points if p.recipe == "cifar10_vgg11")
    twice = Settings(SIZES["full"], epochs=30).recipe(vgg11)
    assert (twice.epochs, twice.lr, twice.epochs_before) == (20, 0.04, 30)
    assert twice == replace(twice.after, epochs=20, lr=0.04, after=twice.after)
    longer = Settings(SIZES["full"], epochs=30, second_cycle=7).recipe(vgg11)
    assert longer == replace(twice, epochs=7)
    for size, kind in (("full", "paper"), ("cpu", "fast"), ("smoke", "fast")):
        assert Settings(SIZES[size], kind=kind).recipe(vgg11).after is None
    for experiment in EXPERIMENTS.values():
        for point in experiment.points:
            assert not point.second_cycle or "vgg" in point.recipe


def test_networks_with_batch_norms_are_trained_as_by_the_authors_or_faster() -> None:
    mlp, vgg = (RECIPES[name] for name in ("mnist_mlp31_batch", "cifar10_vgg11_batch"))
    assert recipe_at(SIZES["full"], mlp, 3) == mlp
    assert recipe_at(SIZES["cpu"], mlp, 3).epochs == 3
    short = recipe_at(SIZES["full"], vgg, 15)
    assert (short.epochs, short.batch_size, short.lr) == (15, vgg.batch_size, vgg.lr)
    assert short.options == vgg.options
    again = with_second_cycle(short)  # with shifts that images cannot be learnt by heart with
    assert (again.epochs, again.lr, again.after) == (10, vgg.lr / 2, short)
    assert (short.translate, short.cutout) == (2, 0)
    assert (again.translate, again.cutout) == (4, 8)


def test_networks_without_batch_norms_take_small_steps_at_full_size() -> None:
    clips = {d: recipe_at(SIZES["full"], RECIPES[f"cifar10_vgg{d}"], 40).clip for d in (11, 19)}
    assert clips == {11: None, 19: 1.0}
    for norm in ("_layer", "_group", "_fixup"):
        paper = RECIPES[f"cifar10_resnet20x1{norm}"]
        short = recipe_at(SIZES["full"], paper, 40)
        assert (short.batch_size, short.lr, short.clip) == (125, paper.lr, 1.0)
    normed = recipe_at(SIZES["full"], RECIPES["cifar10_resnet20x1"], 40)
    assert (normed.batch_size, normed.clip) == (1000, None)


def test_fused_endpoints_have_no_batch_norms_and_another_identity(tmp_path: Path) -> None:
    [point] = (p for p in EXPERIMENTS["mlp_depth"].points if p.fused and "smoke" in p.sizes)
    settings = Settings(SIZES["smoke"], cache=tmp_path)
    found = {}
    for fused in (True, False):
        asked = replace(point, fused=fused)
        source = source_of(EXPERIMENTS["mlp_depth"], asked, (0, 1), settings)
        found[fused] = source.identity, source.open()
    (identity, fused), (other, normed) = found[True], found[False]
    assert identity == other | {"fused": True}
    for one, two in zip(fused.models, normed.models, strict=True):
        assert not any(isinstance(module, nn.BatchNorm1d) for module in one.modules())
        assert any(isinstance(module, nn.BatchNorm1d) for module in two.modules())
        images, _ = next(iter(normed.tests))
        torch.testing.assert_close(one(images), two(images), rtol=1e-4, atol=1e-4)


def test_what_comes_after_another_training_is_kept_beside_it(tmp_path: Path) -> None:
    first = fast(RECIPES["mnist_mlp1"], 3, batch_size=20)
    second = with_second_cycle(first)
    data = [(torch.randint(256, (40, 1, 28, 28), dtype=torch.uint8), torch.arange(40) % 10)] * 2
    given = {"images": {"set": "noise"}, "device": torch.device("cpu"), "cache": tmp_path}
    [early], _ = trained(first, data[:1], (0,), **given)
    file = tmp_path / key_of(first, given["images"], "float32") / "seed0.safetensors"
    written = file.stat().st_mtime_ns
    models, reports = trained(second, data, (0, 1), **given)
    assert file.stat().st_mtime_ns == written  # read, not trained anew
    assert len(list(tmp_path.glob("*/seed*.safetensors"))) == 4
    on = train(second, *data[0], seed=0, start=early.state_dict(), device="cpu")
    for p, q in zip(models[0].parameters(), on.parameters(), strict=True):
        assert torch.equal(p, q)
    assert reports[0]["recipe"]["after"] == settings_of(first)
    assert (reports[0]["recipe"]["epochs"], reports[0]["last_epoch"]["epoch"]) == (2, 2)
    row = {"series": "MLP, MNIST", "x": 1, "identity": {"precision": "float32"}}
    row["identity"] |= {"recipe": reports[0]["recipe"], "images": {"set": "noise", "train": 40}}
    assert epochs_of(row, "mlp_depth") == "3 + 2 of 50, rate 0.02 + 0.01, 40 of noise"


def test_every_experiment_is_run_in_every_size_but_those_of_others() -> None:
    for name, experiment in EXPERIMENTS.items():
        sizes = {size for point in experiment.points for size in point.sizes}
        missing = {
            "others": "smoke",
            "imagenet": "cpu",
            "learning_rate": "cpu",
            "mlp_midpoint": "cpu",
        }
        assert sizes == set(SIZES) - {missing.get(name)}


def test_the_papers_way_is_the_ablations_and_ours_is_what_align_does() -> None:
    a, b = (lively(CifarResNet((1, 1), (4, 8)), seed).eval() for seed in (0, 1))
    x = torch.randn(32, 3, 8, 8)
    pair = align(a, b, [x], variants=("forward", "closed_form"))
    pairs = aligned_for(pair, WAYS)
    assert pairs["ours"] is pair
    assert pairs["forward"].permutations == realigned(pair, PAPER).permutations
    plain, repaired = pairs["plain"], pairs["plain_forward"]
    assert plain is repaired
    assert all(torch.equal(repaired.state_b[k], v) for k, v in pair.state_plain.items())
    merged = repaired.merge(0.5, "forward").model(x)
    assert torch.isfinite(merged).all()
    assert not torch.allclose(merged, plain.merge(0.5, "plain").model(x))


def test_pieces_of_endpoints_come_back_as_they_were_but_for_rounding(tmp_path: Path) -> None:
    recipe = fast(RECIPES["mnist_mlp1"], 1, batch_size=20)
    data = [(torch.randint(256, (40, 1, 28, 28), dtype=torch.uint8), torch.arange(40) % 10)] * 2
    given = {"images": {"set": "noise"}, "device": torch.device("cpu")}
    models, _ = trained(recipe, data, (0, 1), cache=tmp_path / "cache", **given)
    files = list(endpoints_of(tmp_path / "cache", ["mnist_mlp1"]))
    assert [file.name for file in files] == ["seed0.safetensors", "seed1.safetensors"]
    assert not list(endpoints_of(tmp_path / "cache", ["mnist_mlp5", "fashion_mlp10"]))
    pieces = pack(files, tmp_path / "home", size=100_000)
    assert len(pieces) == 2 * 3
    assert all(piece.stat().st_size <= 100_000 for piece in pieces)
    unpack(tmp_path / "home", tmp_path / "other")
    others, reports = trained(recipe, data, (0, 1), cache=tmp_path / "other", **given)
    assert reports[0]["stored_as"] == "float16"
    for one, other in zip(models, others, strict=True):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(p.half().float(), q)
    pieces[1].unlink()
    with pytest.raises(FileNotFoundError, match="f16.1"):
        unpack(tmp_path / "home", tmp_path / "third")


def test_the_command_packs_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--endpoints", str(tmp_path), "--recipes", "cifar10_resnet18"]
    assert main(["pack", str(tmp_path / "home"), *arguments]) == 0
    assert main(["unpack", str(tmp_path / "home"), "--endpoints", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
