"""Worker processes."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import signal
import sys


def worker_pool(workers: int, preload: str) -> multiprocessing.pool.Pool:
    """Start processes that decode or draw; Ctrl-C is left to the process that started them.

    Not forked from this process: a fork copies the locks of threads that PyTorch and OpenCV have
    running. On Linux they come from a server that has loaded the module `preload` and nothing more,
    so that PyTorch is loaded once for all of them; elsewhere they are spawned.
    """
    if sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([preload])
    else:
        context = multiprocessing.get_context("spawn")
    return context.Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN))
