"""The page for drawing: demo.py serves it, export.py --page makes a folder for a static host.

    npm ci --prefix page            # once: onnxruntime-web, for pages without a server
    python export.py --checkpoint checkpoints/small80.pt --page site    # works offline, too

In network.json, `reads` is `server` (POST read) or `here` (reader.js with network.onnx).
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
    """Return the subsets of classes that the page offers; all alone if there is one only."""
    known = {"level1": set(LEVEL1), "symbols": set(SYMBOLS)}
    there = [name for name, group in known.items() if group & set(classes)]
    return ["all", *there] if len(there) > 1 else ["all"]


def describe(reads: str, summary: str, classes: Sequence[str], size: int) -> dict:
    """Return the content of network.json; `reads` is server or here."""
    return {"reads": reads, "summary": summary, "size": size, "choices": choices(classes)}


def check_runtime() -> None:
    """Raise FileNotFoundError if onnxruntime-web is not installed."""
    for name in RUNTIME_FILES:
        if not (RUNTIME / name).is_file():
            raise FileNotFoundError(f"{RUNTIME / name}: no such file; run: npm ci --prefix page")


def publish(folder: Path, classes: Sequence[str], described: dict) -> None:
    """Add the page to a folder with network.onnx; each class is one character.

    `described` is that of `describe` with `threshold` and `twins`, see recognizer.Recognizer.
    """
    described = described | {"classes": "".join(classes), "symbols": SYMBOLS}
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
