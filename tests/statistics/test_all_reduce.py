"""Statistics of several processes: real ones, which meet over Gloo and share nothing else."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from repair_kernels.errors import ArgumentError
from repair_kernels.moments import PairedMoments
from repair_kernels.statistics.all_reduce import all_reduce
from repair_kernels.statistics.paired_stats import PairedStats
from tests.processes import WORLD, meet, run_ranks, told

N = 60
# Per case and group size, where one rank's share of the images ends and the next one's starts.
SHARES = {
    "uneven": {1: [0, N], 2: [0, 7, N], 3: [0, 1, 13, N]},
    "first is empty": {1: [0, N], 2: [0, 0, N], 3: [0, 0, 20, N]},
    "all are empty": {1: [0, 0], 2: [0, 0, 0], 3: [0, 0, 0, 0]},
}
# Where each kind of products of deviations shows.
CORRELATIONS = (
    ("conv", "corr"),
    ("add", "corr_diag"),
    ("pool", "corr"),
    ("pool", "corr_a"),
    ("pool", "corr_b"),
)


def stats_of(start: int, stop: int) -> PairedStats:
    """Statistics of some images of one data set, at a tap of each kind of products."""
    if start == stop:
        return PairedStats({}, n_images=0)
    generator = torch.Generator().manual_seed(0)
    x = 1e3 + torch.randn(N, 7, generator=generator, dtype=torch.float64)
    x = x[start:stop] + torch.arange(start, stop)[:, None] / N
    mean, d = x.mean(0), x - x.mean(0)
    m2, cross = (d * d).sum(0), d[:, :3].T @ d[:, 3:]
    a, b = (mean[:3], m2[:3]), (mean[3:], m2[3:])
    n = stop - start
    within = d[:, :3].T @ d[:, :3], d[:, 3:].T @ d[:, 3:]
    taps = {
        "conv": PairedMoments(n, *a, *b, cross),
        "fc": PairedMoments(n, *b, *a),
        "add": PairedMoments(n, *a, *a, diagonal=m2[:3]),
        "pool": PairedMoments(n, *a, *b, cross, None, *within),
    }
    return PairedStats(taps, n_images=n)


def no_samples(tap: str, c_b: int, products: int = 0) -> PairedStats:
    cross, joint = [(True, False), ("diagonal", False), (True, True)][products]
    return PairedStats({tap: PairedMoments.empty(2, c_b, cross=cross, joint=joint)}, n_images=0)


def work(rank: int, folder: Path) -> None:
    """Be one rank: reduce every case over each group, and write down what came of it."""
    meet(rank, folder)
    for size in (1, 2, 3):
        members = list(range(WORLD - size, WORLD))
        group = dist.new_group(members)
        if rank not in members:
            write(folder, f"outside {size}", rank, stats_of(0, 5), group)
            continue
        place = members.index(rank)
        for case, shares in SHARES.items():
            mine = stats_of(*shares[size][place : place + 2])
            mine.save(folder / f"before {rank}")
            all_reduce(mine, group).save(folder / f"{case} {size} {rank}")
            mine.save(folder / f"after {rank}")
            assert (folder / f"before {rank}").read_bytes() == (
                folder / f"after {rank}"
            ).read_bytes()
    write(folder, "taps", rank, no_samples("conv" if rank else "stem", 3), None)
    write(folder, "widths", rank, no_samples("conv", 3 + rank), None)
    write(folder, "products", rank, no_samples("conv", 2, products=rank), None)
    dist.destroy_process_group()


def write(folder: Path, name: str, rank: int, stats: PairedStats, group) -> None:
    (folder / f"{name} {rank}").write_text(told(lambda: all_reduce(stats, group)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(work, folder)
    return folder


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("case", SHARES)
def test_every_rank_has_the_same_bits(folder: Path, case: str, size: int) -> None:
    files = list(folder.glob(f"{case} {size} *"))
    assert len(files) == size
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("case", ["uneven", "first is empty"])
def test_the_result_is_that_of_one_process(folder: Path, case: str, size: int) -> None:
    reduced, alone = PairedStats.load(folder / f"{case} {size} {WORLD - 1}"), stats_of(0, N)
    assert list(reduced) == list(alone)
    assert reduced.n_images == N
    for tap in alone:
        assert reduced[tap].n_samples == N
        assert reduced[tap].products == alone[tap].products
        for name in ("mean_a", "m2_a", "mean_b", "m2_b"):
            ours, theirs = getattr(reduced[tap], name), getattr(alone[tap], name)
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    for tap, name in CORRELATIONS:
        ours, theirs = getattr(reduced[tap], name), getattr(alone[tap], name)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_that_saw_nothing_have_nothing(folder: Path, size: int) -> None:
    reduced = PairedStats.load(folder / f"all are empty {size} {WORLD - 1}")
    assert (len(reduced), reduced.n_images) == (0, 0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("taps", "ArchitectureMismatchError: all ranks must record the same taps"),
        ("widths", "at tap 'conv' they have [\"(2, 3, 'cross')\", \"(2, 4, 'cross')\", "),
        ("products", "at tap 'conv' they have [\"(2, 2, 'cross')\", \"(2, 2, 'diagonal')\", "),
    ],
)
def test_ranks_that_differ_all_raise_the_same_error(folder: Path, name: str, words: str) -> None:
    told = {(folder / f"{name} {rank}").read_text() for rank in range(WORLD)}
    assert len(told) == 1
    assert words in told.pop()


@pytest.mark.parametrize(("size", "rank"), [(1, 0), (1, 1), (2, 0)])
def test_a_process_outside_the_group_is_told_so(folder: Path, size: int, rank: int) -> None:
    said = (folder / f"outside {size} {rank}").read_text()
    assert "ArgumentError: this process is not in `process_group`" in said


def test_without_a_process_group_there_is_nothing_to_reduce() -> None:
    with pytest.raises(ArgumentError, match="needs a torch.distributed process group, and none"):
        all_reduce(stats_of(0, 5))
