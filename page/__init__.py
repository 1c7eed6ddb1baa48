"""The web page for drawing: demo.py serves it, export.py --page makes a copy for static hosting.

    npm ci --prefix page            # once: onnxruntime-web, for pages without a server
    python export.py --checkpoint checkpoints/small80.pt --page site    # also works offline

In network.json, `reads` is `server` (POST read) or `here` (reader.js with network.onnx).
"""

import hashlib
import json
import shutil
from pathlib import Path

HERE = Path(__file__).parent
FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
RUNTIME = HERE / "node_modules" / "onnxruntime-web" / "dist"
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


def check_runtime() -> None:
    """Raise FileNotFoundError if onnxruntime-web is not installed."""
    for name in RUNTIME_FILES:
        if not (RUNTIME / name).is_file():
            raise FileNotFoundError(f"{RUNTIME / name}: no such file; run: npm ci --prefix page")


def publish(folder: Path, described: dict) -> None:
    """Add the page to a folder with network.onnx; `described` is the content of network.json."""
    sources = [HERE / name for name in (*FILES, "reader.js")]
    sources += [RUNTIME / name for name in RUNTIME_FILES]
    for source in sources:
        shutil.copyfile(source, folder / source.name)
    (folder / "network.json").write_text(json.dumps(described, ensure_ascii=False), "utf-8")
    names = [*(source.name for source in sources), "network.json", "network.onnx"]
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names))
    names[0] = "./"  # index.html, by the name under which it is opened
    worker = (HERE / "service-worker.js").read_text("utf-8")
    head = f'const VERSION = "{digest.hexdigest()[:16]}";\nconst FILES = {json.dumps(names)};\n'
    (folder / "service-worker.js").write_text(head + worker, "utf-8")
