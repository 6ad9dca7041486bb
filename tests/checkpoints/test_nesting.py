"""Which state dict of a checkpoint is meant: found where there is one, asked for where not."""

import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from repair_kernels.checkpoints import NESTINGS, formats, load_state_dict, save_state_dict
from repair_kernels.errors import CheckpointError


def state(value: float = 0.0) -> dict[str, Tensor]:
    return {"conv.weight": torch.full((2, 3), value), "conv.bias": torch.full((2,), value)}


def written(folder: Path, contents: object, name: str = "x.pt") -> Path:
    torch.save(contents, folder / name)
    return folder / name


def value_of(loaded: dict[str, Tensor]) -> float:
    assert sorted(loaded) == ["conv.bias", "conv.weight"]
    return float(loaded["conv.bias"][0])


@pytest.mark.parametrize("name", NESTINGS)
@pytest.mark.parametrize("suffix", [".ckpt", ".tar"])
def test_the_one_state_dict_is_found(tmp_path: Path, name: str, suffix: str) -> None:
    contents = {"epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, name: state(5)}
    assert value_of(load_state_dict(written(tmp_path, contents, f"x{suffix}"))) == 5


def test_of_several_one_has_to_be_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, {"model": state(1), "ema": {"module": state(2), "decay": 0.9}})
    match = (
        r"to hold one state dict, but it holds `model` \(2 tensors\), `ema\.module` \(2 tensors\); "
        r"choose one with `key`, such as key='model'"
    )
    with pytest.raises(CheckpointError, match=match):
        load_state_dict(path)
    assert value_of(load_state_dict(path, key="model")) == 1
    assert value_of(load_state_dict(path, key="ema")) == 2
    assert value_of(load_state_dict(path, key="ema.module")) == 2


def test_a_state_dict_under_an_unusual_key_has_to_be_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, {"generator": state(1), "step": 7})
    match = r"under one of state_dict, .*, but it holds `generator` \(2 tensors\); choose one with"
    with pytest.raises(CheckpointError, match=match):
        load_state_dict(path)
    assert value_of(load_state_dict(path, key="generator")) == 1


@pytest.mark.parametrize("contents", [{"model": state(), "n": 1}, state(), [1]])
def test_an_unknown_key_is_answered_with_those_there_are(tmp_path: Path, contents) -> None:
    match = r"something under `key` 'ema', but it holds (`model`|at its top|no state dict).*; name"
    with pytest.raises(CheckpointError, match=match):
        load_state_dict(written(tmp_path, contents), key="ema")


def test_a_key_chooses_names_before_a_dot_in_a_flat_file(tmp_path: Path) -> None:
    flat = {f"{name}.{key}": t for name, v in (("a", 1), ("b", 2)) for key, t in state(v).items()}
    save_state_dict(flat, tmp_path / "x.safetensors")
    assert value_of(load_state_dict(tmp_path / "x.safetensors", key="b")) == 2


def test_keys_may_have_dots(tmp_path: Path) -> None:
    assert value_of(load_state_dict(written(tmp_path, {"a.b": {"c": state(3)}}), key="a.b.c")) == 3


@pytest.mark.parametrize("prefix", ["module.", "_fsdp_wrapped_module.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed_in_nested_state_dicts(tmp_path, prefix) -> None:
    wrapped = {prefix + key: tensor for key, tensor in state(4).items()}
    assert value_of(load_state_dict(written(tmp_path, {"model": wrapped}))) == 4


def test_an_averaged_model_is_read_as_the_model(tmp_path: Path) -> None:
    averaged = AveragedModel(nn.Linear(2, 3)).state_dict()
    loaded = load_state_dict(written(tmp_path, {"ema": averaged}))
    assert sorted(loaded) == ["bias", "weight"]


def test_mappings_nested_in_each_other_end(tmp_path: Path) -> None:
    a: dict = {}
    a["model"] = {"ema": a, "net": a}
    with pytest.raises(CheckpointError, match="tensors by name"):
        load_state_dict(written(tmp_path, a))


def test_deep_nesting_ends(tmp_path: Path) -> None:
    deep: dict = state()
    for _ in range(40):
        deep = {"model": deep}
    with pytest.raises(CheckpointError, match="expected .*x.pt to hold a state dict"):
        load_state_dict(written(tmp_path, deep))


@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "LEAST_LIMITED", 1)
    path = tmp_path / f"x{suffix}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data/0", bytes(10**6))
    match = r"at most 100 times its size, but its [\d,]+ bytes unpack to 1,000,000; if it is yours"
    with pytest.raises(CheckpointError, match=match):
        load_state_dict(path)
