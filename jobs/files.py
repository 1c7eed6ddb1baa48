"""Atomic file writes, marks of finished work, and one writer per folder."""

import contextlib
import errno
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path


def is_hidden(name: str) -> bool:
    """Return whether a file or folder name belongs to the system (`._x.png`, `__MACOSX`)."""
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path whose file takes the place of `path` at the end.

    The temporary name is unique and keeps the suffix. An error leaves `path` as it was and removes
    the temporary file; an OSError without a file name gets `path`. Symbolic links are followed.
    Devices and pipes (`/dev/null`, `>(...)`) are written to instead of replaced.
    """
    path = Path(path)
    is_stdout = path.exists() and os.path.samefile(path, 1)
    special = is_stdout or path.exists() and not (path.is_file() or path.is_dir())
    if path.is_symlink() and not special:
        path = Path(os.path.realpath(path))
    name = f".{path.stem}.{os.urandom(4).hex()}.part{path.suffix}"
    temporary = Path(tempfile.gettempdir(), name) if special else path.with_name(name)
    try:
        yield temporary
        if not special:
            os.replace(temporary, path)
            return
        sys.stdout.flush()
        # A second open file would overwrite what is printed (`--json /dev/stdout > file`).
        with temporary.open("rb") as data, open(os.dup(1) if is_stdout else path, "wb") as out:
            shutil.copyfileobj(data, out)
    except OSError as error:
        if error.filename is None or str(temporary) in str(error.filename):
            reason = error.strerror or str(error)
            raise OSError(error.errno or errno.EIO, reason, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file atomically; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def checksum_of(path: Path) -> int:
    """Return the CRC-32 of a file."""
    checksum = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def write_mark(path: Path, content: Mapping) -> None:
    """Write a mark of finished work as JSON."""
    write_file(path, f"{json.dumps(content, indent=1)}\n".encode("ascii"))


def read_mark(path: Path, version: int) -> dict | None:
    """Return the content of a mark; None if it is missing, broken, or of another version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("version") == version else None


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; raise ValueError if another one has locked it."""
    from filelock import FileLock, Timeout  # demo.py does without

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        with contextlib.suppress(NotImplementedError):  # a file system without locks
            lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{folder}: another process is writing here; wait for it") from None
    try:
        yield
    finally:
        lock.release()
