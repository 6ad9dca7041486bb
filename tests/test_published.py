"""Published weights by name, from a web server that is a folder."""

import hashlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from repair_kernels.checkpoints import load_state_dict, save_state_dict
from repair_kernels.errors import ArgumentError, CheckpointError, MissingExtraError
from repair_kernels.published import is_published, published_weights

NAME = "torchvision:Net_Weights.V1"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one published file, of which a stand-in for torchvision knows."""
    whole = tmp_path / "net.pth"
    save_state_dict({"weight": torch.ones(3)}, whole)
    digest = hashlib.sha256(whole.read_bytes()).hexdigest()[:8]
    served = whole.rename(tmp_path / f"net-{digest}.pth")

    def get_weight(name: str) -> SimpleNamespace:
        if name != "Net_Weights.V1":
            raise ValueError(name)
        return SimpleNamespace(url=served.as_uri())

    models = ModuleType("torchvision.models")
    models.get_weight = get_weight  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return served


def test_they_are_downloaded_once(server: Path) -> None:
    file = published_weights(NAME)
    assert load_state_dict(file)["weight"].tolist() == [1, 1, 1]
    server.unlink()
    assert published_weights(NAME) == file


def test_without_network_the_address_and_the_place_for_the_file_are_named(server: Path) -> None:
    server.unlink()
    with pytest.raises(
        CheckpointError, match=r"download torchvision:Net.*failed: .*; go online, or put .*net-"
    ):
        published_weights(NAME)


def test_a_changed_file_is_refused_and_not_kept(server: Path) -> None:
    server.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="that failed: invalid hash value"):
        published_weights(NAME)
    with pytest.raises(CheckpointError, match="that failed: invalid hash value"):
        published_weights(NAME)


@pytest.mark.usefixtures("server")
def test_weights_that_are_not_published_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"torchvision has no 'Net_Weights\.V9'; see"):
        published_weights("torchvision:Net_Weights.V9")


def test_without_torchvision_the_package_to_install_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtraError, match=r'pip install "repair-kernels\[vision\]"'):
        published_weights(NAME)


def test_a_name_is_no_file() -> None:
    assert is_published(NAME)
    assert not is_published("torchvision/net.pth")
