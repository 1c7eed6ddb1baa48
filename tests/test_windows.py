"""What Windows would refuse, shown on Linux: open and mapped files stay, workers are spawned.

There a file that is open or mapped can be neither deleted nor replaced. The fixture makes it so for
the files of this process.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SMALL, call_script, write_gnt

SELF = Path("/proc/self")
FOLDER = "我的 手写 数据"  # Chinese characters and spaces
ONE_EPOCH = [*SMALL, "--epochs", "1"]


def in_use() -> set[tuple[int, int]]:
    """Return device and inode of every file that this process has open or mapped."""
    found = set()
    for path in SELF.glob("fd/*"):
        try:
            status = os.stat(path)
        except OSError:  # it was of the listing itself
            continue
        found.add((status.st_dev, status.st_ino))
    for line in (SELF / "maps").read_text(errors="replace").splitlines():
        parts = line.split(maxsplit=5)
        major, minor = (int(number, 16) for number in parts[3].split(":"))
        found.add((os.makedev(major, minor), int(parts[4])))
    return found


@pytest.fixture
def windows(monkeypatch):
    """Make os.unlink, os.rename and os.replace fail for files that are in use."""
    if not (SELF / "maps").exists():
        pytest.skip("needs /proc")

    def refuse(path, folder: int | None) -> None:
        status = None
        if folder is not None:
            path = os.path.join(os.readlink(SELF / "fd" / str(folder)), os.fsdecode(path))
        if os.path.lexists(path):
            status = os.lstat(path)
        if status is not None and (status.st_dev, status.st_ino) in in_use():
            raise PermissionError(13, "used by another process (WinError 32)", os.fspath(path))

    def guarded(name: str):
        original = getattr(os, name)

        def function(path, *more, **options):
            refuse(path, options.get("dir_fd"))
            if more:
                refuse(more[0], None)
            return original(path, *more, **options)

        monkeypatch.setattr(os, name, function)

    for name in ("unlink", "remove", "rename", "replace"):
        guarded(name)


def succeed(name: str, *arguments: object) -> str:
    done = call_script(name, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_fixture_refuses_what_windows_refuses(tmp_path, windows):
    path, other = tmp_path / "a.bin", tmp_path / "b.bin"
    path.write_bytes(bytes(9))
    other.write_bytes(b"x")
    with path.open("rb"), pytest.raises(PermissionError):
        path.unlink()
    mapped = np.memmap(path, np.uint8, "r")
    with pytest.raises(PermissionError):
        os.replace(other, path)
    del mapped
    os.replace(other, path)


def test_open_and_mapped_files_are_not_replaced(tmp_path, windows):
    """Convert, train, continue, export, and again with other data."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    root = tmp_path / FOLDER
    for writer in (1001, 1002, 1003, 1241):
        write_gnt(root / "gnt" / f"{writer}-c.gnt", writer)
    convert = [root / "gnt", "--out", root, "--workers", 1]
    train = ["--data", root / "train", "--workers", 1, *ONE_EPOCH]
    succeed("process_gnt.py", *convert)
    succeed("train.py", *train, "--out", root / "run")
    succeed("train.py", *train, "--out", root / "run", "--epochs", 2, "--resume")
    for _ in range(2):
        succeed("export.py", "--checkpoint", root / "run" / "best.pt")
    write_gnt(root / "gnt" / "1003-c.gnt", 1004)
    succeed("process_gnt.py", *convert)
    assert "packing" in succeed("train.py", *train, "--out", root / "other")
    succeed("test.py", "--checkpoint", root / "run" / "best.pt", root / "test")


def test_spawned_workers_load_no_pytorch():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import packing, process_gnt, synthesize_gnt\n"
        "assert 'torch' not in sys.modules, 'workers would load PyTorch'\n"
    )
    subprocess.run([sys.executable, "-c", code, ROOT], check=True)
