"""Whole calls on several processes: all get what one process gets from all of the data."""

import functools
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import repair_kernels as rk
from repair_kernels import batches as batches_module
from repair_kernels.errors import RepairKernelsError
from repair_kernels.images import SyntheticImages
from tests.networks import PLAIN
from tests.processes import WORLD, meet, run_ranks

# The interpreter of kernels takes no two threads at once, in which two networks run on a CPU.
pytestmark = pytest.mark.usefixtures("torch_backend")

N = 110
# Where one rank's share of the images ends and the next one's starts.
SHARES = {1: [0, N], 2: [0, 17, N], 3: [0, 0, 11, N]}
VARIANTS = ("sequential", "reset_norm", "closed_form", "forward", "distilled")
SAME_IN_FLOAT32 = VARIANTS[:4]
CALIBRATIONS = (*VARIANTS, "cut_small", "from_stats")
EVERY_SIZE = ("stats", "cut_small", "whole_batches", "measured")
State = dict[str, Tensor]


@functools.cache
def pair() -> tuple[nn.Module, nn.Module]:
    """In float64, so that a convolution's rounding, which depends on the batch, is out of sight."""
    return PLAIN.network(0).double(), PLAIN.network(1).double()


def images(start: int = 0, stop: int = N) -> list[Tensor]:
    """Some images of one set in batches of five; none at all, where there are none."""
    chosen = PLAIN.inputs(N).double()[start:stop]
    return list(chosen.split(5)) if len(chosen) else []


def statistics(batches: list[Tensor], group: object) -> rk.PairedStats:
    return rk.compute_stats(*pair(), batches, process_group=group)


def calibrated(variant: str, batches: list[Tensor], group: object) -> State:
    network = rk.calibrate(*pair(), batches, variant=variant, on_worse=None, process_group=group)
    return dict(network.state_dict())


def in_float32(variant: str, batches: list[Tensor], group: object) -> State:
    networks = (PLAIN.network(seed) for seed in (0, 1))
    inputs = [batch.float() for batch in batches]
    return dict(
        rk.calibrate(
            *networks, inputs, variant=variant, on_worse=None, process_group=group
        ).state_dict()
    )


def cut_small(batches: list[Tensor], group: object) -> State:
    """Calibrate with pieces of 20 images, of which ranks have some alone and share others."""
    before, batches_module.PIECE_IMAGES = batches_module.PIECE_IMAGES, 20
    try:
        return calibrated("forward", batches, group)
    finally:
        batches_module.PIECE_IMAGES = before


def from_stats(batches: list[Tensor], group: object) -> State:
    """Calibrate with statistics that are known, so that no pass has counted the images."""
    stats = alone("stats")
    network = rk.calibrate(*pair(), batches, stats=stats, on_worse=None, process_group=group)
    return dict(network.state_dict())


def repaired(batches: list[Tensor], group: object) -> tuple[State, rk.RepairReport]:
    result = rk.repair(*pair(), batches, variant="sequential", process_group=group)
    return dict(result.model.state_dict()), result.report


def swept(batches: list[Tensor], group: object) -> rk.Path:
    held_out = PLAIN.inputs(9, seed=5).double()

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"loss": float(model(held_out).square().mean().detach())}

    return rk.sweep(
        *pair(), batches, evaluate, alphas=[0.5], variants=["reset_norm"], process_group=group
    )


def measured(batches: list[Tensor], group: object) -> tuple[dict[str, float], list[float]]:
    """Metrics, and of each image that went through the network the first number."""
    network, seen = pair()[0], []
    labelled = [(x, (x[:, 0, 0, 0] > 0).long()) for x in batches]
    hook = network.register_forward_hook(lambda _, given, __: seen.extend(given[0][:, 0, 0, 0]))
    try:
        metrics = rk.classifier_metrics(labelled, process_group=group)(network)
    finally:
        hook.remove()
    return metrics, [float(number) for number in seen]


def measured_within(batches: list[Tensor], group: object) -> None:
    """The same within a sweep, where one rank has a batch without labels."""
    own: list = [(x, torch.zeros(len(x), dtype=torch.int64)) for x in batches]
    measure = rk.classifier_metrics(
        [*own[:-1], batches[-1]] if own[3:] else own, process_group=group
    )
    rk.sweep(*pair(), batches, measure, alphas=[0.5], variants=["none"], process_group=group)


def numbered(batches: list[Tensor], group: Any) -> rk.PairedStats:
    """Statistics of a source's images, which say which ones they are of; some ranks have none."""
    return whole_batches(batches, group) if batches else of_images(range(0), group)


def whole_batches(_: list[Tensor], group: Any) -> rk.PairedStats:
    """The same where every rank has images."""
    source = SyntheticImages(N, 6)
    return of_images(source.indices(group.rank(), group.size(), 5) if group else range(N), group)


def of_images(own: range, group: Any) -> rk.PairedStats:
    loader = SyntheticImages(N, 6).loader(5, start=own.start, stop=own.stop)
    networks = (PLAIN.network(seed) for seed in (0, 1))
    return rk.compute_stats(*networks, loader, process_group=group)


def poisoned(batches: list[Tensor], group: object) -> None:
    statistics([batch * float("nan") for batch in batches], group)


def interrupted(batches: list[Tensor], group: object) -> None:
    def stream() -> Iterator[Tensor]:
        yield batches[0]
        raise OSError("the disk is gone")

    statistics(stream() if len(batches) > 3 else batches, group)  # type: ignore[arg-type]


CALLS: dict[str, Callable] = {
    "stats": statistics,
    **{variant: functools.partial(calibrated, variant) for variant in VARIANTS},
    **{
        f"{variant}, float32": functools.partial(in_float32, variant) for variant in SAME_IN_FLOAT32
    },
    "cut_small": cut_small,
    "from_stats": from_stats,
    "repair": repaired,
    "sweep": swept,
    "measured": measured,
    "numbered": numbered,
    "whole_batches": whole_batches,
}


@functools.cache
def alone(name: str) -> Any:
    """What one process gets from all of the data."""
    return CALLS[name](images(), None)


# Which rank of three fails: the first one has no images, the last one has the most.
FAILURES: dict[str, Callable] = {
    "poisoned": lambda own, group: (poisoned if len(own) > 3 else statistics)(own, group),
    "poisoned_piece": lambda own, group: from_stats(
        [b * float("nan") for b in own] if own[3:] else own, group
    ),
    "interrupted": interrupted,
    "measured_within": measured_within,
    "batch_mean": lambda own, group: rk.calibrate(
        *pair(), own, batch_mean=True, process_group=group
    ),
    "weights": lambda own, group: rk.calibrate(
        PLAIN.network(2 + (len(own) > 3)).double(), pair()[1], own, process_group=group
    ),
    "nothing": lambda own, group: statistics([], group),
    "shapes": lambda own, group: statistics([b[..., :5] for b in own] if own[5:] else own, group),
}


def work(rank: int, folder: Path) -> None:
    meet(rank, folder)
    for size in (1, 2, 3):
        members = list(range(size))
        group = dist.new_group(members)
        if rank not in members:
            continue
        own = images(*SHARES[size][rank : rank + 2])
        for name, call in CALLS.items():
            if size == 3 or name in EVERY_SIZE or (name, size) == ("sequential", 2):
                (folder / f"{name} {size} {rank}").write_bytes(pickle.dumps(call(own, group)))
    own = images(*SHARES[3][rank : rank + 2])
    for name, call in FAILURES.items():
        try:
            said = repr(call(own, dist.group.WORLD))
        except (RepairKernelsError, OSError) as error:
            said = f"{type(error).__name__}: {error}"
        (folder / f"{name} {rank}").write_text(said)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(work, folder)
    return folder


def found(folder: Path, name: str, size: int = 3) -> list:
    files = [folder / f"{name} {size} {rank}" for rank in range(size)]
    return [pickle.loads(file.read_bytes()) for file in files]


def assert_same_bits(states: list[State]) -> None:
    for state in states:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[0][name]) for name in state)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_statistics_are_those_of_one_process(folder: Path, size: int) -> None:
    results, expected = found(folder, "stats", size), alone("stats")
    for stats in results:
        assert (list(stats), stats.n_images) == (list(expected), N)
        for tap, moments in expected.items():
            for name, value in moments.tensors.items():
                ours = getattr(stats[tap], name)
                torch.testing.assert_close(ours, value, rtol=1e-10, atol=1e-10)
                assert torch.equal(ours, getattr(results[0][tap], name))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_whole_batches_of_float32_networks_give_what_one_process_gives(
    folder: Path, size: int
) -> None:
    """Batches have the same bits whoever has them; what differs is the order of float64 sums."""
    expected = alone("whole_batches")
    for stats in found(folder, "whole_batches", size):
        assert (list(stats), stats.n_images) == (list(expected), N)
        for tap, moments in expected.items():
            assert moments.n_samples == stats[tap].n_samples
            for name, value in moments.tensors.items():
                ours = getattr(stats[tap], name)
                torch.testing.assert_close(
                    ours, value, rtol=1e-12, atol=1e-12 * float(value.abs().max())
                )


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_every_rank_calibrates_to_the_same_bits(folder: Path, name: str) -> None:
    assert_same_bits(found(folder, name))


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_a_calibration_is_that_of_one_process(folder: Path, name: str) -> None:
    expected = alone(name)
    for size in (2, 3) if name in ("sequential", "cut_small") else (3,):
        ours = found(folder, name, size)[0]
        assert ours.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", SAME_IN_FLOAT32)
def test_in_float32_a_calibration_is_that_of_one_process_but_for_rounding(
    folder: Path, variant: str
) -> None:
    name = f"{variant}, float32"
    ours, expected = found(folder, name)[0], alone(name)
    for key, value in expected.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-6)


def test_the_whole_gives_the_same_network_and_report_on_all(folder: Path) -> None:
    results = found(folder, "repair")
    assert_same_bits([state for state, _ in results])
    assert len({repr(report) for _, report in results}) == 1
    report, expected = results[0][1], alone("repair")[1]
    assert report.n_images == expected.n_images == N
    for name in ("corrected", "aligned", "standard_error"):
        ours, theirs = (getattr(r.losses, name) for r in (report, expected))
        assert ours == pytest.approx(theirs, rel=1e-6)
    for tap, exactness in report.exactness.items():
        assert exactness.std == pytest.approx(expected.exactness[tap].std, abs=1e-6)


def test_a_path_is_that_of_one_process(folder: Path) -> None:
    for path in found(folder, "sweep"):
        assert path.alphas == alone("sweep").alphas
        ours, theirs = (p.metrics["reset_norm"]["loss"] for p in (path, alone("sweep")))
        assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_metrics_are_those_of_one_process_and_the_same_on_all(folder: Path, size: int) -> None:
    results, (expected, _) = found(folder, "measured", size), alone("measured")
    metrics = results[0][0]
    assert all(theirs == metrics for theirs, _ in results)
    assert (metrics["accuracy"], metrics["error"]) == (expected["accuracy"], expected["error"])
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_image_is_measured_on_one_rank(folder: Path, size: int) -> None:
    seen = [number for _, numbers in found(folder, "measured", size) for number in numbers]
    assert seen == alone("measured")[1]
    assert len(seen) == N


def test_statistics_of_numbered_images_say_which_all_ranks_have_seen(folder: Path) -> None:
    coverage = {stats.fingerprint.coverage for stats in found(folder, "numbered")}
    # The first rank has no images, so those of its share are missing.
    assert [each.ranges for each in coverage] == [((35, N),)]
    assert alone("numbered").fingerprint.coverage.ranges == ((0, N),)


def said(folder: Path, name: str) -> list[str]:
    return [(folder / f"{name} {rank}").read_text() for rank in range(WORLD)]


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("poisoned", "NonFiniteActivationError: activations must be finite; network a has NaN"),
        (
            "poisoned_piece",
            "NonFiniteActivationError: activations must be finite; network merged at alpha 0.5",
        ),
        ("interrupted", "OSError: the disk is gone"),
        ("measured_within", "CalibrationDataError: measuring needs batches of inputs and class"),
    ],
)
def test_an_error_on_one_rank_is_an_error_on_all(folder: Path, name: str, own: str) -> None:
    words = said(folder, name)
    assert words[2].startswith(own)
    told = f"FailedRankError: all 3 ranks must come through; rank 2 failed with {own}"
    assert all(other.startswith(told) for other in words[:2])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("batch_mean", "ArgumentError: `batch_mean` averages over the batches of one process"),
        (
            "weights",
            "StatisticsMismatchError: all ranks must have the same two networks; the weights",
        ),
        ("nothing", "EmptyDataError: `batches` must hold at least one image on some rank"),
        ("shapes", "CalibrationDataError: all ranks must have inputs of one shape and dtype; rank"),
    ],
)
def test_what_cannot_be_is_refused_on_all(folder: Path, name: str, words: str) -> None:
    assert all(told.startswith(words) for told in said(folder, name))
