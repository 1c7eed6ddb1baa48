"""The page on which one draws: demo.py serves it, and export.py --page makes a folder of it.

    npm ci --prefix page            # once: onnxruntime-web, for pages without a server
    python export.py --page site    # site/ works on any static host, and offline after one visit

network.json tells the page who reads: `server` (POST read) or `here` (reader.js, network.onnx).
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from hwdb.characters import LEVEL1, SYMBOLS

HERE = Path(__file__).parent
FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
READER = "reader.js"
WORKER = "service-worker.js"
RUNTIME = HERE / "node_modules" / "onnxruntime-web" / "dist"
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


def choices(classes: Sequence[str]) -> list[str]:
    """Return which selections of classes the page offers; one alone is no choice."""
    known = {"level1": set(LEVEL1), "symbols": set(SYMBOLS)}
    there = [name for name, group in known.items() if group & set(classes)]
    return ["all", *there] if len(there) > 1 else ["all"]


def describe(reads: str, checkpoint: str, classes: Sequence[str], size: int) -> dict:
    """Return what network.json says; `reads` is server or here."""
    said = {"reads": reads, "checkpoint": checkpoint, "size": size}
    return said | {"count": len(classes), "choices": choices(classes)}


def check_runtime() -> None:
    """Raise a FileNotFoundError if what the page reads with is not there."""
    for name in RUNTIME_FILES:
        if not (RUNTIME / name).is_file():
            raise FileNotFoundError(f"{RUNTIME / name}: not there; npm ci --prefix page fetches it")


def publish(
    folder: Path, checkpoint: str, classes: Sequence[str], size: int, threshold: float | None
) -> None:
    """Make a folder that holds network.onnx, of classes of one character, a page that reads."""
    described = describe("here", checkpoint, classes, size)
    described |= {"threshold": threshold, "classes": "".join(classes), "symbols": SYMBOLS}
    for name in (*FILES, READER):
        shutil.copyfile(HERE / name, folder / name)
    for name in RUNTIME_FILES:
        shutil.copyfile(RUNTIME / name, folder / name)
    (folder / "network.json").write_text(json.dumps(described, ensure_ascii=False), "utf-8")
    names = [*FILES, READER, *RUNTIME_FILES, "network.json", "network.onnx"]
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names))
    names[0] = "./"  # index.html, by the name under which it is opened
    worker = (HERE / WORKER).read_text("utf-8")
    head = f'const VERSION = "{digest.hexdigest()[:16]}";\nconst FILES = {json.dumps(names)};\n'
    (folder / WORKER).write_text(head + worker, "utf-8")
