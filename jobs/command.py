"""Shared by all commands: one-line error messages, exit status, output streams, progress bars."""

import argparse
import contextlib
import functools
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

LOCK = threading.RLock()  # tqdm's own is shared with forked processes, and one killed may hold it


def command(main: Callable[..., int]) -> Callable[..., int]:
    """Make a script's main report errors in one line and return an exit status.

    Status 2 and one line on stderr, without traceback, for ValueError, OSError and
    FloatingPointError; 130 for Ctrl-C; 141 if stdout is closed by its reader (as by `| head`).
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        _set_up_streams()
        try:
            try:
                return main(*args, **kwargs)
            finally:
                sys.stdout.flush()  # also what --help has written
        except BrokenPipeError:  # Python flushes stdout once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except (ValueError, OSError, FloatingPointError) as error:
            print(f"error: {printable(sentence(error))}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            return 130

    return run


def _set_up_streams() -> None:
    """Make the output UTF-8 on every system; replace closed streams (None) by the null device."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        if mode == "w" and hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def check_range(given: argparse.Namespace, low: float, high: float, *names: str) -> None:
    """Raise ValueError for an option that is below `low` or above `high`."""
    for name in names:
        if not low <= (value := getattr(given, name)) <= high:
            expected = f"{low} to {high}" if high < math.inf else f"{low} or more"
            raise ValueError(f"--{name.replace('_', '-')} is {value}, expected {expected}")


def sentence(error: BaseException) -> str:
    """Return the message of an error in one line; an OSError with its file and reason."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def needs(what: str, error: ImportError) -> ValueError:
    """Return the error for a feature whose package is not installed."""
    what = f"{what} needs the package {error.name}"
    return ValueError(f"{what}: pip install -r requirements-optional.txt")


def load_opencv() -> ModuleType:
    """Import cv2; exit with a one-line error if that fails, as on systems without libGL."""
    try:
        import cv2
    except ImportError as error:
        install = "pip uninstall opencv-python && pip install opencv-python-headless"
        print(f"error: OpenCV cannot be loaded ({sentence(error)}): {install}", file=sys.stderr)
        sys.exit(2)
    return cv2


def printable(text: str) -> str:
    """Return text with control characters and lone surrogates escaped, for a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(names: Sequence[str], count: int = 5) -> str:
    """Return the first names of a list, safe for a terminal."""
    return ", ".join(map(printable, names[:count])) + (", ..." if len(names) > count else "")


def progress(iterable=None, **options):
    """Return a tqdm progress bar on stderr, silent unless that is a terminal."""
    from tqdm import tqdm  # predict.py does without

    tqdm.set_lock(LOCK)
    return tqdm(iterable, disable=None, **options)


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT or SIGTERM sets; a second SIGINT raises KeyboardInterrupt."""
    stop = threading.Event()

    def request(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
