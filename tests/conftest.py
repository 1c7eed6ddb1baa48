"""Small data and a small checkpoint, made on the spot and shared by the tests."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock  # torch needs it, too

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import checkpoint  # noqa: E402
import page  # noqa: E402
from config import DEFAULT_CHECKPOINT  # noqa: E402
from hwdb.characters import folder_name  # noqa: E402
from hwdb.record import write_record  # noqa: E402
from synthesis import writer as synthesis  # noqa: E402

torch.set_num_threads(1)  # more would wait for each other: the workers share the cores

CHARACTERS = "一十口人大小"
# No augmentation.
PARTS = "rotation", "shear", "scale", "shift", "elastic", "stroke", "blur", "coarse", "leftovers"
STILL = dict.fromkeys(PARTS, 0.0)
# A network and a schedule that learn six characters in seconds.
SMALL = [
    *("--size", "32", "--width", "0.5", "--head", "64", "--batch-size", "16"),
    *("--epochs", "16", "--dropout", "0", "--ema", "0.9", "--lr", "0.004", "--threads", "1"),
    *("--device", "cpu"),
]


def run_script(name: str, *arguments: object, cwd: Path | None = None, **options):
    """Run a script of the repository as a user does."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, str(ROOT / name), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        timeout=240,
        **({"text": True, "encoding": "utf-8"} | options),
    )


def call_script(
    name: str, *arguments: object, cwd: Path | None = None
) -> subprocess.CompletedProcess:
    """Run a script's main() in this process: run_script without the seconds that Python takes."""
    out, error, before = io.StringIO(), io.StringIO(), os.getcwd()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            os.chdir(cwd or before)
            status = load_script(name).main(list(map(str, arguments)))
        except SystemExit as stop:
            status = stop.code
        finally:
            os.chdir(before)
    return subprocess.CompletedProcess([name], status, out.getvalue(), error.getvalue())


@functools.cache
def load_script(name: str) -> ModuleType:
    """Import a script by its file; `import test` would find Python's own tests.

    One that the tests have imported by its name is not imported once more.
    """
    known = sys.modules.get(Path(name).stem)
    if getattr(known, "__file__", None) == str(ROOT / name):
        return known
    specification = importlib.util.spec_from_file_location(f"script_{Path(name).stem}", ROOT / name)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


@contextlib.contextmanager
def file_limit(size: int):
    """Let no file grow beyond `size` bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fork(work: Callable[..., object], *given: object) -> int:
    """Return the number of a new process that does work(*given) and ends with 0 if it went well."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        torch.set_num_threads(1)
        work(*given)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def kill_at_random(work: Callable[[], object], times: int, check: Callable[[], None]) -> None:
    """Have a process of its own do `work`, kill it at a random moment, and check; many times.

    The moments lie within 1.2 times the time that the work takes from an untouched start, which is
    what `check` must leave.
    """
    began = time.monotonic()
    os.waitpid(fork(work), 0)
    longest = 1.2 * (time.monotonic() - began)
    check()
    for moment in np.random.default_rng().uniform(0, longest, times):
        pid = fork(work)
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        check()


KILLS = int(os.environ.get("KILLS", "3"))  # 50 once in a while


def bitmap(character: str, writer: int, sample: int = 0) -> np.ndarray:
    """Return a tidy handwritten bitmap (h,w) uint8, 255 = paper."""
    hand = synthesis.Writer.draw(writer, hard=0.5)
    return synthesis.render(character, hand, np.random.default_rng([writer, sample]))


def several() -> np.ndarray:
    """Return a page (300,300) with a character in a frame, and others around it."""
    paper = np.full((300, 300), 255, np.uint8)
    for y, x, side in ((105, 105, 90), (5, 5, 50), (5, 245, 50), (245, 5, 50), (245, 245, 50)):
        ink = bitmap("大" if side == 90 else "人", 1300)
        scale = side / max(ink.shape)
        ink = cv2.resize(ink, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        paper[y : y + ink.shape[0], x : x + ink.shape[1]] = ink
    cv2.rectangle(paper, (80, 80), (220, 220), 90, 2)
    noise = np.random.default_rng(0).normal(0, 2, paper.shape)
    return (paper * 0.85 + 20 + noise).clip(0, 255).astype(np.uint8)


def write_tree(
    root: Path, writers: range, characters: str = CHARACTERS, samples: int = 2, name=folder_name
) -> Path:
    """Write a label-per-folder tree of PNG files."""
    for character in characters:
        folder = root / name(character)
        folder.mkdir(parents=True, exist_ok=True)
        for writer in writers:
            for sample in range(samples):
                data = cv2.imencode(".png", bitmap(character, writer, sample))[1]
                data.tofile(folder / f"{writer}_{sample:05}.png")
    return root


def write_gnt(path: Path, writer: int, characters: str = CHARACTERS) -> Path:
    """Write a .gnt file of one writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as stream:
        for character in characters:
            write_record(stream, character, bitmap(character, writer))
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder with train/ (10 writers) and test/ (4 others)."""
    root = tmp_path_factory.mktemp("data")
    write_tree(root / "train", range(1001, 1011))
    write_tree(root / "test", range(1241, 1245))
    return root


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that `make` makes, once for all xdist workers."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all workers
    folder = shared / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            try:
                make(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    return folder


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory) -> Path:
    """The folder of a finished run on `data`, made by train.py."""

    def make(out: Path) -> None:
        done = call_script("train.py", "--data", data / "train", "--out", out, *SMALL)
        assert done.returncode == 0, done.stderr
        (out / "stdout.txt").write_text(done.stdout, encoding="utf-8")
        (out / "stderr.txt").write_text(done.stderr, encoding="utf-8")

    return made_once(tmp_path_factory, "trained", make)


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory) -> Path:
    """A folder with best.pt and its fp32.onnx, fp16.onnx and int8.onnx, made by export.py."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

    def make(folder: Path) -> None:
        folder.mkdir()
        shutil.copy(trained / "best.pt", folder)
        for precision in ("fp32", "fp16", "int8"):
            out = folder / f"{precision}.onnx"
            arguments = ["--checkpoint", folder / "best.pt", "--out", out, "--precision", precision]
            done = call_script("export.py", *arguments)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(f"{out}: {precision}, {len(CHARACTERS)} classes")
            assert "logits against PyTorch" in done.stdout and "top-1 equal" in done.stdout

    return made_once(tmp_path_factory, "exported", make)


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The page that reads with the shipped weights; without npm's packages network.onnx alone."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

    def make(folder: Path) -> None:
        out = ["--input", "picture", "--precision", "int8", "--out", folder / "network.onnx"]
        if page.RUNTIME.is_dir():
            out = ["--page", folder]
        done = call_script("export.py", "--checkpoint", DEFAULT_CHECKPOINT, *out)
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "site", make)


@pytest.fixture
def doubting(trained, tmp_path) -> Path:
    """A checkpoint of characters and symbols that takes nothing for a character."""
    loaded = checkpoint.load(trained / "best.pt")
    metrics = {"reject": {"scale": 0.0, "offset": -1.0, "threshold": 0.5}}
    path, classes = tmp_path / "doubting.pt", [*CHARACTERS[:4], "1", "2"]
    checkpoint.save(path, loaded["model"], loaded["config"], classes, metrics, 1)
    return path
