"""Worker processes: the one pool of converter, packer, synthesizer and endless streams.

with Workers(4, preload="dataset") as workers:
    for result in workers.map(decode, tasks):
        ...
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 3  # tasks a process that may be under way


def cores() -> int:
    """Return how many processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Workers(contextlib.AbstractContextManager):
    """Processes that do tasks in order, a few ahead; one means this process, 0 one a core.

    Workers are not forked from this process, whose threads may hold locks. On Linux they come from
    a server that has loaded the module `preload` alone, once for all of them; elsewhere they are
    spawned. Ctrl-C is left to this process, and they end when it does, however that happens.
    """

    def __init__(self, count: int, preload: str) -> None:
        self.count = count or cores()
        self.pool = None
        if self.count > 1:
            method = "forkserver" if sys.platform == "linux" else "spawn"
            context = multiprocessing.get_context(method)
            if method == "forkserver":
                context.set_forkserver_preload([preload])
                _start_server()
            self.pool = ProcessPoolExecutor(self.count, context, _start)

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yield function(task) for every task, in order; tasks are taken only as they are needed.

        Raises OSError if a worker was killed (out of memory, say).
        """
        if self.pool is None:
            yield from map(function, tasks)
            return
        waiting: deque[Future] = deque()
        try:
            for task in tasks:
                waiting.append(self.pool.submit(function, task))
                if len(waiting) > AHEAD * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            why = "a worker process was killed, perhaps for want of memory"
            raise OSError(f"{why}; run again with fewer --workers") from None

    def __exit__(self, *_: object) -> None:
        """End the processes; tasks that have not begun are dropped."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)


def _start_server() -> None:
    """Start the server now, while this process goes on, and with this process's module path,
    which Python before 3.13 forgets: it would load nothing, and every worker all."""
    from multiprocessing import forkserver  # not on Windows

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave_with_parent() -> None:
        wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
