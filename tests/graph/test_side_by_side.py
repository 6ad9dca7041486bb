"""Work side by side: the results in order, in the caller's modes, nothing left behind."""

import threading
from collections.abc import Iterator

import pytest
import torch

from repair_kernels.graph.side_by_side import one_by_one, side_by_side

CPU = torch.device("cpu")


@pytest.fixture
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two_threads")
def test_two_pieces_run_at_the_same_time_and_come_back_in_order() -> None:
    meeting = threading.Barrier(2, timeout=30)

    def work(number: int) -> int:
        meeting.wait()  # passes only if the other one is there, too
        return number

    with side_by_side(2, CPU) as for_each:
        assert for_each(work, 2) == [0, 1]


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("numbers", [0, 1, 2, 7])
def test_all_numbers_are_worked_on_whatever_the_number_of_threads(count: int, numbers: int) -> None:
    with side_by_side(count, CPU) as for_each:
        assert for_each(lambda number: 10 * number, numbers) == [10 * n for n in range(numbers)]


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("grad", [False, True])
def test_grad_mode_and_autocast_are_the_callers(grad: bool) -> None:
    with (
        side_by_side(2, CPU) as for_each,
        torch.set_grad_enabled(grad),
        torch.autocast("cpu", torch.bfloat16),
    ):
        found = for_each(lambda _: (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")), 2)
    assert found == [(grad, True)] * 2


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_reaches_the_caller_and_no_thread_is_left(failing: int) -> None:
    def work(number: int) -> int:
        if number == failing:
            raise ValueError("no such network")
        return number

    with pytest.raises(ValueError, match="no such network"), side_by_side(2, CPU) as for_each:
        for_each(work, 2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("network")]


def test_a_single_thread_and_a_gpu_take_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with side_by_side(2, torch.device("cuda")) as for_each:
        assert for_each is one_by_one
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with side_by_side(2, CPU) as for_each:
        assert for_each is one_by_one
    assert one_by_one(lambda number: number + 1, 3) == [1, 2, 3]
