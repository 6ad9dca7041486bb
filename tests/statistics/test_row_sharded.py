"""Totals by rows over ranks: what one process gets, and no rank holds a whole matrix on the way."""

import gc
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import repair_kernels as rk
from repair_kernels import ranks
from repair_kernels.errors import ArgumentError, RepairKernelsError
from repair_kernels.graph.network import state_of, trace
from repair_kernels.images import SyntheticImages
from repair_kernels.statistics import memory_plan, row_layout
from repair_kernels.statistics.memory_plan import plan_memory
from repair_kernels.statistics.resuming import Checkpointing
from tests.networks import PLAIN
from tests.processes import WORLD, meet, run_ranks, told

pytestmark = pytest.mark.usefixtures("torch_backend")

N = 30
WIDTHS = (16, 15)
# Where one rank's share of the images ends and the next one's starts.
SHARES = {1: [0, N], 2: [0, 0, N], 3: [0, 0, 11, N]}
FEW_BYTES = 8 * WIDTHS[0] * WORLD * 2
"""Room for two rows of each rank, so that taps are groups of their own and sent in parts."""


def network(seed: int) -> nn.Sequential:
    """A network whose activations lie far from zero; the last layer has fewer channels than ranks.

    In float64, so that what a product's rounding owes to the batch is out of sight.
    """
    torch.manual_seed(seed)
    widths = (4, *WIDTHS, 2)
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(before, after), nn.ReLU()]
    with torch.no_grad():
        layers[0].bias.fill_(1e4)  # type: ignore[operator, union-attr]
    return nn.Sequential(*layers[:-1]).double().eval()


def images(start: int = 0, stop: int = N) -> list[Tensor]:
    """Some images of one set, in batches of four, which drift: no batch is like the first one."""
    drawn = torch.randn(N, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    chosen = (drawn + torch.arange(N)[:, None])[start:stop]
    return list(chosen.split(4)) if len(chosen) else []


def statistics(batches: Any, group: object, totals: str = "ranks", **options) -> rk.PairedStats:
    return rk.compute_stats(
        network(0),
        network(1),
        batches,
        cross="all",
        joint=True,
        process_group=group,
        totals=totals,
        backend="torch",
        **options,
    )


def in_parts(batches: list[Tensor], group: object) -> rk.PairedStats:
    """With buffers that hold a few rows only."""
    whole, row_layout.BUFFER_BYTES = row_layout.BUFFER_BYTES, FEW_BYTES
    try:
        return statistics(batches, group)
    finally:
        row_layout.BUFFER_BYTES = whole


def numbered(batches: list[Tensor], group: Any) -> rk.PairedStats:
    """Of a source's images; every rank has some."""
    source = SyntheticImages(N, 6)
    own = source.indices(group.rank(), group.size(), 5) if group else range(N)
    loader = source.loader(5, start=own.start, stop=own.stop)
    options = {"process_group": group, "totals": "ranks"} if group else {}
    networks = (PLAIN.network(seed) for seed in (0, 1))
    return rk.compute_stats(*networks, loader, backend="torch", **options)


def whole_matrices(seen: set[int], batches: list[Tensor]) -> Iterator[Tensor]:
    """Yield batches, and look after the second one for matrices of a tap's size."""
    gc.collect()
    for number, batch in enumerate(batches):
        yield batch
        if number == 1:
            tensors = [one for one in gc.get_objects() if type(one) is Tensor]
            seen |= {width for width in WIDTHS if any(x.shape == (width, width) for x in tensors)}


def held(batches: list[Tensor], group: object, totals: str) -> list[int]:
    """Return the sizes of the whole matrices that are there between two batches."""
    seen: set[int] = set()
    own = whole_matrices(seen, batches) if batches else []
    statistics(own, group, totals)
    return sorted(seen)


def chosen(batches: list[Tensor], group: Any) -> list[int]:
    """Return what is held if one rank has no room for all totals, and may choose."""
    a, batch = network(0), images()[0]
    graph = trace(a, batch)
    products = dict.fromkeys(graph.taps, "joint")
    plan = plan_memory(
        graph, [state_of(a)] * 2, batch, products, device=batch.device, totals="device"
    )
    true, memory_plan.free_memory = memory_plan.free_memory, lambda place: room
    room = plan.device_bytes - (group.rank() == 1)
    whole, row_layout.BUFFER_BYTES = row_layout.BUFFER_BYTES, FEW_BYTES
    try:
        return held(batches, group, "auto")
    finally:
        memory_plan.free_memory, row_layout.BUFFER_BYTES = true, whole


def interrupted(batches: list[Tensor], group: object) -> None:
    def stream() -> Iterator[Tensor]:
        yield from batches[:2]
        raise OSError("the disk is gone")

    statistics(stream() if len(batches) > 3 else batches, group)


RESULTS: dict[str, Callable] = {
    "rows": statistics,
    "in parts": in_parts,
    "numbered": numbered,
}
SAID: dict[str, Callable] = {
    "by rows": lambda own, group: held(own, group, "ranks"),
    "on the device": lambda own, group: held(own, group, "device"),
    "auto": chosen,
    "interrupted": interrupted,
    "poisoned": lambda own, group: statistics(
        [batch * float("nan") for batch in own] if len(own) > 3 else own, group
    ),
    "other totals": lambda own, group: statistics(own, group, "auto" if own else "ranks"),
    "kept": lambda own, group: statistics(own, group, checkpointing=Checkpointing("x")),
    "compiled": lambda own, group: statistics(own, group, compile=True),
    "without products": lambda own, group: (
        rk.compute_stats(
            network(0), network(1), own, cross=[], taps=["0"], process_group=group, totals="ranks"
        )["0"].products
    ),
}


def work(rank: int, folder: Path) -> None:
    meet(rank, folder)
    ranks.MEETING_SECONDS = 0  # Passes that go in step must not meet at other times as well.
    for size in (1, 2, 3):
        members = list(range(size))
        group = dist.new_group(members)
        if rank not in members:
            continue
        own = images(*SHARES[size][rank : rank + 2])
        for name, call in RESULTS.items():
            if size == 3 or name == "rows":
                (folder / f"{name} {size} {rank}").write_bytes(pickle.dumps(call(own, group)))
    own = images(*SHARES[3][rank : rank + 2])
    for name, call in SAID.items():
        try:
            said = repr(call(own, dist.group.WORLD))
        except (RepairKernelsError, OSError) as error:
            said = f"{type(error).__name__}: {error}"
        (folder / f"{name} {rank}").write_text(said)

    def dies() -> Iterator[Tensor]:
        yield own[0]
        os.kill(os.getpid(), signal.SIGKILL)

    start = time.monotonic()
    said = told(lambda: statistics(dies() if rank == 2 else own, dist.group.WORLD))
    (folder / f"killed {rank}").write_text(said)
    (folder / f"killed {rank} seconds").write_text(str(time.monotonic() - start))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    context = run_ranks(work, folder, join=False)
    for process in context.processes:
        process.join(120)
        assert process.exitcode is not None, "a rank hangs"
    assert [process.exitcode for process in context.processes] == [0, 0, -signal.SIGKILL]
    return folder


def found(folder: Path, name: str, size: int = WORLD) -> list[rk.PairedStats]:
    files = [folder / f"{name} {size} {rank}" for rank in range(size)]
    return [pickle.loads(file.read_bytes()) for file in files]


def said(folder: Path, name: str) -> list[str]:
    return [(folder / f"{name} {rank}").read_text() for rank in range(WORLD)]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_rank_has_the_whole_statistics_of_one_process(folder: Path, size: int) -> None:
    alone = statistics(images(), None, "device")
    for stats in found(folder, "rows", size):
        assert (list(stats), stats.n_images) == (list(alone), N)
        assert stats.fingerprint == alone.fingerprint
        for tap, moments in alone.items():
            assert (stats[tap].n_samples, stats[tap].products) == (N, "joint")
            for name, value in moments.tensors.items():
                scale = float(value.abs().max())
                torch.testing.assert_close(
                    stats[tap].tensors[name], value, rtol=0, atol=1e-10 * scale
                )


def assert_same_bits(ours: rk.PairedStats, theirs: rk.PairedStats) -> None:
    for tap, moments in theirs.items():
        for name, value in moments.tensors.items():
            assert torch.equal(ours[tap].tensors[name], value)


@pytest.mark.parametrize("size", [2, 3])
def test_all_ranks_have_the_same_bits(folder: Path, size: int) -> None:
    first, *others = found(folder, "rows", size)
    for stats in others:
        assert_same_bits(stats, first)


def test_another_run_with_other_buffers_has_the_same_bits(folder: Path) -> None:
    assert_same_bits(found(folder, "in parts")[0], found(folder, "rows")[0])


def test_matrices_within_a_network_are_symmetric_to_the_bit(folder: Path) -> None:
    for moments in found(folder, "rows")[0].values():
        assert torch.equal(moments.within_a, moments.within_a.T)
        assert torch.equal(moments.within_b, moments.within_b.T)


def test_means_far_from_zero_that_drift_lose_no_more_than_activations_do(folder: Path) -> None:
    """Against sums about the mean of all images, with 64 bits of mantissa.

    An activation's own rounding, which depends on its batch, is eps · mean of its std.
    """
    moments = found(folder, "rows")[0]["0"]
    with torch.no_grad():
        a, b = (network(seed)[:1](torch.cat(images())).numpy() for seed in (0, 1))
    a, b = (x - x.astype(np.longdouble).mean(0) for x in (a, b))
    scale = np.sqrt(np.outer((a * a).sum(0), (b * b).sum(0)))
    assert moments.mean_a.min() > 9e3
    rounding = sum(
        float((mean / std).max()) * np.finfo(float).eps
        for mean, std in ((moments.mean_a, moments.std_a), (moments.mean_b, moments.std_b))
    )
    assert np.max(np.abs(moments.cross.numpy() - a.T @ b) / scale) < rounding < 2e-11


def test_numbered_images_of_float32_networks_give_what_one_process_gives(folder: Path) -> None:
    alone = numbered([], None)
    for stats in found(folder, "numbered"):
        assert stats.fingerprint == alone.fingerprint
        for tap, moments in alone.items():
            for name, value in moments.tensors.items():
                scale = float(value.abs().max())
                torch.testing.assert_close(
                    stats[tap].tensors[name], value, rtol=1e-12, atol=1e-12 * scale
                )


def test_no_rank_holds_a_whole_matrix_between_two_batches(folder: Path) -> None:
    assert said(folder, "by rows") == ["[]"] * WORLD
    # As it would be seen where there are batches, and matrices:
    assert said(folder, "on the device") == ["[]", "[15, 16]", "[15, 16]"]


def test_all_ranks_keep_rows_if_one_of_them_has_no_room_for_all_totals(folder: Path) -> None:
    assert said(folder, "auto") == ["[]"] * WORLD


def test_taps_without_products_need_no_steps(folder: Path) -> None:
    assert said(folder, "without products") == ["'none'"] * WORLD


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("interrupted", "OSError: the disk is gone"),
        ("poisoned", "NonFiniteActivationError: activations must be finite; network a has NaN"),
    ],
)
def test_an_error_of_one_rank_ends_all(folder: Path, case: str, error: str) -> None:
    first, second, culprit = said(folder, case)
    assert culprit.startswith(error)
    for words in (first, second):
        assert words.startswith("FailedRankError: all 3 ranks must come through; rank 2 failed ")
        assert error in words


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_others_at_once(folder: Path, rank: int) -> None:
    words = (folder / f"killed {rank}").read_text()
    assert words.startswith("LostRankError: all 3 ranks must answer; one was ended, or did not ")
    assert float((folder / f"killed {rank} seconds").read_text()) < 15


def test_ranks_that_keep_totals_elsewhere_are_refused(folder: Path) -> None:
    for words in said(folder, "other totals"):
        assert words.startswith("ArgumentError: all ranks must make the same calls with the same")
        assert "totals='ranks'" in words
        assert "totals='auto'" in words


def test_rows_do_not_go_with_checkpoints(folder: Path) -> None:
    for words in said(folder, "kept"):
        assert words.startswith('ArgumentError: `totals="ranks"` needs a pass that all ranks make')
        assert words.endswith(
            'got `checkpointing`; leave one of the two out, or take totals="host"'
        )


def test_rows_do_not_go_with_a_compiler(folder: Path) -> None:
    for words in said(folder, "compiled"):
        assert words.startswith('ArgumentError: `totals="ranks"` needs the sums of one tap after ')
        assert words.endswith(
            "got `compile=True`, which gives those of all taps at once; leave one of the two out"
        )


def test_rows_need_ranks() -> None:
    with pytest.raises(
        ArgumentError, match=r"needs `process_group`, .*; got none; give one, or leave `totals` out"
    ):
        statistics(images(), None)
