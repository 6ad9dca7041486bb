"""Processes that talk to one another: all come through, or all end, soon and with a reason."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from repair_kernels import ranks as ranks_module
from repair_kernels.errors import ArgumentError, LostRankError, RepairKernelsError
from repair_kernels.ranks import ALONE, Ranks
from tests.processes import WORLD, meet, run_ranks, told

TIMEOUT = 2


def fails_on(culprit: int, ranks: Ranks) -> None:
    with ranks.together("work"):
        if ranks.rank == culprit:
            raise RepairKernelsError("no such image")
        ranks.exchange("counts", 1)
        ranks.add_up_([torch.ones(1)])


def fails_at_the_end(culprit: int, ranks: Ranks) -> None:
    with ranks.together("work"):
        ranks.exchange("counts", 1)
        if ranks.rank == culprit:
            raise RepairKernelsError("no space left")


def fails_within(ranks: Ranks) -> None:
    """One call within another, as when a measurement within a sweep fails."""
    with ranks.together("outer"), Ranks(dist.group.WORLD).together("inner"):
        if ranks.rank == 1:
            raise RepairKernelsError("no such image")


def fails_within_a_part(ranks: Ranks) -> None:
    """The call within is one of two ranks; the third one waits outside."""
    part = dist.new_group([1, 2])
    with ranks.together("outer"):
        if ranks.rank:
            fails_on(0, Ranks(part))
        ranks.exchange("counts", 1)


def adds_up(ranks: Ranks) -> list:
    """Sums of tensors that lie in several parts of what is sent at once."""
    tensors = [torch.full(shape, ranks.rank + 0.1) for shape in [(3, 5), (0,), (7,), (1, 1)]]
    ranks_module.BUFFER_BYTES = 4 * 4
    ranks.add_up_(tensors)
    return [tensor.tolist() for tensor in tensors]


def shares(ranks: Ranks) -> Tensor:
    """What rank r has for rank s is 10 r + s, and a half."""
    return ranks.add_up_shares(torch.arange(3)[:, None] + torch.tensor([0, 0.5]) + 10 * ranks.rank)


def call_with(arguments: object, ranks: Ranks) -> None:
    with ranks.together("work", alpha=arguments):
        ranks.exchange("counts", 1)


def talks_beside(ranks: Ranks) -> list[int]:
    """Messages as beside NCCL: over a group of their own, which is gone afterwards."""
    backend = dist.get_backend
    dist.get_backend = lambda group: "nccl"
    try:
        with ranks.together("work"):
            beside = ranks._talk is not ranks._group
            found = ranks.exchange("counts", ranks.rank)
    finally:
        dist.get_backend = backend
    return [*found, beside, ranks._talk is ranks._group]


def works(ranks: Ranks) -> list[int]:
    """Passes of other lengths on each rank, which meet after every batch."""
    done = 0
    with meeting_every(0), ranks.together("work"):
        for _ in range([3, 0, 11][ranks.rank]):
            done += 1
            ranks.meet()
        ranks.wait()
        return ranks.exchange("counts", done)


def fails_early(ranks: Ranks) -> None:
    """The last rank fails at its second batch; the others have no end of them."""
    with meeting_every(0), ranks.together("work"):
        for batch in range(1000):
            if (ranks.rank, batch) == (2, 1):
                raise RepairKernelsError(f"no such image in batch {batch}")
            ranks.meet()
        raise AssertionError("nobody said that rank 2 has failed")


def works_long(seconds: float, ranks: Ranks) -> list[str]:
    """Work for longer than the group's timeout, in batches that take less."""
    with meeting_every(0.3), ranks.together("work"):
        for _ in range(round(seconds / 0.2)):
            time.sleep(0.2)
            ranks.meet()
        ranks.wait()
        return ranks.exchange("names", "through")


@contextmanager
def meeting_every(seconds: float) -> Iterator[None]:
    before, ranks_module.MEETING_SECONDS = ranks_module.MEETING_SECONDS, seconds
    try:
        yield
    finally:
        ranks_module.MEETING_SECONDS = before


def meet_at(topic: str, ranks: Ranks) -> None:
    ranks.exchange(topic, 1)


def is_late(seconds: float, ranks: Ranks) -> None:
    time.sleep(seconds)
    ranks.exchange("counts", 1)


CASES: dict[str, Callable[[Ranks], object]] = {
    "exchange": lambda ranks: ranks.exchange("names", f"rank {ranks.rank}"),
    "adds up": adds_up,
    "from rank": lambda ranks: ranks.from_rank(1, torch.eye(2) if ranks.rank == 1 else None),
    "shares": lambda ranks: shares(ranks).tolist(),
    "from everyone": lambda ranks: [
        one.tolist() for one in ranks.from_everyone(torch.eye(3)[:, ranks.rank])
    ],
    "talks beside": talks_beside,
    "works": works,
    "fails early": fails_early,
    "fails": lambda ranks: fails_on(1, ranks),
    "fails at the end": lambda ranks: fails_at_the_end(2, ranks),
    "fails within": fails_within,
    "fails within a part": fails_within_a_part,
    "arguments": lambda ranks: call_with(0.5 if ranks.rank else 0.4, ranks),
    "topics": lambda ranks: meet_at("moments" if ranks.rank else "losses", ranks),
    "after all that": lambda ranks: ranks.exchange("names", ranks.rank),
}


def work(rank: int, folder: Path) -> None:
    meet(rank, folder)
    everyone = Ranks(dist.group.WORLD)
    for name, case in CASES.items():
        (folder / f"{name} {rank}").write_text(told(lambda case=case: case(everyone)))
    late = dist.new_group([0, 1], timeout=timedelta(seconds=TIMEOUT))
    if rank < 2:
        patient = told(lambda: works_long((TIMEOUT + 1) * rank, Ranks(late)))
        (folder / f"patient {rank}").write_text(patient)
        start = time.monotonic()
        said = told(lambda: is_late(TIMEOUT + 1.5 if rank else 0, Ranks(late)))
        (folder / f"late {rank}").write_text(said)
        (folder / f"late {rank} seconds").write_text(str(time.monotonic() - start))
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    said = told(lambda: fails_on(-1, everyone))
    (folder / f"killed {rank}").write_text(said)
    (folder / f"killed {rank} seconds").write_text(str(time.monotonic() - start))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("ranks")
    context = run_ranks(work, folder, join=False)
    for process in context.processes:
        process.join(60)
        assert process.exitcode is not None, "a rank hangs"
    assert [process.exitcode for process in context.processes] == [0, 0, -signal.SIGKILL]
    return folder


def said(folder: Path, case: str) -> list[str]:
    return [(folder / f"{case} {rank}").read_text() for rank in range(WORLD)]


def test_everyone_gets_everyones_message(folder: Path) -> None:
    assert said(folder, "exchange") == ["['rank 0', 'rank 1', 'rank 2']"] * 3


def test_sums_are_the_same_on_all_whatever_is_sent_at_once(folder: Path) -> None:
    assert len(set(said(folder, "adds up"))) == 1
    flat = said(folder, "adds up")[0].replace("[", "").replace("]", "").split(", ")
    numbers = [float(text) for text in flat if text]
    assert len(numbers) == 15 + 7 + 1
    assert numbers == pytest.approx([3.3] * 23)


def test_every_rank_gets_the_sum_of_what_all_have_for_it(folder: Path) -> None:
    expected = [[30.0 + 3 * rank, 31.5 + 3 * rank] for rank in range(WORLD)]
    assert said(folder, "shares") == [repr(one) for one in expected]


def test_everyones_tensor_is_sent_to_all(folder: Path) -> None:
    assert said(folder, "from everyone") == [repr(torch.eye(3).tolist())] * 3


def test_one_ranks_tensor_is_sent_to_all(folder: Path) -> None:
    assert said(folder, "from rank") == [repr(torch.eye(2))] * 3


def test_beside_nccl_messages_have_a_group_of_their_own(folder: Path) -> None:
    assert said(folder, "talks beside") == ["[0, 1, 2, True, True]"] * 3


def test_passes_of_any_lengths_end_together(folder: Path) -> None:
    assert said(folder, "works") == ["[3, 0, 11]"] * 3


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_may_wait_for_longer_than_the_timeout_while_others_work(
    folder: Path, rank: int
) -> None:
    assert (folder / f"patient {rank}").read_text() == "['through', 'through']"


@pytest.mark.parametrize(
    ("case", "culprit", "cause"),
    [
        ("fails", 1, "no such image"),
        ("fails early", 2, "no such image in batch 1"),
        ("fails at the end", 2, "no space left"),
    ],
)
def test_an_error_of_one_rank_ends_all_and_is_told(
    folder: Path, case: str, culprit: int, cause: str
) -> None:
    expected = f"all 3 ranks must come through; rank {culprit} failed with RepairKernelsError: "
    for rank, words in enumerate(said(folder, case)):
        if rank == culprit:
            assert words == f"RepairKernelsError: {cause}"
        else:
            assert words.startswith(f"FailedRankError: {expected}{cause}\n")
            assert words.endswith("start all ranks again.")


def test_an_error_within_two_calls_is_told_once(folder: Path) -> None:
    words = said(folder, "fails within")
    assert words[1] == "RepairKernelsError: no such image"
    assert all("rank 1 failed with RepairKernelsError: no such" in words[r] for r in (0, 2))


def test_an_error_of_a_part_is_told_to_all(folder: Path) -> None:
    outside, culprit, other = said(folder, "fails within a part")
    assert culprit == "RepairKernelsError: no such image"
    assert "all 2 ranks must come through; rank 0 failed with RepairKernelsError: no such" in other
    assert "all 3 ranks must come through; rank 1 failed with RepairKernelsError: no" in outside


def test_other_arguments_on_one_rank_are_refused_on_all(folder: Path) -> None:
    expected = (
        "ArgumentError: all ranks must make the same calls with the same arguments; rank 0 is at "
        "work(alpha=0.4) and rank 1 at work(alpha=0.5); start every rank with the same"
    )
    assert all(words.startswith(expected) for words in said(folder, "arguments"))


def test_other_calls_on_one_rank_are_refused_on_all(folder: Path) -> None:
    assert all(
        "rank 0 is at losses and rank 1 at moments" in words for words in said(folder, "topics")
    )


def test_a_failure_leaves_the_group_of_use(folder: Path) -> None:
    assert said(folder, "after all that") == ["[0, 1, 2]"] * 3


def test_a_rank_that_does_not_come_ends_the_wait_at_the_groups_timeout(folder: Path) -> None:
    words = (folder / "late 0").read_text()
    assert words.startswith("LostRankError: all 2 ranks must answer; one was ended, or did not ")
    assert TIMEOUT - 1 < float((folder / "late 0 seconds").read_text()) < TIMEOUT + 5


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_others_at_once(folder: Path, rank: int) -> None:
    words = (folder / f"killed {rank}").read_text()
    assert words.startswith("LostRankError: all 3 ranks must answer; one was ended, or did not ")
    assert words.endswith("see what the others wrote, and start all ranks again")
    assert float((folder / f"killed {rank} seconds").read_text()) < 15


def test_a_process_alone_needs_no_group() -> None:
    values = torch.ones(3)
    with ALONE.together("work", alpha=1):
        ALONE.add_up_([values])
        assert ALONE.exchange("counts", 3) == [3]
    assert values.tolist() == [1, 1, 1]
    assert torch.equal(ALONE.from_rank(0, values), values)
    assert torch.equal(ALONE.add_up_shares(values[None]), values)
    assert torch.equal(ALONE.from_everyone(values)[0], values)


def test_what_is_no_group_is_refused() -> None:
    with pytest.raises(ArgumentError, match="a group of torch.distributed; got a str; pass"):
        Ranks("world")  # type: ignore[arg-type]


def test_what_torch_distributed_raises_becomes_an_error_of_ours(monkeypatch) -> None:
    def closed(*_, **__) -> None:
        raise RuntimeError("Connection closed by peer\nand a trace")

    ranks = Ranks()
    monkeypatch.setattr(ranks, "_group", object())
    monkeypatch.setattr(dist, "all_gather_object", closed)
    with pytest.raises(LostRankError, match=r"\(on rank 0: Connection closed by peer\); see what"):
        ranks.exchange("counts", 1)
