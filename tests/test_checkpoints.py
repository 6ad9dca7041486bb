"""Checkpoints: what is written is read again, and nothing in a file is ever run."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from repair_kernels import checkpoints
from repair_kernels.checkpoints import check_finite, load_into, load_state_dict, save_state_dict
from repair_kernels.errors import ArchitectureMismatchError, CheckpointError, NonFiniteWeightError

SUFFIXES = [".pt", ".pth", ".th", ".bin", ".safetensors"]


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def assert_same(loaded: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    assert list(loaded) == list(state)
    for key in state:
        torch.testing.assert_close(loaded[key], state[key], rtol=0, atol=0)


class Versioned(nn.Linear):
    """A module that refuses a state dict of an older version."""

    _version = 3

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *others) -> None:
        assert local_metadata.get("version") == 3
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_saved_is_loaded(tmp_path: Path, suffix: str) -> None:
    state = network().state_dict()
    save_state_dict(state, tmp_path / f"x{suffix}")
    loaded = load_state_dict(tmp_path / f"x{suffix}")
    assert sorted(loaded) == sorted(state)
    assert_same({key: loaded[key] for key in state}, state)
    assert os.listdir(tmp_path) == [f"x{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_checkpoint_has_the_usual_permissions(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "usual").touch()
    save_state_dict({"x": torch.ones(1)}, tmp_path / f"x{suffix}")
    assert (tmp_path / f"x{suffix}").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_types_are_kept(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    state = {"x": torch.arange(3).to(dtype), "empty": torch.empty(0, 2, dtype=dtype)}
    save_state_dict(state, tmp_path / f"x{suffix}")
    assert load_state_dict(tmp_path / f"x{suffix}")["x"].dtype == dtype


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_shared_and_strided_tensors_are_written_on_their_own(tmp_path: Path, suffix: str) -> None:
    base = torch.randn(1000, 4)
    state = {
        "whole": base,
        "tied": base,
        "view": base[:2],
        "turned": base[:3].T,
        "spread": torch.ones(1).expand(5),
    }
    save_state_dict(state, tmp_path / f"x{suffix}")
    loaded = load_state_dict(tmp_path / f"x{suffix}")
    assert_same({key: loaded[key] for key in state}, state)
    assert len({tensor.data_ptr() for tensor in loaded.values()}) == len(state)


def test_a_view_does_not_take_its_base_along(tmp_path: Path) -> None:
    save_state_dict({"view": torch.zeros(100_000)[:2]}, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 10_000


def test_parameters_are_saved_as_plain_tensors(tmp_path: Path) -> None:
    save_state_dict(dict(network().named_parameters()), tmp_path / "x.pt")
    assert not any(tensor.requires_grad for tensor in load_state_dict(tmp_path / "x.pt").values())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_metadata_leaves_the_state_dict_plain(tmp_path: Path, suffix: str) -> None:
    save_state_dict(network().state_dict(), tmp_path / f"x{suffix}", metadata={"recipe": "r"})
    load_into(network(), load_state_dict(tmp_path / f"x{suffix}"), name="network a")


def test_metadata_is_in_the_file(tmp_path: Path) -> None:
    save_state_dict({"x": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"recipe": "r"})
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"recipe": "r"}
    save_state_dict({"x": torch.ones(1)}, tmp_path / "x.pt", metadata={"recipe": "r"})
    plain = torch.load(tmp_path / "x.pt", weights_only=True)
    assert plain._metadata[checkpoints.METADATA_KEY] == {"recipe": "r"}


@pytest.mark.parametrize("nesting", [*checkpoints.NESTINGS, "deep"])
def test_nested_state_dicts_are_unwrapped(tmp_path: Path, nesting: str) -> None:
    state = network().state_dict()
    inner = {"model": {"state_dict": state}} if nesting == "deep" else {nesting: state}
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, **inner}, tmp_path / "x.pt")
    assert_same(load_state_dict(tmp_path / "x.pt"), state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_removed(tmp_path: Path, prefix: str) -> None:
    state = network().state_dict()
    torch.save({prefix + key: tensor for key, tensor in state.items()}, tmp_path / "x.pt")
    assert_same(load_state_dict(tmp_path / "x.pt"), state)


def test_a_prefix_that_not_every_name_has_stays(tmp_path: Path) -> None:
    state = {"module.x": torch.ones(1), "y": torch.ones(1)}
    torch.save(state, tmp_path / "x.pt")
    assert_same(load_state_dict(tmp_path / "x.pt"), state)


def test_versions_lose_the_prefix_of_a_wrapper_too(tmp_path: Path) -> None:
    wrapped = nn.DataParallel(nn.Sequential(Versioned(2, 2)))
    save_state_dict(wrapped.state_dict(), tmp_path / "x.pt")
    load_into(nn.Sequential(Versioned(2, 2)), load_state_dict(tmp_path / "x.pt"), name="network a")


def test_the_old_pytorch_format_is_read(tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert_same(load_state_dict(tmp_path / "x.pth"), state)


def test_numpy_archives_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", weight=np.ones((2, 3), np.float32), count=np.int64(4))
    loaded = load_state_dict(tmp_path / "x.npz")
    assert loaded["weight"].shape == (2, 3)
    assert loaded["count"].item() == 4


def test_tensors_lie_on_the_device_asked_for(tmp_path: Path) -> None:
    save_state_dict({"x": torch.ones(1)}, tmp_path / "x.pt")
    assert load_state_dict(tmp_path / "x.pt", device="meta")["x"].is_meta


class Hostile:
    """A pickle of it makes a file when it is loaded as ordinary pickles are."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return (os.mkdir, (str(self.proof),))


@pytest.mark.parametrize("form", ["torch", "old torch", "pickle", "numpy"])
def test_code_in_a_file_never_runs(tmp_path: Path, form: str) -> None:
    path, proof = tmp_path / ("x.npz" if form == "numpy" else "x.pt"), tmp_path / "proof"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"x": Hostile(proof)}))
    elif form == "numpy":
        np.savez(path, x=np.array([Hostile(proof)], dtype=object))
    else:
        new = form == "torch"
        torch.save({"x": Hostile(proof)}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match=r"expected .*x\.(pt|npz)"):
        load_state_dict(path)
    assert not proof.exists()


def test_the_refused_object_is_named(tmp_path: Path) -> None:
    torch.save({"x": Hostile(tmp_path / "proof")}, tmp_path / "x.pt")
    with pytest.raises(
        CheckpointError,
        match=r"to hold tensors only, but it holds Python objects \(posix.mkdir\), which could run "
        r"code and are never loaded; save the state dict alone",
    ):
        load_state_dict(tmp_path / "x.pt")


@pytest.mark.filterwarnings("ignore")
def test_nobody_is_advised_to_run_the_code_of_a_file(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="TorchScript archives") as caught:
        load_state_dict(tmp_path / "x.pt")
    assert "False" not in str(caught.value)


def test_a_mapping_nested_in_itself_ends(tmp_path: Path) -> None:
    loop: dict = {}
    loop["model"] = loop
    torch.save(loop, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="its entry 'model' is of type dict"):
        load_state_dict(tmp_path / "x.pt")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.pt, but nothing is there; check the path"):
        load_state_dict(tmp_path / "x.pt")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    match = "checkpoint in the folder .*but it holds none of these; name a file in it"
    with pytest.raises(CheckpointError, match=match):
        load_state_dict(tmp_path)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".npz"])
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").touch()
    with pytest.raises(CheckpointError, match="the file is empty; copy or save it again"):
        load_state_dict(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("name", ["x.txt", "x", "x.PT.gz"])
def test_an_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hello")
    match = r"suffixes \.pt, .*\.npz, but got .*; rename the file by its format"
    with pytest.raises(CheckpointError, match=match):
        load_state_dict(tmp_path / name)
    match = r"to write with one of the suffixes \.pt, .*\.safetensors, but got"
    with pytest.raises(CheckpointError, match=match):
        save_state_dict({"x": torch.ones(1)}, tmp_path / name)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".npz"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "one byte"])
def test_a_broken_file_is_refused(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        np.savez(path, weight=np.ones(5000))
    else:
        save_state_dict({"weight": torch.ones(5000)}, path)
    whole = path.read_bytes()
    broken = {"truncated": whole[: len(whole) // 2], "garbage": b"\x9c" * 300, "one byte": b"P"}
    path.write_bytes(broken[damage])
    match = rf"expected .* to be a whole \{suffix} file, but reading it failed \(.+\); copy or save"
    with pytest.raises(CheckpointError, match=match):
        load_state_dict(path)


@pytest.mark.parametrize("contents", [[torch.ones(1)], torch.ones(2), 7, None])
def test_what_is_no_mapping_is_refused(tmp_path: Path, contents: object) -> None:
    torch.save(contents, tmp_path / "x.pt")
    match = rf"but it holds a value of type {type(contents).__name__}; save what `model"
    with pytest.raises(CheckpointError, match=match):
        load_state_dict(tmp_path / "x.pt")


@pytest.mark.parametrize("nesting", [None, "state_dict"])
def test_a_mapping_of_other_things_is_refused(tmp_path: Path, nesting: str | None) -> None:
    contents = {"weight": torch.ones(1), "epoch": 7}
    torch.save({nesting: contents} if nesting else contents, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="its entry 'epoch' is of type int; save what"):
        load_state_dict(tmp_path / "x.pt")


def test_names_must_be_strings(tmp_path: Path) -> None:
    torch.save({3: torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="its entry 3 is of type Tensor"):
        load_state_dict(tmp_path / "x.pt")


def test_an_empty_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="but it is empty"):
        load_state_dict(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="expected `state` to hold .* but it is empty"):
        save_state_dict({}, tmp_path / "y.pt")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state_dict({"x": torch.ones(1)}, tmp_path / "x.pt")

    def half(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(CheckpointError, match="that failed: No space left .*; check that its fold"):
        save_state_dict({"x": torch.zeros(1)}, tmp_path / "x.pt")
    assert os.listdir(tmp_path) == ["x.pt"]
    assert load_state_dict(tmp_path / "x.pt")["x"].item() == 1


def test_saving_into_an_absent_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="that failed: .*; check that its folder exists"):
        save_state_dict({"x": torch.ones(1)}, tmp_path / "absent" / "x.pt")


def test_loading_into_a_model_copies_every_entry() -> None:
    state, model = network().state_dict(), network()
    load_into(model, state, name="network a")
    assert_same(dict(model.state_dict()), dict(state))


def test_missing_batch_counters_are_tolerated() -> None:
    state = network().state_dict()
    del state["1.num_batches_tracked"]
    model = network()
    model[1].num_batches_tracked.fill_(5)
    load_into(model, dict(state), name="network a")
    assert model[1].num_batches_tracked == 5


def test_the_second_name_of_a_tied_tensor_may_be_missing() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    load_into(model, {"0.weight": torch.ones(2, 2)}, name="network a")
    assert model[1].weight.eq(1).all()


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_versions_of_modules_are_kept(tmp_path: Path, suffix: str, plain: bool) -> None:
    state = nn.Sequential(Versioned(2, 2)).state_dict()
    save_state_dict(
        dict(state) if plain else state, tmp_path / f"x{suffix}", metadata={"recipe": "r"}
    )
    loaded = load_state_dict(tmp_path / f"x{suffix}")
    load_into(nn.Sequential(Versioned(2, 2)), loaded, name="network a")


def test_an_unusable_record_of_versions_is_ignored(tmp_path: Path) -> None:
    state = OrderedDict(nn.Sequential(Versioned(2, 2)).state_dict())
    state._metadata = 3
    torch.save(state, tmp_path / "x.pt")
    load_into(nn.Sequential(Versioned(2, 2)), load_state_dict(tmp_path / "x.pt"), name="network a")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("0.weight"), r"network b's .*it lacks: 0\.weight; build the model"),
        (lambda s: s.update(extra=s["0.bias"]), r"the model has no: extra;"),
        (
            lambda s: s.update({"0.weight": torch.ones(8, 3, 3, 3)}),
            r"shapes differ for: 0\.weight \(\(4, 3, 3, 3\) in the model, \(8, 3, 3, 3\) in the st",
        ),
        (
            lambda s: s.update({"0.bias": torch.ones(4, dtype=torch.int8)}),
            r"types differ for: 0\.bias \(torch\.float32 in the model, torch\.int8 in the state d",
        ),
        (lambda s: s.clear(), r"it lacks: 0\.weight, .*, 1\.running_mean and 3 more;"),
    ],
)
def test_another_architecture_is_refused_by_name(change, match: str) -> None:
    model, state = network(), network().state_dict()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    change(state)
    with pytest.raises(ArchitectureMismatchError, match=match):
        load_into(model, state, name="network b")
    assert_same(dict(model.state_dict()), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float) -> None:
    model, state = network(), network().state_dict()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state["1.running_var"][2] = value
    match = r"`1\.running_var` of network a holds NaN or infinity in 1 of its 4 values; take a"
    with pytest.raises(NonFiniteWeightError, match=match):
        load_into(model, state, name="network a")
    assert_same(dict(model.state_dict()), before)


def test_whole_numbers_are_finite() -> None:
    check_finite({"count": torch.tensor(3), "mask": torch.tensor([True])}, name="network a")
