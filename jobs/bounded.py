"""A function in a process of its own, bounded in time and memory: for what comes from strangers.

with Bounded(decode, seconds=10, memory=1 << 30) as bounded:
    result = bounded.call(data)     # TooMuch: it took more
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class TooMuch(ValueError):
    """The function took more time or memory than it may, or its process died."""


class Bounded(contextlib.AbstractContextManager):
    """Call a function of a module in another process, one call at a time.

    The process stays for the next call; if one takes more than `seconds`, or on Linux more than
    `memory` bytes beyond what the process starts with, it is killed and begun anew.
    """

    def __init__(self, function: Callable, seconds: float, memory: int) -> None:
        self.function, self.seconds, self.memory = function, seconds, memory
        self.context = multiprocessing.get_context("spawn")  # nothing of this process is in it
        self.start()

    def start(self) -> None:
        self.pipe, theirs = self.context.Pipe()
        self.process = self.context.Process(
            target=_serve, args=(theirs, self.function, self.memory), daemon=True
        )
        self.process.start()
        theirs.close()
        self.ready = False  # it says so when all is loaded

    def call(self, *arguments: Any) -> Any:
        """Return function(*arguments); raise TooMuch, or the ValueError that it raised."""
        try:
            if not self.ready:
                self.ready = self.pipe.recv()
            self.pipe.send(arguments)
            if not self.pipe.poll(self.seconds):
                raise TooMuch(f"took more than {self.seconds:g} s")
            error, result = self.pipe.recv()
        except (EOFError, OSError, TooMuch) as failure:
            self.close()
            self.start()
            if isinstance(failure, TooMuch):
                raise
            raise TooMuch("took too much memory, or broke its reader") from None
        if error:
            raise error
        return result

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(pipe: Connection, function: Callable, memory: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit(memory)
    pipe.send(True)
    while True:
        try:
            arguments = pipe.recv()
        except EOFError:  # the parent has gone
            return
        try:
            answer = None, function(*arguments)
        except ValueError as error:
            answer = error, None
        except MemoryError:
            answer = TooMuch("took too much memory"), None
        pipe.send(answer)


def _limit(memory: int) -> None:
    """Bound the memory that this process may still ask for, where the system can."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as pages:
            used = int(pages.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):
        return
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
