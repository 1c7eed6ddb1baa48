"""Files and folders that are whole or not there, marks of what is finished, one writer at a time.

with replacing(path) as temporary:
    onnx.save(network, temporary)
write_file(path, data)
write_mark(folder / "pack.json", {"version": 3})      # last, when all else is there
mark = read_mark(folder / "pack.json", version=3)     # None: not finished, start anew
with only_one(folder, "process_gnt.py"): ...
"""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a name of its own beside `path`; what stands there at the end takes its place.

    The name is unlike that of any other process, and keeps the suffix. An error leaves `path` as it
    was and removes the temporary file; an OSError without a file's name gets `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.urandom(4).hex()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or str(temporary) in str(error.filename):
            reason = error.strerror or str(error)
            raise OSError(error.errno or errno.EIO, reason, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file that is whole or as it was."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_mark(path: Path, content: Mapping) -> None:
    """Write what is finished, and how it was made, as JSON."""
    text = json.dumps(content, ensure_ascii=False, indent=1)
    write_file(path, f"{text}\n".encode("utf-8", "surrogatepass"))


def read_mark(path: Path, version: int) -> dict | None:
    """Return the content of a mark; None if there is none, it is broken, or of another version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("version") == version else None


@contextlib.contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for one process; raise a ValueError that says which other one holds it."""
    from filelock import FileLock, Timeout  # PyTorch needs it, too; demo.py does without

    folder.mkdir(parents=True, exist_ok=True)
    path, holder = folder / ".lock", folder / ".lock-holder"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except NotImplementedError:  # a file system without locks
        yield
        return
    except Timeout:
        who = "another process"
        with contextlib.suppress(OSError):  # it may be just coming or just leaving
            who = holder.read_text(encoding="utf-8") or who
        raise ValueError(f"{folder}: {who} is writing here; wait for it or stop it") from None
    try:
        holder.write_text(f"{what} (process {os.getpid()} on {socket.gethostname()})", "utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
