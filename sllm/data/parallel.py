"""A function over many things, in several processes, with the results in order and few of them in memory. Standard
library only."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar

from sllm.cli import InputError

T = TypeVar("T")
R = TypeVar("R")


class WorkerKilled(InputError):
    """A process was killed, mostly for want of memory."""


AHEAD = 2  # things for each process that are taken before their results are asked for
_function: Callable[[Any], Any]


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
    fork: bool = False,
) -> Iterator[R]:
    """`function` of each of `things`, in their order. An exception of either is raised here.

    Args:
        processes: 0 and 1 run in this process.
        initializer: called once in each process, with `arguments`.
        fork: the processes have what this one has, such as a tokenizer, without loading it again, and `function` need
            not be one of a module. Not where this process runs threads: their locks do not survive.
    Raises:
        WorkerKilled: see there.
    """
    if processes < 2:
        if initializer:
            initializer(*arguments)
        yield from map(function, things)
        return
    if fork:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a tokenizer's threads do not survive a fork
    context = multiprocessing.get_context("fork" if fork else "spawn")
    pool = ProcessPoolExecutor(processes, context, _start, (function, initializer, arguments))
    waiting: deque[Future[R]] = deque()
    try:
        for thing in things:
            waiting.append(pool.submit(_call, thing))
            if len(waiting) > processes * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise WorkerKilled(
            "a worker process was killed, mostly because memory ran out; --num_proc 1 needs less"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start(function: Callable[[Any], Any], initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer:
        initializer(*arguments)


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _call(thing: Any) -> Any:
    return _function(thing)
