"""Several pieces of work at once on a CPU.

Two networks that run side by side are done sooner than one after the other, although both share
the same cores: many operations are too small for all of them, and what one network leaves idle the
other takes. (Each with half of the threads was slower: the cores of one that waits lie idle.)
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


ForEach = Callable[[Callable[[int], Any], int], list[Any]]
"""Calls a function with 0, 1, ... and returns the results in order."""


def one_by_one(work: Callable[[int], Result], count: int, /) -> list[Result]:
    """Call `work` with each number below `count`."""
    return [work(number) for number in range(count)]


@contextmanager
def side_by_side(count: int, device: torch.device) -> Iterator[ForEach]:
    """Yield a function like `one_by_one` that works on up to `count` numbers at once.

    On a GPU, which has its own queue, and with a single thread it is `one_by_one`. The caller's
    grad mode and autocast hold for the work.
    """
    if device.type != "cpu" or torch.get_num_threads() == 1:
        yield one_by_one
        return
    with ThreadPoolExecutor(count, thread_name_prefix="network") as pool:

        def for_each(work: Callable[[int], Result], numbers: int, /) -> list[Result]:
            grad = torch.is_grad_enabled()
            autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

            def call(number: int) -> Result:
                with torch.set_grad_enabled(grad), torch.autocast("cpu", autocast[1], autocast[0]):
                    return work(number)

            return list(pool.map(call, range(numbers)))

        yield for_each
