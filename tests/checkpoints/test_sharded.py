"""Checkpoints in several files: read whole by their index, or by the folder that holds it."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from repair_kernels.checkpoints import load_metadata, load_state_dict, save_state_dict, sha256_of
from repair_kernels.errors import CheckpointError

STATE = {"b": torch.ones(3), "a": torch.arange(4), "c": torch.zeros(2, 2)}


def sharded(folder: Path, suffix: str = ".safetensors") -> tuple[Path, dict[str, str]]:
    """Write a state dict in two shards and an index."""
    shards = {f"model-0000{i}-of-00002{suffix}": names for i, names in ((1, "ab"), (2, "c"))}
    for shard, names in shards.items():
        save_state_dict({name: STATE[name] for name in names}, folder / shard)
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    index = folder / f"model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 60}, "weight_map": weight_map}))
    return index, weight_map


def assert_whole(loaded: dict[str, Tensor]) -> None:
    assert sorted(loaded) == sorted(STATE)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in STATE.items())


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_all_shards_are_read_by_index_and_by_folder(tmp_path: Path, suffix: str) -> None:
    index, _ = sharded(tmp_path, suffix)
    assert_whole(load_state_dict(index))
    assert_whole(load_state_dict(tmp_path))
    assert load_metadata(tmp_path) == {}


def test_a_folder_with_one_checkpoint_is_that_checkpoint(tmp_path: Path) -> None:
    save_state_dict(STATE, tmp_path / "model.safetensors", metadata={"made": "here"})
    (tmp_path / "config.json").write_text("{}")
    assert_whole(load_state_dict(tmp_path))
    assert load_metadata(tmp_path) == {"made": "here"}


def test_a_folder_with_several_is_ambiguous(tmp_path: Path) -> None:
    for name in ("x.pt", "y.pt"):
        save_state_dict(STATE, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"but it holds x\.pt, y\.pt; name a file in it"):
        load_state_dict(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index, _ = sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    match = r"expected the shard .*model-00002.*, as .* says, but it is not there; copy all shards"
    with pytest.raises(CheckpointError, match=match):
        load_state_dict(index)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    index, weight_map = sharded(tmp_path)
    index.write_text(json.dumps({"weight_map": {**weight_map, "d": weight_map["c"]}}))
    with pytest.raises(CheckpointError, match=r"to hold `d`, as .* says, but it does not; copy"):
        load_state_dict(index)


@pytest.mark.parametrize("elsewhere", ["../x.pt", "/etc/passwd", ""])
def test_shards_lie_beside_their_index(tmp_path: Path, elsewhere: str) -> None:
    index, _ = sharded(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": elsewhere}}))
    with pytest.raises(CheckpointError, match="to name files beside it, but it names"):
        load_state_dict(index)


@pytest.mark.parametrize("content", ["{}", "[]", '{"weight_map": {"a": 3}}'])
def test_what_is_no_index_is_refused(tmp_path: Path, content: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(
        CheckpointError, match="under 'weight_map', but it does not; name the index"
    ):
        load_state_dict(index)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, '{"weight_map": {"a": "x.json"}}'])
def test_a_broken_index_is_refused(tmp_path: Path, content: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(CheckpointError, match="expected .*json"):
        load_state_dict(index)


def test_an_index_that_names_itself_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": index.name}}))
    with pytest.raises(CheckpointError, match="suffixes"):
        load_state_dict(index)


def test_the_hash_of_an_index_is_of_its_shards_and_of_nothing_beside_them(tmp_path: Path) -> None:
    index, _ = sharded(tmp_path)
    before = sha256_of(index)
    (tmp_path / "model-00003-of-00003.safetensors").write_bytes(b"of another checkpoint")
    assert sha256_of(index) == before
    for shard in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        state = load_state_dict(tmp_path / shard)
        save_state_dict({name: x + 1 for name, x in state.items()}, tmp_path / shard)
        assert sha256_of(index) != before
        save_state_dict(state, tmp_path / shard)
        assert sha256_of(index) == before
