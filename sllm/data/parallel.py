"""A function over many things, in several processes, with the results in order. Standard library only."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from sllm.cli import InputError

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 2  # things in work or waiting, for each process: so many are in memory


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[T], R],
    things: Iterable[T],
    *,
    processes: int,
    initializer: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[R]:
    """`function` of each of `things`, in their order, read only as far ahead as the processes can work.

    Args:
        function: of a module, so that it can be sent to a process.
        processes: 0 and 1 run in this process.
        initializer: called once in each process, with `arguments`.
    Raises:
        InputError: a process was killed, mostly for want of memory.
    """
    if processes < 2:
        if initializer:
            initializer(*arguments)
        yield from map(function, things)
        return
    # "spawn": a copy of a process that runs threads (tokenizers, BLAS) may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _start, (initializer, arguments))
    waiting: deque[Future[R]] = deque()
    try:
        for thing in things:
            waiting.append(pool.submit(function, thing))
            if len(waiting) >= processes * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed, mostly because memory ran out; use fewer with --num_proc 1"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    if initializer:
        initializer(*arguments)
