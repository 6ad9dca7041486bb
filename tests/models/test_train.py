"""Training: it learns, it is fixed by its seed, and a stopped run goes on as if never stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models import train as training
from models.recipes import Recipe
from models.train import main, save_checkpoint, train, train_side_by_side

RECIPE = Recipe(
    model="models.mlp:MLP",
    options={"depth": 1, "width": 8},
    dataset="fashion",
    batch_size=8,
    epochs=4,
    lr=0.1,
    decay="linear",
    warmup=0.25,
    nesterov=True,
    weight_decay=1e-4,
    flip=True,
    translate=1,
    cutout=4,
    clip=5.0,
)
CONVOLUTIONAL = replace(
    RECIPE,
    model="models.resnet:cifar_resnet",
    options={"depth": 8, "norm": "batch", "in_channels": 1},
    epochs=2,
    clip=None,
)
FIXUP = replace(CONVOLUTIONAL, options=CONVOLUTIONAL.options | {"norm": "fixup"}, scalar_lr=0.1)


def labelled_images(n: int = 44) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(n) % 4
    images = torch.randint(0, 60, (n, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return images + 60 * labels.byte().view(-1, 1, 1, 1) // 2, labels


class StoppedError(Exception):
    """What kills a run in these tests."""


def stop_after(epoch: int):
    def after_epoch(report: dict[str, float]) -> None:
        if report["epoch"] == epoch:
            raise StoppedError

    return after_epoch


def assert_same(model: torch.nn.Module, other: torch.nn.Module) -> None:
    state, other_state = model.state_dict(), other.state_dict()
    assert state.keys() == other_state.keys()
    assert all(torch.equal(state[key], other_state[key]) for key in state)


@pytest.mark.parametrize("recipe", [RECIPE, CONVOLUTIONAL, FIXUP], ids=["mlp", "batch", "fixup"])
def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, recipe: Recipe
) -> None:
    data = labelled_images()
    whole = train(recipe, *data, seed=3)
    resume_file = tmp_path / "run.pt"
    with pytest.raises(StoppedError):
        train(recipe, *data, seed=3, resume_file=resume_file, after_epoch=stop_after(1))
    torch.manual_seed(99)
    epochs = []
    resumed = train(recipe, *data, seed=3, resume_file=resume_file, after_epoch=epochs.append)
    assert [report["epoch"] for report in epochs] == list(range(2, recipe.epochs + 1))
    assert_same(whole, resumed)
    assert not resumed.training


class Constant(Recipe):
    """A recipe whose learning rate does not change."""

    def learning_rate(self, progress: float) -> float:
        return self.lr


def test_a_network_trained_on_sees_what_a_longer_training_would_have_shown_it() -> None:
    settings = {key: getattr(RECIPE, key) for key in RECIPE.__dataclass_fields__}
    settings |= {"momentum": 0.0, "nesterov": False, "flip": False, "alternate_flip": True}
    whole = Constant(**settings)
    first = replace(whole, epochs=1)
    second = replace(whole, epochs=3, after=first)
    data = labelled_images()
    start = train(first, *data, seed=3)
    before = {key: value.clone() for key, value in start.state_dict().items()}
    assert_same(train(whole, *data, seed=3), train(second, *data, seed=3, start=before))
    assert all(torch.equal(value, before[key]) for key, value in start.state_dict().items())
    assert (whole.epochs_before, second.epochs_before) == (0, 1)
    assert replace(whole, after=second).epochs_before == 4


def test_only_what_comes_after_another_training_has_a_start() -> None:
    data, start = labelled_images(), RECIPE.build().state_dict()
    with pytest.raises(ValueError, match="`start` must be the network of the recipe .* got none"):
        train(replace(RECIPE, after=RECIPE), *data, seed=0)
    with pytest.raises(ValueError, match="got one for a recipe that begins anew"):
        train(RECIPE, *data, seed=0, start=start)
    with pytest.raises(ValueError, match="one entry for each network, got 2, 2, 2 and 1"):
        train_side_by_side(RECIPE, [data] * 2, seeds=(0, 1), starts=[start])


def test_networks_trained_side_by_side_are_those_trained_alone() -> None:
    images, labels = labelled_images()
    data = [(images, labels), (images[:30], labels[:30])]  # Of different numbers of steps, too.
    alone = [train(FIXUP, *of, seed=seed) for of, seed in zip(data, (1, 2), strict=True)]
    together = train_side_by_side(FIXUP, data, seeds=(1, 2))
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)
        assert not other.training


def test_networks_of_which_one_was_saved_an_epoch_later_go_on_together(tmp_path: Path) -> None:
    data, files = [labelled_images()] * 2, [tmp_path / "a.pt", tmp_path / "b.pt"]
    whole = train_side_by_side(RECIPE, data, seeds=(1, 2))
    for file, seed, epoch in zip(files, (1, 2), (1, 2), strict=True):
        with pytest.raises(StoppedError):
            train(RECIPE, *data[0], seed=seed, resume_file=file, after_epoch=stop_after(epoch))
    seen = []
    resumed = train_side_by_side(
        RECIPE,
        data,
        seeds=(1, 2),
        resume_files=files,
        after_epoch=lambda number, report: seen.append((number, report["epoch"])),
    )
    assert seen == [(0, 2), (0, 3), (1, 3), (0, 4), (1, 4)]
    for one, other in zip(whole, resumed, strict=True):
        assert_same(one, other)


def test_resume_files_are_not_written_more_often_than_asked(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    train_side_by_side(
        RECIPE, [labelled_images()], seeds=[0], resume_files=[file], resume_seconds=3600
    )
    assert not file.exists()


def test_every_network_needs_its_data() -> None:
    with pytest.raises(ValueError, match="must have one entry for each network, got 1, 2, 2 and 2"):
        train_side_by_side(RECIPE, [labelled_images()], seeds=(0, 1))


def test_a_compiled_network_is_trained_and_its_weights_keep_their_names() -> None:
    recipe = replace(RECIPE, epochs=1)
    plain = train(recipe, *labelled_images(), seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda model: model.forward)
        compiled = train(recipe, *labelled_images(), seed=0, compiled=True)
    assert_same(plain, compiled)


def test_smoothed_labels_change_what_is_learnt() -> None:
    plain, smoothed = (
        train(replace(RECIPE, label_smoothing=part), *labelled_images(), seed=0)
        for part in (0.0, 0.1)
    )
    assert not torch.equal(plain.fc1.weight, smoothed.fc1.weight)


def test_the_seed_fixes_everything_and_leaves_the_global_generator_alone() -> None:
    data = labelled_images()
    before = torch.get_rng_state()
    first, again, other = (train(RECIPE, *data, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(first, again)
    assert not torch.equal(first.fc1.weight, other.fc1.weight)


def test_training_lowers_the_loss() -> None:
    reports = []
    recipe = replace(RECIPE, epochs=15, flip=False, translate=0, cutout=0)
    train(recipe, *labelled_images(), seed=0, after_epoch=reports.append)
    assert reports[-1]["loss"] < reports[0]["loss"] / 2
    assert reports[-1]["accuracy"] > 0.8


def test_mixed_precision_keeps_float32_weights() -> None:
    model = train(replace(CONVOLUTIONAL, epochs=1), *labelled_images(), seed=0, precision="bf16")
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_scalars_have_a_learning_rate_of_their_own() -> None:
    recipe = replace(FIXUP, scalar_lr=0.0, weight_decay=0.0)
    model = train(recipe, *labelled_images(), seed=0)
    assert all(p.item() in (0.0, 1.0) for p in model.parameters() if p.numel() == 1)


def test_a_resume_file_of_another_run_is_refused(tmp_path: Path) -> None:
    data, file = labelled_images(), tmp_path / "run.pt"
    with pytest.raises(StoppedError):
        train(RECIPE, *data, seed=0, resume_file=file, after_epoch=stop_after(1))
    with pytest.raises(ValueError, match="is of another run .*; remove it to start anew"):
        train(RECIPE, *data, seed=1, resume_file=file)


def test_a_diverged_run_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="the loss of epoch 1 is not finite; lower the recipe"):
        train(replace(RECIPE, lr=1e30, warmup=0.0, clip=None), *labelled_images(), seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp8"}, "`precision` must be one of .* got 'fp8'"),
        ({"recipe": replace(RECIPE, batch_size=100)}, "44 `images` are fewer than a batch of 100"),
    ],
)
def test_bad_arguments_are_refused(change: dict, message: str) -> None:
    images, labels = labelled_images()
    arguments = {"recipe": RECIPE, "images": images, "labels": labels, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        train(**arguments)


def test_a_failed_write_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"old")

    write_bytes = Path.write_bytes

    def fail(path: Path, data: bytes) -> None:
        write_bytes(path, data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(torch.nn.Linear(2, 2), file)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_command_writes_a_checkpoint_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    data = labelled_images()
    monkeypatch.setattr(training, "RECIPES", {"small": RECIPE})
    monkeypatch.setattr(training, "load", lambda *_, **__: data)
    out = tmp_path / "net.safetensors"
    arguments = ["--recipe", "small", "--seed", "5", "--device", "cpu", "--out", str(out)]
    assert main(arguments) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
    expected = train(RECIPE, *data, seed=5).state_dict()
    saved = load_file(out)
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[key], expected[key]) for key in saved)
    report = json.loads((tmp_path / "net.json").read_text())
    assert report["command"] == "python -m models.train " + " ".join(arguments)
    assert report["seed"] == 5
    assert report["test_images"] == 44
    assert 0 <= report["test"]["accuracy"] <= 1
    assert report["settings"]["options"] == {"depth": 1, "width": 8}
    assert report["last_epoch"]["epoch"] == RECIPE.epochs
    assert f"-> {out}" in capsys.readouterr().out


def test_the_command_refuses_other_formats(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--recipe", "fashion_mlp10", "--seed", "0", "--out", str(tmp_path / "a.pt")])
    assert "--out must end in .safetensors, got a.pt" in capsys.readouterr().err
