"""Folders of torch.distributed.checkpoint: read as they were saved, and nothing in them is run."""

import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import metadata as dcp_metadata
from torch.distributed.checkpoint.filesystem import _StorageInfo

from repair_kernels.checkpoints import load_into, load_metadata, load_state_dict, sha256_of
from repair_kernels.checkpoints.inert_pickle import Record, read_pickle
from repair_kernels.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[nn.Module, Path]:
    """Save a network with its optimiser, as training scripts do."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    contents = {"model": model.state_dict(), "optim": optimizer.state_dict(), "epoch": 3}
    dcp.save(contents, checkpoint_id=tmp_path / "dcp")
    return model, tmp_path / "dcp"


def edited(folder: Path, change) -> Path:
    """Change a folder's metadata, as PyTorch's classes hold them."""
    held = pickle.loads((folder / ".metadata").read_bytes())
    change(held)
    (folder / ".metadata").write_bytes(pickle.dumps(held))
    return folder


def test_the_model_of_a_training_checkpoint_is_found(saved) -> None:
    model, folder = saved
    loaded = load_state_dict(folder)
    assert list(loaded) == list(model.state_dict())
    load_into(network(), loaded, name="network a")
    assert all(torch.equal(loaded[name], t) for name, t in model.state_dict().items())
    assert load_metadata(folder) == {}
    assert sha256_of(folder) != sha256_of(folder / ".metadata")


def test_a_plain_state_dict_is_read(tmp_path: Path) -> None:
    state = network().state_dict()
    dcp.save(dict(state), checkpoint_id=tmp_path)
    loaded = load_state_dict(tmp_path)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_another_part_is_read_by_its_key(saved) -> None:
    _, folder = saved
    assert "exp_avg" in load_state_dict(folder, key="optim.state.0")


def test_only_what_is_asked_for_is_read(saved) -> None:
    _, folder = saved

    def break_the_optimiser(held) -> None:
        for index, info in held.storage_data.items():
            if index.fqn.startswith("optim.state"):
                info.length = 4

    load_state_dict(edited(folder, break_the_optimiser))


def shards(folder: Path, *, second: int = 2) -> Path:
    """Save a 4 x 3 tensor in two chunks of rows, as two ranks would."""
    whole, offsets = torch.arange(12.0).reshape(4, 3), (0, second)
    chunks, storage = [], {}
    for rank, offset in enumerate(offsets):
        path, part = folder / f"__{rank}_0.distcp", whole[offset : offset + 2].clone()
        torch.save(part, path)
        place = torch.Size([offset, 0])
        chunks.append(dcp_metadata.ChunkStorageMetadata(place, part.shape))
        index = dcp_metadata.MetadataIndex("w", place)
        storage[index] = _StorageInfo(path.name, 0, path.stat().st_size)
    properties = dcp_metadata.TensorProperties(dtype=torch.float32)
    entry = dcp_metadata.TensorStorageMetadata(properties, whole.shape, chunks)
    held = dcp_metadata.Metadata({"w": entry}, {"w": ("w",)}, storage)
    (folder / ".metadata").write_bytes(pickle.dumps(held))
    return folder


def test_chunks_of_several_ranks_are_joined(tmp_path: Path) -> None:
    assert torch.equal(load_state_dict(shards(tmp_path))["w"], torch.arange(12.0).reshape(4, 3))


def test_chunks_that_overlap_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the chunks of 'w' overlap"):
        load_state_dict(shards(tmp_path, second=1))


class Hostile:
    """A pickle of it makes a folder when it is loaded as ordinary pickles are."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        import os

        return (os.mkdir, (str(self.proof),))


@pytest.mark.parametrize("place", ["all of it", "a value", "planner data"])
def test_code_in_the_metadata_never_runs(saved, tmp_path: Path, place: str) -> None:
    _, folder = saved
    hostile = Hostile(tmp_path / "proof")
    if place == "all of it":
        (folder / ".metadata").write_bytes(pickle.dumps(hostile))
    else:
        held = pickle.loads((folder / ".metadata").read_bytes())
        where = held.state_dict_metadata if place == "a value" else held.planner_data
        where["model.0.weight"] = hostile
        (folder / ".metadata").write_bytes(pickle.dumps(held))
    with pytest.raises(CheckpointError, match="expected .*dcp"):
        load_state_dict(folder)
    assert not (tmp_path / "proof").exists()


def test_code_in_a_chunk_never_runs(tmp_path: Path) -> None:
    folder = shards(tmp_path)
    torch.save(Hostile(tmp_path / "proof"), folder / "__1_0.distcp")
    size = (folder / "__1_0.distcp").stat().st_size
    edited(folder, lambda held: [setattr(i, "length", size) for i in _second(held)])
    with pytest.raises(CheckpointError, match=r"Python objects \(posix.mkdir\)"):
        load_state_dict(folder)
    assert not (tmp_path / "proof").exists()


def _second(held) -> list[_StorageInfo]:
    return [info for info in held.storage_data.values() if info.relative_path.startswith("__1")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: setattr(i, "length", 10**9), "is shorter than .metadata says"),
        (lambda i: setattr(i, "offset", -1), "-1 is no size and no offset"),
        (lambda i: setattr(i, "relative_path", "../x"), "to name files beside it, but it names"),
        (lambda i: setattr(i, "relative_path", "absent"), "absent, as .metadata says, but it is n"),
        (lambda i: setattr(i, "transform_descriptors", ["zstd"]), "compressed or encoded; save"),
        (lambda i: setattr(i, "length", 30), "reading it failed"),
    ],
)
def test_metadata_that_do_not_fit_their_files_are_refused(tmp_path: Path, change, said) -> None:
    folder = edited(shards(tmp_path), lambda held: [change(info) for info in _second(held)])
    with pytest.raises(CheckpointError, match=said):
        load_state_dict(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: setattr(e, "size", torch.Size([10**9, 3])), "do not make up a tensor of shape"),
        (lambda e: e.chunks.pop(), "do not make up a tensor"),
        (lambda e: setattr(e.chunks[0], "sizes", torch.Size([1, 6])), "ends outside of it"),
        (lambda e: setattr(e.chunks[0], "offsets", torch.Size([1, 0])), "reading it failed"),
        (lambda e: setattr(e, "chunks", 3), "reading it failed"),
    ],
)
def test_chunks_that_do_not_make_up_their_tensor_are_refused(tmp_path: Path, change, said) -> None:
    folder = edited(shards(tmp_path), lambda held: change(held.state_dict_metadata["w"]))
    with pytest.raises(CheckpointError, match=said):
        load_state_dict(folder)


def test_a_chunk_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    folder = shards(tmp_path)
    huge = (10**9, 3)
    torch.save(torch.ones(1).expand(huge), folder / "__1_0.distcp")

    def claim(held) -> None:
        [info] = _second(held)
        info.length = (folder / "__1_0.distcp").stat().st_size
        entry = held.state_dict_metadata["w"]
        entry.size = torch.Size((10**9 + 2, 3))
        entry.chunks[1].sizes = torch.Size(huge)

    with pytest.raises(CheckpointError, match="holds less than its shape says"):
        load_state_dict(edited(folder, claim))


def test_the_same_bytes_cannot_be_many_tensors(tmp_path: Path) -> None:
    def copied(held) -> None:
        for number in range(50):
            for index, info in list(held.storage_data.items())[:2]:
                held.storage_data[dcp_metadata.MetadataIndex(f"w{number}", index.offset)] = info

    with pytest.raises(CheckpointError, match="is shorter than .metadata says"):
        load_state_dict(edited(shards(tmp_path), copied))


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_plain_values_are_read_as_they_are(protocol: int) -> None:
    plain = {"a": [1, -(2**70), 2.5, None, True], "b": ("ü" * 300, b"x" * 300), "c": [[]], 3: {}}
    assert read_pickle(pickle.dumps(plain, protocol)) == plain


def test_what_would_be_called_is_noted_down(tmp_path: Path) -> None:
    found = read_pickle(pickle.dumps([Hostile(tmp_path / "proof")] * 2))
    assert isinstance(found[0], Record)
    assert (found[0].name, found[0].arguments) == ("posix.mkdir", (str(tmp_path / "proof"),))
    assert found[0] is found[1]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04",
        b"abc",
        b"0.",
        b"t.",
        b"\x80\x04R.",
        b"(s.",
        b"h\x07.",
        b"ibuiltins\nexec\n.",
        b"cos\nsystem\n]R.",
        b"\x80\x04X\xe9\x03\x00\x00" + b"a" * 1001 + b"\x8c\x01b\x93.",
    ],
)
def test_what_is_no_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="pickle|opcode"):
        read_pickle(data)
