"""Laws of the statistics of all taps: merge, files that come back bit for bit, and refusals."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import Tensor

from repair_kernels.errors import (
    ArchitectureMismatchError,
    ArgumentError,
    CheckpointError,
    RepairKernelsError,
)
from repair_kernels.moments import PairedMoments
from repair_kernels.statistics.paired_stats import PairedStats
from repair_kernels.statistics.statistics_file import FORMAT
from tests.two_pass import two_pass

NOTHING = PairedStats({}, n_images=0)


def stats_of(n_images: int = 6, seed: int = 0, first: str = "conv") -> PairedStats:
    """Taps of every kind of products, two of them with cross; 4 positions at the first."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return 3 + torch.randn(*shape, generator=generator, dtype=torch.float64)

    taps = {
        first: two_pass(normal(4 * n_images, 3), normal(4 * n_images, 5)),
        "block.add": two_pass(normal(n_images, 2), normal(n_images, 2)),
        "fc": two_pass(normal(n_images, 4), normal(n_images, 4), "none"),
        "proj": two_pass(normal(n_images, 3), normal(n_images, 3), "diagonal"),
        "pool": two_pass(normal(n_images, 3), normal(n_images, 2), "joint"),
    }
    return PairedStats(taps, n_images=n_images)


def assert_bits(ours: PairedStats, theirs: PairedStats) -> None:
    assert list(ours) == list(theirs)
    assert ours.n_images == theirs.n_images
    for tap in ours:
        assert ours[tap].n_samples == theirs[tap].n_samples
        assert ours[tap].products == theirs[tap].products
        for name, value in theirs[tap].tensors.items():
            assert ours[tap].tensors[name].numpy().tobytes() == value.numpy().tobytes()


# --- the mapping ---------------------------------------------------------------------------------


def test_taps_keep_their_order_and_cannot_be_changed() -> None:
    source = {"z": PairedMoments.empty(1, 1), "a": PairedMoments.empty(1, 1)}
    stats = PairedStats(source, n_images=0)
    source.clear()
    assert list(stats) == ["z", "a"]
    assert "z" in stats
    assert "q" not in stats
    assert stats.get("q") is None
    with pytest.raises(TypeError, match="does not support item assignment"):
        stats["z"] = stats["a"]  # type: ignore[index]


def test_an_unknown_tap_is_answered_with_the_closest() -> None:
    with pytest.raises(
        RepairKernelsError, match=r"no tap 'blok\.add'.*the closest are 'block\.add'"
    ):
        stats_of()["blok.add"]
    with pytest.raises(KeyError, match=r"no tap 'xyz' in these statistics; there are 5\. See"):
        stats_of()["xyz"]


def test_dead_counts_the_channels_of_each_network() -> None:
    a = torch.randn(8, 3, dtype=torch.float64)
    b = torch.randn(8, 2, dtype=torch.float64)
    a[:, 1:], b[:, 0] = 2.0, -1.0
    stats = PairedStats({"conv": two_pass(a, b)}, n_images=8)
    assert stats.dead == {"conv": (2, 1)}
    assert stats.dead["conv"].a == 2


def test_repr_lists_taps_with_their_sizes() -> None:
    assert repr(stats_of(n_images=1000)).splitlines() == [
        "PairedStats(1,000 images, 5 taps)",
        "  conv             3 x 5  n = 4,000  cross",
        "  block.add        2 x 2  n = 1,000  cross",
        "  fc               4 x 4  n = 1,000",
        "  proj             3 x 3  n = 1,000  diagonal",
        "  pool             3 x 2  n = 1,000  joint",
    ]
    many = PairedStats({f"t{i}": PairedMoments.empty(1, 1) for i in range(10)}, n_images=0)
    assert repr(many).endswith("... and 2 more")
    assert repr(NOTHING) == "PairedStats(0 images, 0 taps)"


def test_permuted_b_reorders_the_taps_named_and_no_other() -> None:
    stats = stats_of()
    permuted = stats.permuted_b({"conv": [4, 3, 2, 1, 0]})
    assert torch.equal(permuted["conv"].corr, stats["conv"].corr.flip(1))
    assert permuted["fc"] is stats["fc"]
    assert permuted.n_images == stats.n_images
    with pytest.raises(ArgumentError, match="no tap 'cnv'"):
        stats.permuted_b({"cnv": [0]})
    with pytest.raises(ArgumentError, match="at tap 'fc': `indices` must hold every channel"):
        stats.permuted_b({"fc": [0, 0, 1, 2]})


def test_to_moves_every_tap() -> None:
    moved = stats_of().to("meta")
    assert {moments.m2_b.device.type for moments in moved.values()} == {"meta"}
    assert moved.n_images == 6


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("n_images", [-1, True, 2.0])
def test_counts_that_are_no_counts_are_refused(n_images) -> None:
    with pytest.raises(ArgumentError, match=f"`n_images` must be an int.*got {n_images}"):
        PairedStats({}, n_images=n_images)


@pytest.mark.usefixtures("unchecked_annotations")
def test_values_that_are_no_moments_are_refused() -> None:
    with pytest.raises(ArgumentError, match="must map tap names to PairedMoments; got str -> int"):
        PairedStats({"conv": 3}, n_images=0)  # type: ignore[dict-item]


# --- merge ---------------------------------------------------------------------------------------


def test_merge_merges_every_tap_and_counts_the_images() -> None:
    x, y = stats_of(6, seed=1), stats_of(3, seed=2)
    merged = x.merge(y)
    assert list(merged) == list(x)
    assert merged.n_images == 9
    assert torch.equal(merged["conv"].corr, x["conv"].merge(y["conv"]).corr)


def test_merge_with_nothing_is_identity() -> None:
    stats = stats_of()
    assert stats.merge(NOTHING) is stats
    assert NOTHING.merge(stats) is stats


def test_merge_names_the_tap_that_differs() -> None:
    with pytest.raises(ArchitectureMismatchError, match="only one of the two has 'conv'"):
        stats_of().merge(stats_of(first="stem"))
    other = PairedStats({**stats_of(), "fc": PairedMoments.empty(4, 7)}, n_images=6)
    with pytest.raises(ArchitectureMismatchError, match="at tap 'fc': .*`mean_b`; got 4 and 7"):
        stats_of().merge(other)
    other = PairedStats({**stats_of(), "fc": PairedMoments.empty(4, 4)}, n_images=6)
    with pytest.raises(ArgumentError, match="at tap 'fc': .*the same products of deviations"):
        stats_of().merge(other)


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stats")


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    n_images=st.integers(0, 5),
    first=st.text(st.characters(codec="utf-8"), max_size=8),
)
def test_a_saved_file_comes_back_bit_for_bit(folder, seed, n_images, first) -> None:
    stats = stats_of(n_images, seed, first) if n_images else NOTHING
    stats.save(folder / "x.stats")
    assert_bits(PairedStats.load(folder / "x.stats"), stats)


def test_extreme_values_come_back_bit_for_bit(tmp_path: Path) -> None:
    values = torch.tensor([-0.0, 5e-324, 1.7e308, 1 / 3], dtype=torch.float64)
    strided = torch.outer(values.sign(), values.sign()).t()[:, ::2]
    moments = PairedMoments(2**63 - 1, values, values.abs(), values[:2], values[:2].abs(), strided)
    stats = PairedStats({"": moments}, n_images=2**40)
    stats.save(tmp_path / "stats")
    assert_bits(PairedStats.load(str(tmp_path / "stats")), stats)


def test_equal_statistics_give_equal_files_readable_by_all(tmp_path: Path) -> None:
    for name in ("x.safetensors", "y.pt"):
        stats_of().save(tmp_path / name)
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.pt").read_bytes()
    assert load_file(tmp_path / "y.pt")["conv/cross"].shape == (3, 5)
    assert (tmp_path / "y.pt").stat().st_mode & 0o077 == _mode_of_new_file(tmp_path) & 0o077


def _mode_of_new_file(folder: Path) -> int:
    (folder / "plain").touch()
    return (folder / "plain").stat().st_mode


def test_a_loaded_value_outlives_its_file(tmp_path: Path) -> None:
    stats_of().save(tmp_path / "x")
    loaded = PairedStats.load(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"")
    assert_bits(loaded, stats_of())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    stats_of().save(tmp_path / "x")

    def full(self: Path, data: bytes) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(CheckpointError, match="cannot write statistics to .*No space left"):
            stats_of(seed=5).save(tmp_path / "x")
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert_bits(PairedStats.load(tmp_path / "x"), stats_of())


def test_a_folder_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"to '.*/absent/x': No such file or directory; name a"
    ):
        stats_of().save(tmp_path / "absent" / "x")
    with pytest.raises(
        CheckpointError, match="statistics file at '.*/x', but none is there; check"
    ):
        PairedStats.load(tmp_path / "x")
    with pytest.raises(CheckpointError, match="expected a statistics file at"):
        PairedStats.load(tmp_path)


def content_of(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Take a statistics file apart: what its metadata says, and its tensors."""
    stats_of().save(path)
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    tensors = {name: torch.from_numpy(value) for name, value in load_file(path).items()}
    return json.loads(header["__metadata__"][FORMAT]), tensors


def rename_tap(content: dict, tensors: dict) -> None:
    content["taps"]["stem"] = content["taps"].pop("conv")


def poison(name: str, value: float) -> Callable[[dict, dict], None]:
    return lambda content, tensors: tensors[name].view(-1).__setitem__(0, value)


def replace_tensor(name: str, value: Tensor) -> Callable[[dict, dict], None]:
    return lambda content, tensors: tensors.update({name: value})


@pytest.fixture
def _unchecked_annotations() -> Iterator[None]:
    """Let arguments of wrong types through to the package's own checks, as outside of the tests."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_unchecked_annotations")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c, t: c.update(version=3), "expected format version 1 or 2, got 3"),
        (lambda c, t: c.update(version=True), "expected format version 1 or 2, got True"),
        (lambda c, t: c.pop("version"), "expected format version 1 or 2, got None"),
        (lambda c, t: c.update(taps=[1]), r"expected taps with their sample counts, got \[1\]"),
        (lambda c, t: c.update(n_images="many"), "`n_images` must be an int"),
        (lambda c, t: c.pop("n_images"), "`n_images` must be an int"),
        (lambda c, t: c["taps"].update(fc=-1), "tap 'fc' has -1 for its number of samples"),
        (lambda c, t: c["taps"].update(fc=10**400), "for its number of samples"),
        (lambda c, t: c["taps"].update(fc="6"), "tap 'fc' has '6' for its number of samples"),
        (lambda c, t: c["taps"].update(fc=True), "`n_samples` must be an int"),
        (lambda c, t: c.pop("sha256"), "expected the SHA-256 of what it holds, got none"),
        (poison("conv/cross", 1.0), r"what it holds is not .* \(its SHA-256 differs\); copy it"),
        (lambda c, t: c["taps"].update(fc=5), "its SHA-256 differs"),
        (lambda c, t: c.update(fingerprint=[1]), r"expected a fingerprint with .*, got \[1\]"),
        (rename_tap, "`mean_a` of tap 'stem' is missing"),
        (lambda c, t: t.pop("fc/m2_b"), "`m2_b` of tap 'fc' is missing"),
        (lambda c, t: t.update(x=torch.ones(1)), "holds the tensor 'x', which is of no tap"),
        (poison("conv/cross", float("nan")), "`cross` of tap 'conv' must be finite, and"),
        (poison("conv/mean_b", float("inf")), "`mean_b` of tap 'conv' must be finite, and"),
        (poison("conv/m2_a", -1.0), "`m2_a` of tap 'conv' must be finite and not negative"),
        (replace_tensor("fc/m2_a", torch.ones(4)), "`m2_a` must be a float64 tensor"),
        (replace_tensor("fc/m2_a", torch.ones(3).double()), r"`m2_a` must be .* shape \(4,\)"),
        (replace_tensor("conv/cross", torch.ones(5, 3).double()), r"`cross` must be .* \(3, 5\)"),
        (lambda c, t: t.pop("pool/within_b"), "must hold .*; got `cross` and `within_a`"),
        (replace_tensor("fc/diagonal", torch.ones(3).double()), r"`diagonal` must be .* \(4,\)"),
        (poison("pool/within_a", float("nan")), "`within_a` of tap 'pool' must be finite, and"),
    ],
)
def test_a_statistics_file_that_was_tampered_with_is_refused(tmp_path, damage, message) -> None:
    content, tensors = content_of(tmp_path / "sound")
    damage(content, tensors)
    save_file(tensors, tmp_path / "x", metadata={FORMAT: json.dumps(content)})
    with pytest.raises(CheckpointError, match=f"x' holds no valid statistics: .*{message}"):
        PairedStats.load(tmp_path / "x")


def test_a_file_of_version_1_is_read(tmp_path: Path) -> None:
    content, tensors = content_of(tmp_path / "sound")
    old = {"version": 1, "n_images": content["n_images"], "taps": content["taps"]}
    save_file(tensors, tmp_path / "old", metadata={FORMAT: json.dumps(old)})
    loaded = PairedStats.load(tmp_path / "old")
    assert_bits(loaded, stats_of())
    assert loaded.fingerprint is None


@pytest.mark.parametrize("at", range(0, 8000, 250))
def test_every_changed_bit_is_found(tmp_path: Path, at: int) -> None:
    stats_of().save(tmp_path / "x")
    raw = bytearray((tmp_path / "x").read_bytes())
    raw[at % len(raw)] ^= 1 << at % 8
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(CheckpointError):
        PairedStats.load(tmp_path / "x")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "[" * 100_000, '{"version": 1, "taps": 1e999}']
)
def test_metadata_that_is_no_sound_json_is_refused(tmp_path: Path, text: str) -> None:
    save_file({}, tmp_path / "x", metadata={FORMAT: text})
    with pytest.raises(CheckpointError, match="x' holds no valid statistics"):
        PairedStats.load(tmp_path / "x")


def test_a_checkpoint_of_weights_is_no_statistics_file(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3)}, tmp_path / "x")
    with pytest.raises(CheckpointError, match="A checkpoint of weights is not a statistics file"):
        PairedStats.load(tmp_path / "x")


def test_a_file_of_another_kind_or_cut_off_is_refused_and_not_executed(tmp_path: Path) -> None:
    stats_of().save(tmp_path / "whole")
    torch.save({"weight": torch.ones(3)}, tmp_path / "pickle")
    whole = (tmp_path / "whole").read_bytes()
    for name, content in (
        ("empty", b""),
        ("short", whole[:-8]),
        ("long", whole + b"\0"),
        ("header", whole[:50]),
        ("greedy", struct.pack("<Q", 2**62) + whole[8:]),
        ("text", b"not a statistics file at all"),
        ("pickle", (tmp_path / "pickle").read_bytes()),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}' is no whole safetensors .*; copy it"):
            PairedStats.load(tmp_path / name)
