"""Soft labels of a larger network, computed once a glyph and kept beside the pack.

    python train.py --teacher runs/large/best.pt
    python train.py --teacher network.onnx --teacher-scale 200 --teacher-margin 0

The teacher sees what the student sees, before augmentation, prepared at its own size from the
original picture (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"). Kept are the
`TOP` largest log-probabilities of each glyph, 128 bytes: a million glyphs take 128 MB.

    <pack>/teacher-<digest>/labels.bin    N records: TOP int16 classes, TOP float16 log-probs
    <pack>/teacher-<digest>/teacher.json  teacher's classes; fingerprint of the source

Labelling that is interrupted goes on where it stopped. An ONNX teacher runs as a torch module
(optional package onnx2torch), so that it can use the GPU and bfloat16.
Left out: teachers labelling augmented batches during training, which costs more than the student.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import checkpoint
from dataset import Pack, scan, stream_glyphs
from transforms import to_input

TOP = 32
WORTH_COMPILING = 20_000  # glyphs; compiling takes a minute
RECORD = np.dtype([("index", "<i2", TOP), ("logprob", "<f2", TOP)])


class Teacher(NamedTuple):
    """A network with what it expects: glyph size, margin, value of full ink; its classes."""

    network: nn.Module
    size: int
    margin: int | None
    scale: float
    classes: list[str]
    digest: str


def load_teacher(
    path: str | Path, scale: float, margin: int | None, classes: str | None
) -> Teacher:
    """Load a teacher from a checkpoint of this repository or an ONNX file.

    Args:
        scale: value of full ink in the input of an ONNX teacher (1 or 255, say).
        margin: paper around the ink of an ONNX teacher's glyph, pixels; None: S / 32.
        classes: the order of an ONNX teacher's logits, where the file does not say.

    Raises:
        FileNotFoundError, ValueError: no such file; not a network; size or classes unknown.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        loaded = checkpoint.load(path)
        network = checkpoint.build_model(loaded).eval()
        digest = _digest(path, 1.0, None)
        return Teacher(network, loaded["config"]["size"], None, 1.0, loaded["classes"], digest)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such teacher")
    try:
        import onnx
        import onnx2torch
    except ImportError as error:
        raise ValueError(
            f"an ONNX teacher needs the package {error.name}: "
            "pip install -r requirements-optional.txt"
        ) from None
    graph = onnx.load(str(path))
    sides = [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
    metadata = {item.key: item.value for item in graph.metadata_props}
    if len(sides) != 4 or sides[2] != sides[3] or sides[2] < 1:
        raise ValueError(f"{path}: input of shape {sides}, expected (N, 1, S, S)")
    labels = json.loads(metadata["classes"]) if "classes" in metadata else list(classes or "")
    if not labels:
        raise ValueError(f"{path}: does not say its classes; name them with --teacher-classes")
    network = onnx2torch.convert(graph).eval()
    return Teacher(network, sides[2], margin, scale, labels, _digest(path, scale, margin))


def _digest(path: Path, scale: float, margin: int | None) -> str:
    content = hashlib.sha256(path.read_bytes())
    content.update(f"{scale}|{margin}".encode())
    return content.hexdigest()[:12]


def label_pack(
    pack: Pack, teacher: Teacher, device: torch.device, batch_size: int = 64, workers: int = 1
) -> Path:
    """Compute the teacher's labels of a pack, or finish or reuse those that are there.

    Returns:
        The folder of the labels; see the module's table.
    """
    folder = pack.folder / f"teacher-{teacher.digest}"
    folder.mkdir(exist_ok=True)
    meta = {"classes": teacher.classes, "fingerprint": pack.fingerprint}
    (folder / "teacher.json").write_text(json.dumps(meta), encoding="utf-8")
    file = folder / "labels.bin"
    done = file.stat().st_size // RECORD.itemsize if file.exists() else 0
    if done == len(pack):
        return folder
    entries = scan(pack.source)
    per_file = Counter(name.partition("#")[0] for name in pack.names)
    start = skipped = 0  # whole files that are labelled already
    while start < len(entries) and skipped + per_file[entries[start].path] <= done:
        skipped += per_file[entries[start].path]
        start += 1
    predict = make_predictor(teacher, device, batch_size, len(pack) - skipped >= WORTH_COMPILING)
    with (
        open(file, "r+b" if file.exists() else "w+b") as stream,
        tqdm(
            total=len(pack),
            initial=skipped,
            desc=f"teacher labels {pack.source.name}",
            unit=" glyphs",
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        stream.truncate(skipped * RECORD.itemsize)
        stream.seek(0, os.SEEK_END)
        for chunk in stream_glyphs(
            pack.source, entries[start:], teacher.size, teacher.margin, workers
        ):
            for begin in range(0, len(chunk.glyphs), batch_size):
                stream.write(predict(chunk.glyphs[begin : begin + batch_size]).tobytes())
            bar.update(len(chunk.glyphs))
    if file.stat().st_size != len(pack) * RECORD.itemsize:
        raise ValueError(f"{pack.source} changed while it was labelled; run again")
    return folder


def make_predictor(
    teacher: Teacher, device: torch.device, batch_size: int, compiled: bool
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from glyphs (n,S,S) uint8, n <= batch_size, to n `RECORD`s.

    The network runs in bfloat16, channels last and, if `compiled`, through torch.compile: on a CPU
    core about twice as fast as in float32, with 0.5 % of the probability mass moved.
    """
    network = teacher.network.to(device, torch.bfloat16, memory_format=torch.channels_last)
    if compiled:
        network = torch.compile(network)

    @torch.inference_mode()
    def predict(glyphs: np.ndarray) -> np.ndarray:
        full = np.zeros((batch_size, *glyphs.shape[1:]), np.uint8)  # one shape: one compilation
        full[: len(glyphs)] = glyphs
        x = to_input(full, device).mul_(teacher.scale).bfloat16()
        logits = network(x.contiguous(memory_format=torch.channels_last))[: len(glyphs)].float()
        best = logits.log_softmax(1).topk(min(TOP, logits.shape[1]))
        records = np.zeros(len(glyphs), RECORD)
        records["logprob"] = -np.inf
        width = best.indices.shape[1]
        records["index"][:, :width] = best.indices.cpu().numpy()
        records["logprob"][:, :width] = best.values.cpu().numpy()
        return records

    return predict


class SoftLabels:
    """The labels of several packs behind the index of a `dataset.GlyphSet`.

    Args:
        folders: of `label_pack`, in the order of the packs; None for a pack without labels.
        counts: number of glyphs of each pack.
        classes: the student's; probability of other classes is dropped.
    """

    def __init__(self, folders: list[Path | None], counts: list[int], classes: list[str]) -> None:
        index = {label: i for i, label in enumerate(classes)}
        self.records = np.zeros(sum(counts), RECORD)
        self.records["logprob"] = -np.inf
        start = 0
        for folder, count in zip(folders, counts, strict=True):
            here = self.records[start : start + count]
            start += count
            if folder is None:
                continue
            meta = json.loads((folder / "teacher.json").read_text(encoding="utf-8"))
            table = np.array([index.get(label, -1) for label in meta["classes"]], np.int16)
            here[:] = np.fromfile(folder / "labels.bin", RECORD)
            here["index"] = table[here["index"]]
            here["logprob"][here["index"] < 0] = -np.inf
            here["index"][here["index"] < 0] = 0

    def fetch(self, indices: np.ndarray, temperature: float) -> tuple[Tensor, Tensor]:
        """Return classes (B,TOP) int64 and probabilities (B,TOP) float32 softened by temperature.

        Rows without labels are all zero.
        """
        records = self.records[indices]
        logprob = torch.from_numpy(records["logprob"].astype(np.float32)) / temperature
        probability = logprob.softmax(1).nan_to_num_(0.0)
        return torch.from_numpy(records["index"].astype(np.int64)), probability
