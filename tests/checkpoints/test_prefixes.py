"""A network within another module's state dict: found by its names, or asked for where unclear."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from repair_kernels.checkpoints import load_into, load_state_dict
from repair_kernels.cli import main
from repair_kernels.errors import ArchitectureMismatchError, CheckpointError
from tests.command_lines import mlp, written_pair


class Versioned(nn.Linear):
    """A module that tells which version of it a state dict is of."""

    _version = 3

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *others) -> None:
        self.loaded = local_metadata.get("version")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), Versioned(4, 2))


class Training(nn.Module):
    """What PyTorch Lightning saves: a network among losses and metrics."""

    def __init__(self, name: str = "model", **others: nn.Module):
        super().__init__()
        for key, module in {name: network(), **others}.items():
            self.add_module(key, module)


def checkpoint(folder: Path, module: nn.Module) -> Path:
    """Write a file as Lightning does, with hyperparameters that are a class of their own."""
    options = argparse.Namespace(lr=0.1)
    contents = {"epoch": 3, "hyper_parameters": options, "state_dict": module.state_dict()}
    torch.save(contents, folder / "last.ckpt")
    return folder / "last.ckpt"


def loaded(state: Mapping[str, Tensor]) -> nn.Sequential:
    model = network()
    load_into(model, state, name="network a")
    return model


def assert_is(model: nn.Module, expected: nn.Module) -> None:
    ours, theirs = model.state_dict(), expected.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("name", ["model", "net", "network", "backbone", "classifier_"])
def test_a_network_within_a_training_module_is_found(tmp_path: Path, name: str) -> None:
    module = Training(name, loss=nn.PReLU(), val_accuracy=nn.BatchNorm1d(2))
    model = loaded(load_state_dict(checkpoint(tmp_path, module)))
    assert_is(model, getattr(module, name))


def test_wrappers_within_a_training_module_are_passed(tmp_path: Path) -> None:
    module = Training(loss=nn.PReLU())
    expected, module.model = module.model, nn.DataParallel(module.model)
    assert_is(loaded(load_state_dict(checkpoint(tmp_path, module))), expected)


def test_versions_of_the_network_within_come_along() -> None:
    state = Training(loss=nn.PReLU()).state_dict()
    state._metadata["model.3"]["version"] = 2
    assert loaded(state)[3].loaded == 2
    del state._metadata
    assert loaded(state)[3].loaded == 3


def test_the_second_name_of_a_tied_tensor_may_be_missing_behind_a_prefix() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    load_into(model, {"net.1.weight": torch.ones(2, 2)}, name="network a")
    assert model[0].weight.eq(1).all()


def test_counters_may_be_missing_behind_a_prefix() -> None:
    module = Training()
    state = {n: x for n, x in module.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert_is(loaded(state), module.model)


def test_of_two_networks_one_has_to_be_chosen(tmp_path: Path) -> None:
    module = Training("student", teacher=network())
    path = checkpoint(tmp_path, module)
    match = (
        r"a state dict of network a's architecture \(Sequential\), but its names are there behind "
        r"several prefixes: student\., teacher\.; choose one with `key`, .* key='state_dict.st"
    )
    with pytest.raises(ArchitectureMismatchError, match=match):
        loaded(load_state_dict(path))
    assert_is(loaded(load_state_dict(path, key="state_dict.teacher")), module.teacher)


def test_a_key_keeps_the_versions_of_a_part_of_the_names(tmp_path: Path) -> None:
    part = load_state_dict(checkpoint(tmp_path, Training(loss=nn.PReLU())), key="state_dict.model")
    assert part._metadata["3"] == {"version": 3}  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="something under `key` 'state_dict.head', but"):
        load_state_dict(tmp_path / "last.ckpt", key="state_dict.head")


@pytest.mark.parametrize("other", ["3", "0"])
def test_what_may_be_meant_for_the_model_is_not_left_aside(other: str) -> None:
    """A layer of the network beside it: a head that was trained anew, for instance."""
    state = Training(**{other: nn.Linear(4, 2)}).state_dict()
    with pytest.raises(ArchitectureMismatchError, match=r"lacks: .*; the model has no: model\.0"):
        loaded(state)


def test_more_layers_behind_the_prefix_are_superfluous() -> None:
    module = Training()
    module.model.append(nn.Linear(2, 2))
    with pytest.raises(ArchitectureMismatchError, match=r"the model has no: 4\.weight, 4\.bias;"):
        loaded(module.state_dict())


def test_fewer_layers_behind_the_prefix_are_named_as_missing() -> None:
    module = Training()
    del module.model[3]
    with pytest.raises(ArchitectureMismatchError, match=r"it lacks: 0\.weight, .*; the model has"):
        loaded(module.state_dict())


def test_another_shape_behind_the_prefix_is_refused_by_name() -> None:
    module = Training()
    module.model[0] = nn.Conv2d(3, 4, 5)
    with pytest.raises(ArchitectureMismatchError, match=r"shapes differ for: 0\.weight \("):
        loaded(module.state_dict())


def test_names_of_many_dots_are_looked_at_no_deeper_than_networks_are() -> None:
    with pytest.raises(ArchitectureMismatchError, match="it lacks: "):
        loaded({"." * 100_000 + "0.weight": torch.ones(1)})


@pytest.mark.usefixtures("torch_backend")
def test_the_command_line_merges_checkpoints_of_training_modules(tmp_path: Path) -> None:
    pair = written_pair(tmp_path)
    for name, seed in (("a", 0), ("b", 1)):
        module = Training("net", loss=nn.PReLU())
        module.net = mlp(seed)
        checkpoint(tmp_path, module).rename(tmp_path / f"{name}.ckpt")
    options = ["--variant", "none", "--quiet", "-o"]
    assert main(["merge", *pair, *options, str(tmp_path / "plain.safetensors")]) == 0
    nested = [word.replace(".safetensors", ".ckpt") for word in pair]
    assert main(["merge", *nested, *options, str(tmp_path / "nested.safetensors")]) == 0
    plain, merged = (load_state_dict(tmp_path / f"{n}.safetensors") for n in ("plain", "nested"))
    assert plain.keys() == merged.keys()
    assert all(torch.equal(plain[name], merged[name]) for name in plain)
