"""Worker processes, used by the converter, packing and the synthesizer."""

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 3  # tasks in flight per process
MOST = 61 if sys.platform == "win32" else 1024  # Windows waits for at most 63 handles


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Workers(contextlib.AbstractContextManager):
    """Processes that work on tasks in order, a few ahead; 1 means this process, 0 one per core.

    Workers are spawned on every system: a forked process inherits locks that threads hold. They
    import the module of the task's function and nothing else. Ctrl-C is left to this process. They
    end when this process ends or closes `lifeline`.
    """

    def __init__(self, count: int) -> None:
        self.count = min(count or cores(), MOST)
        self.pool = None
        if self.count > 1:
            # Workers inherit it: with the default, n of them would start n threads each.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            context = multiprocessing.get_context("spawn")
            other_end, self.lifeline = context.Pipe(duplex=False)
            self.pool = ProcessPoolExecutor(self.count, context, _start, (other_end,))

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
                with _hidden_script(function):
                    waiting.append(self.pool.submit(function, task))
                if len(waiting) > AHEAD * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            # The executor waits for a worker that starts as another dies, but does not end it.
            self.lifeline.close()
            why = "a worker process was killed, perhaps for lack of memory"
            raise OSError(errno.ENOMEM, f"{why}; run again with fewer --workers") from None

    def __exit__(self, *_: object) -> None:
        """End the processes; tasks that have not begun are dropped."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
            self.lifeline.close()


@contextlib.contextmanager
def _hidden_script(function: Callable) -> Iterator[None]:
    """Keep the processes that start here from running the script once more.

    Python has each of them import the script, which fails if it lacks `if __name__ == "__main__"`
    or comes from standard input, and is of use only if the function is defined in it.
    """
    script = sys.modules["__main__"]
    function = getattr(function, "func", function)  # of a functools.partial
    if getattr(function, "__module__", "__main__") != "__main__":
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    except OSError as error:  # its pipes are closed when another one has died
        raise BrokenProcessPool(str(error)) from None
    finally:
        sys.modules["__main__"] = script


def _start(lifeline: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave_with_parent() -> None:
        wait([lifeline])  # nothing is ever sent: it is ready when the other end is closed
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
