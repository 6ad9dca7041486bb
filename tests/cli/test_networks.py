"""Networks by name: whose they are, with random weights, and what is said of wrong names."""

import hashlib
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from repair_kernels.checkpoints import load_metadata, load_state_dict, save_state_dict
from repair_kernels.cli import main, networks
from repair_kernels.cli.networks import builder
from repair_kernels.errors import ArgumentError, MissingExtraError
from tests.command_lines import mlp

pytestmark = pytest.mark.usefixtures("torch_backend")


@pytest.fixture
def zoos(monkeypatch):
    """Put libraries in the place of torchvision and timm that note how they are called."""
    calls = []

    def made(name: str, **options) -> nn.Module:
        calls.append((name, options))
        return nn.Linear(2, 2)

    names = ["resnet18", "resnet50", "vgg11"]
    torchvision, timm = ModuleType("torchvision"), ModuleType("timm")
    torchvision.models = SimpleNamespace(list_models=lambda: names, get_model=made)  # type: ignore[attr-defined]
    timm.list_models, timm.create_model = lambda: names, made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "timm", timm)
    return calls


def test_networks_of_both_zoos_have_no_weights_of_theirs(zoos) -> None:
    builder("torchvision:resnet50")(num_classes=10)
    builder("timm:resnet50")(in_chans=1)
    assert zoos == [
        ("resnet50", {"weights": None, "num_classes": 10}),
        ("resnet50", {"pretrained": False, "in_chans": 1}),
    ]


@pytest.mark.parametrize("zoo", ["torchvision", "timm"])
def test_a_wrong_name_is_answered_with_close_ones(zoos, zoo) -> None:
    match = f"must name a network of {zoo}; 'resnet5' is none; close to it: resnet50, resnet18;"
    with pytest.raises(ArgumentError, match=match):
        builder(f"{zoo}:resnet5")


@pytest.mark.parametrize("zoo", ["torchvision", "timm"])
def test_a_zoo_that_is_not_installed_is_said(monkeypatch, zoo) -> None:
    monkeypatch.setitem(sys.modules, zoo, None)
    with pytest.raises(MissingExtraError, match=f"`{zoo}:` names .* cannot be imported .*install"):
        builder(f"{zoo}:resnet50")


def test_the_keys_of_both_checkpoints_can_be_chosen(pair, tmp_path, capsys) -> None:
    contents = {"model": mlp(0).state_dict(), "ema": mlp(1).state_dict()}
    torch.save(contents, tmp_path / "both.ckpt")
    both = ["--a", str(tmp_path / "both.ckpt"), "--b", str(tmp_path / "both.ckpt")]
    merge = ["merge", *pair, *both, "--variant", "none", "-o", str(tmp_path / "merged.pt")]
    assert main(merge) == 1
    assert "it holds `model` (6 tensors), `ema` (6 tensors); choose" in capsys.readouterr().err
    for key, seed in ((["--key", "ema"], 1), (["--key", "ema", "--key-a", "model"], 0)):
        assert main([*merge, *key, "--alpha", "0"]) == 0
        merged = load_state_dict(tmp_path / "merged.pt")
        assert torch.equal(merged["fc1.weight"], mlp(seed).state_dict()["fc1.weight"])


def test_checkpoints_in_folders_are_merged(pair, tmp_path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        save_state_dict(mlp(0).state_dict(), tmp_path / name / "model.safetensors")
    folders = ["--a", str(tmp_path / "a"), "--b", str(tmp_path / "b")]
    output = str(tmp_path / "merged.safetensors")
    assert main(["merge", *pair, *folders, "--variant", "none", "-o", output]) == 0


def test_published_weights_are_taken_by_name(pair, tmp_path, monkeypatch) -> None:
    file = tmp_path / "a.safetensors"
    monkeypatch.setattr(networks, "published_weights", lambda name: file)
    named = ["--a", "torchvision:ResNet50_Weights.IMAGENET1K_V1"]
    output = tmp_path / "merged.safetensors"
    assert main(["merge", *pair, *named, "--variant", "none", "-o", str(output)]) == 0
    source = json.loads(load_metadata(output)["sources"])[0]
    assert source["path"] == "torchvision:ResNet50_Weights.IMAGENET1K_V1"
    assert source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
