"""Files that hold more than tensors: state dicts are read, and what else there is stays closed."""

import argparse
import dataclasses
import enum
import os
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.robustness.hostile_archives import FOREIGN, LIES, SOUND, Told, archive
from repair_kernels.checkpoints import load_into, load_metadata, load_state_dict, torch_archive
from repair_kernels.errors import CheckpointError


class Mode(enum.Enum):
    """An option of a training script."""

    FAST = 1


@dataclasses.dataclass
class Config:
    """Options of a training script."""

    lr: float = 0.1
    parts: tuple = (1, 2)


class Frozen(tuple):
    """An object that is made with arguments by name."""

    def __new__(cls, *, n: int = 0):
        return super().__new__(cls, (n,))

    def __getnewargs_ex__(self) -> tuple:
        return (), {"n": 1}


OBJECTS = {
    "namespace": argparse.Namespace(lr=0.1, nested=argparse.Namespace(depth=20)),
    "path": Path("runs") / "first",
    "numpy scalar": np.float64(0.93),
    "numpy array": np.arange(5),
    "class": nn.Linear,
    "module": nn.Linear(2, 2),
    "dataclass": Config(),
    "enum": Mode.FAST,
    "frozen set": frozenset({1, 2}),
    "made by name": Frozen(n=1),
    "type of number": {torch.float32: np.dtype("float32")},
}


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def written(folder: Path, contents: object, **options: int) -> Path:
    torch.save(contents, folder / "x.pt", **options)
    return folder / "x.pt"


def assert_same(loaded: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    assert list(loaded) == list(state)
    for name, tensor in state.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(loaded[name], tensor)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", OBJECTS)
def test_a_state_dict_beside_other_objects_is_read(tmp_path, name, protocol) -> None:
    state = network().state_dict()
    contents = {"epoch": 3, "options": OBJECTS[name], "state_dict": state}
    loaded = load_state_dict(written(tmp_path, contents, pickle_protocol=protocol))
    assert_same(loaded, state)
    assert loaded._metadata == state._metadata  # type: ignore[attr-defined]
    load_into(network(), loaded, name="network a")


@pytest.mark.parametrize("dtype", torch_archive.STORAGES.values(), ids=str)
def test_tensors_of_every_type_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {"x": torch.arange(-3, 3).to(dtype), "empty": torch.empty(0, 2, dtype=dtype)}
    state["number"] = state["x"][1]
    assert_same(load_state_dict(written(tmp_path, {"model": state, **FOREIGN})), state)


def test_views_and_parameters_are_read(tmp_path: Path) -> None:
    base = torch.randn(7, 4)
    kernel = torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last)
    marked = nn.Parameter(torch.ones(3))
    marked.decay = False  # type: ignore[attr-defined]
    state = {
        "turned": base.T,
        "part": base[2:5, 1:3],
        "steps": base[::3],
        "spread": torch.ones(1).expand(5),
        "kernel": kernel,
        "parameter": nn.Parameter(base.clone()),
        "marked": marked,
    }
    loaded = load_state_dict(written(tmp_path, {"model": defaultdict(list, state), **FOREIGN}))
    assert_same(loaded, {name: tensor.detach() for name, tensor in state.items()})
    assert loaded["kernel"].stride() == kernel.stride()
    assert not any(tensor.requires_grad for tensor in loaded.values())


def test_tensors_that_share_memory_share_it_when_read(tmp_path: Path) -> None:
    weight = torch.randn(4, 3)
    state = {"encoder.weight": weight, "decoder.weight": weight, "row": weight[1]}
    loaded = load_state_dict(written(tmp_path, {"model": state, **FOREIGN}))
    places = {tensor.untyped_storage().data_ptr() for tensor in loaded.values()}
    assert len(places) == 1
    assert_same(loaded, state)


def test_nestings_and_prefixes_are_found_as_in_other_files(tmp_path: Path) -> None:
    wrapped = nn.DataParallel(network())
    contents = {"model": wrapped.state_dict(), "ema": {"x": torch.ones(1)}, **FOREIGN}
    path = written(tmp_path, contents)
    with pytest.raises(CheckpointError, match=r"holds `model` \(9 tensors\), `ema` \(1 tensors\)"):
        load_state_dict(path)
    assert list(load_state_dict(path, key="model")) == list(network().state_dict())


def test_a_state_dict_that_holds_another_object_is_refused_by_its_name(tmp_path: Path) -> None:
    path = written(tmp_path, {"weight": torch.ones(1), "options": argparse.Namespace()})
    match = "its entry 'options' is of type argparse.Namespace; save what `model.state_dict"
    with pytest.raises(CheckpointError, match=match):
        load_state_dict(path)


def test_a_tensor_that_is_not_of_numbers_in_a_row_is_refused_by_its_kind(tmp_path: Path) -> None:
    state = {"weight": torch.ones(1), "mask": torch.eye(3).to_sparse()}
    with pytest.raises(CheckpointError, match="'mask' is of type torch._utils._rebuild_sparse_ten"):
        load_state_dict(written(tmp_path, {**FOREIGN, "model": state}))


@pytest.mark.parametrize("contents", [network(), {"model": network()}, argparse.Namespace()])
def test_a_network_that_was_saved_whole_is_refused(tmp_path: Path, contents: object) -> None:
    match = r"to hold tensors only, but it holds Python objects \(\S+\), .* save the state dict"
    with pytest.raises(CheckpointError, match=match):
        load_state_dict(written(tmp_path, contents))


def test_a_file_of_before_pytorch_1_6_with_other_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    contents = {"model": network().state_dict(), **FOREIGN}
    torch.save(contents, path, _use_new_zipfile_serialization=False)
    with pytest.raises(
        CheckpointError, match=r"Python objects \(argparse.Namespace\), which could"
    ):
        load_state_dict(path)


def test_notes_are_read_beside_other_objects(tmp_path: Path) -> None:
    state = OrderedDict(weight=torch.ones(1))
    state._metadata = {"repair_kernels.metadata": {"alpha": "0.5"}, "": {"at": Path()}}  # type: ignore[attr-defined]
    assert load_metadata(written(tmp_path, state)) == {"alpha": "0.5"}


class Hostile:
    """A pickle of it makes a folder when it is loaded as ordinary pickles are."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.proof),)


def test_code_beside_a_state_dict_never_runs(tmp_path: Path) -> None:
    contents = {"model": {"x": torch.ones(2)}, "options": Hostile(tmp_path / "proof")}
    assert_same(load_state_dict(written(tmp_path, contents)), {"x": torch.ones(2)})
    assert not (tmp_path / "proof").exists()


def test_what_is_not_asked_for_is_not_read(tmp_path: Path, monkeypatch) -> None:
    read = []
    storage = torch_archive._Archive.storage
    monkeypatch.setattr(
        torch_archive._Archive,
        "storage",
        lambda held, key: (read.append(key), storage(held, key))[1],
    )
    optimizer = {"state": {0: {"momentum": torch.ones(9)}}}
    path = written(tmp_path, {"model": {"x": torch.ones(2)}, "optimizer": optimizer, **FOREIGN})
    load_state_dict(path)
    assert len(read) == 1


def test_an_archive_is_opened_once_for_any_number_of_tensors(tmp_path: Path, monkeypatch) -> None:
    opened, counts = zipfile.ZipFile, []

    def count(*given: object) -> zipfile.ZipFile:
        counts[-1] += 1
        return opened(*given)  # type: ignore[arg-type]

    for number in (1, 50):
        path = written(
            tmp_path, {"model": {str(n): torch.ones(n) for n in range(number)}, **FOREIGN}
        )
        counts.append(0)
        with monkeypatch.context() as patch:
            patch.setattr(zipfile, "ZipFile", count)
            assert len(load_state_dict(path)) == number
    assert counts[0] == counts[1]


def lying(folder: Path, *lie: object, **given) -> Path:
    contents = {**FOREIGN, "model": {"weight": Told(*lie)}}  # type: ignore[arg-type]
    (folder / "x.pt").write_bytes(archive(contents, **given))
    return folder / "x.pt"


def test_a_file_made_by_hand_is_read(tmp_path: Path) -> None:
    loaded = load_state_dict(lying(tmp_path, *SOUND, storage=np.arange(6, dtype="f4").tobytes()))
    assert_same(loaded, {"weight": torch.arange(6.0).view(2, 3)})


@pytest.mark.parametrize("name", LIES)
def test_a_tensor_that_lies_about_its_storage_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        CheckpointError, match=r"whole \.pt file, .* \(ValueError: .*; copy or save"
    ):
        load_state_dict(lying(tmp_path, *LIES[name]))


def test_a_tensor_repeats_no_more_than_a_limit(tmp_path: Path, monkeypatch) -> None:
    floats, *_ = SOUND
    monkeypatch.setattr(torch_archive, "LARGEST_REPEATED", 40)
    assert load_state_dict(lying(tmp_path, floats, 0, (10,), (0,)))["weight"].shape == (10,)
    with pytest.raises(CheckpointError, match=r"of shape \(11,\) that repeats its 24 bytes"):
        load_state_dict(lying(tmp_path, floats, 0, (11,), (0,)))


def test_records_must_be_as_pytorch_writes_them(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another byte order than this machine's"):
        load_state_dict(lying(tmp_path, *SOUND, byteorder=b"big"))
    with pytest.raises(CheckpointError, match="archive/data/0 is compressed"):
        load_state_dict(lying(tmp_path, *SOUND, compression=zipfile.ZIP_DEFLATED))


def test_a_damaged_storage_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"model": {"x": torch.full((999,), 7.0)}, **FOREIGN})
    whole = path.read_bytes()
    at = whole.index(np.full(9, 7, dtype="f4").tobytes())
    path.write_bytes(whole[:at] + b"\x55" + whole[at + 1 :])
    with pytest.raises(CheckpointError, match=r"BadZipFile: Bad CRC-32 .*; copy or save it again"):
        load_state_dict(path)
