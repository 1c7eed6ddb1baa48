"""Soft labels of a larger network, computed once a glyph and kept beside the pack.

    python train.py --teacher runs/large/best.pt
    python train.py --teacher network.onnx --teacher-input scale=200,margin=0

The teacher sees what the student sees, before augmentation, prepared at its own size from the
original picture. All its logits are kept, as coordinates in the `RANK` leading directions of its
last linear layer: 512 bytes a glyph instead of four for each class. The student learns from them in
two ways: the softened probabilities (Hinton et al. 2015, "Distilling the Knowledge in a Neural
Network") and the logits themselves (Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?").

    <pack>/teacher-<digest>/labels.bin    N rows of R float16: (logits - bias) @ basis
    <pack>/teacher-<digest>/teacher.npz   basis (K,R), bias (K,), classes
    <pack>/teacher-<digest>/labels.json   says that the labels are finished

Labelling that is interrupted goes on where it stopped. An ONNX teacher runs as a torch module
(optional package onnx2torch), so that it can use the GPU and bfloat16. Its metadata may say
`scale`, `margin` and `classes` (JSON); what they do not say is given by --teacher-input.
A `LiveTeacher` keeps nothing: it looks at every augmented view, as the student does (Beyer et al.
2022, "Knowledge Distillation: A Good Teacher Is Patient and Consistent"). On a GPU that costs less
than a student's step; on a CPU it costs more.
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import checkpoint
from hwdb.characters import LEVEL1, select_classes
from jobs.command import needs, progress
from jobs.devices import has_bfloat16
from jobs.files import only_one, read_mark, replacing, write_mark
from model import to_input
from packing import CHUNK, Pack, scan, stream_glyphs

RANK = 256  # of the teacher of the shipped weights: 99.8 % of the energy of its logits
WORTH_COMPILING = 20_000  # glyphs; compiling takes a minute
VERSION = 1  # of the mark


class Teacher(NamedTuple):
    """A network with what it expects: glyph size, margin (None: S / 32), value of full ink."""

    network: nn.Module
    size: int
    margin: int | None
    scale: float
    classes: list[str]
    digest: str


def load_teacher(path: str | Path, given: str = "") -> Teacher:
    """Load a teacher from a checkpoint of this repository or an ONNX file.

    `given` is what an ONNX teacher expects, see `expectations`. Raises FileNotFoundError, or
    ValueError for what is no network, or one of unknown size or classes.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        if given:
            raise ValueError(f"--teacher-input is for ONNX files; {path} says itself what it wants")
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
        raise needs("an ONNX teacher", error) from None
    try:
        graph = onnx.load(str(path))
        sides = [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
        metadata = {item.key: item.value for item in graph.metadata_props}
        network = onnx2torch.convert(graph).eval()
    except OSError:
        raise
    except Exception as error:  # bytes that are no network make both packages raise almost anything
        raise ValueError(f"{path}: not a readable ONNX network ({error!r:.120})") from None
    if len(sides) != 4 or sides[2] != sides[3] or sides[2] < 1:
        raise ValueError(f"{path}: input of shape {sides}, expected (N, 1, S, S)")
    scale, margin, labels = expectations(given, metadata)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
    if last and last[0].out_features != len(labels):
        said = f"{path}: {last[0].out_features} logits, but {len(labels)} classes are named"
        raise ValueError(f"{said}; name them with --teacher-input classes=FILE")
    digest = _digest(path, scale, margin, labels)
    return Teacher(network, sides[2], margin, scale, labels, digest)


def expectations(given: str, metadata: dict[str, str]) -> tuple[float, int | None, list[str]]:
    """Return scale, margin and classes of an ONNX teacher.

    They are taken from `given` (``scale=200,margin=0,classes=level1``), else from the file's
    metadata, else full ink is 1, the margin None (S / 32), and the classes those of level 1.
    """
    option = "--teacher-input"
    parts = dict(part.partition("=")[::2] for part in given.split(",") if part)
    if wrong := parts.keys() - {"scale", "margin", "classes"}:
        raise ValueError(f"{option} {min(wrong)}: expected scale=V, margin=P, classes=C or some")
    found = metadata | parts
    try:
        scale = float(found.get("scale", 1))
        margin = int(found["margin"]) if "margin" in found else None
    except ValueError as error:
        raise ValueError(f"{option}: scale or margin is no number ({error})") from None
    if not (0 < scale < math.inf and (margin is None or margin >= 0)):
        said = f"scale is {scale}, margin {margin}; expected above 0, 0 or more"
        raise ValueError(f"{option}: {said}")
    if "classes" not in metadata or "classes" in parts:
        chosen = select_classes(parts.get("classes", "level1"), f"{option} classes")
        if chosen is None:
            raise ValueError(f"{option} classes: expected level1, symbols, a number or a file")
        return scale, margin, list(chosen)
    try:
        labels = json.loads(metadata["classes"])
        checkpoint.check_classes(labels)
    except (ValueError, TypeError):
        said = "the teacher's metadata name no classes"
        raise ValueError(f"{said}; give {option} classes=FILE") from None
    return scale, margin, list(labels)


def _digest(path: Path, scale: float, margin: int | None, classes: Sequence[str] = LEVEL1) -> str:
    """Name a teacher's labels by all that decides them; level 1 is the order that goes unsaid."""
    content = hashlib.sha256(path.read_bytes())
    content.update(f"{scale}|{margin}".encode())
    if list(classes) != list(LEVEL1):
        content.update("|".join(classes).encode(errors="surrogatepass"))
    return content.hexdigest()[:12]


def label_pack(
    pack: Pack, teacher: Teacher, device: torch.device, batch_size: int = 64, workers: int = 1
) -> Path:
    """Compute the teacher's labels of a pack, or finish those that are there; return their folder.

    See the module's table.
    """
    folder = pack.folder / f"teacher-{teacher.digest}"
    mark, file = folder / "labels.json", folder / "labels.bin"
    finished = read_mark(mark, VERSION)
    if finished and file.is_file() and file.stat().st_size == finished.get("bytes"):
        return folder
    with only_one(folder, "labelling"):
        write_labels(folder, pack, teacher, device, batch_size, workers)
        write_mark(mark, {"version": VERSION, "bytes": file.stat().st_size})
    return folder


def write_labels(
    folder: Path, pack: Pack, teacher: Teacher, device: torch.device, batch_size: int, workers: int
) -> None:
    """Write labels.bin, or what is missing of it."""
    basis, bias = keep_basis(folder / "teacher.npz", teacher)
    file = folder / "labels.bin"
    file.touch()
    bytes_each = 2 * basis.shape[1]
    entries = scan(pack.source).entries
    start, skipped = labelled(pack, entries, file.stat().st_size // bytes_each)
    os.truncate(file, skipped * bytes_each)
    compiled = len(pack) - skipped >= WORTH_COMPILING
    predict = make_predictor(teacher, (basis, bias), device, batch_size, compiled)
    chunks = stream_glyphs(pack.source, entries[start:], teacher.size, teacher.margin, workers)
    said = f"teacher labels {pack.source.name}"
    with (
        open(file, "ab") as stream,
        progress(total=len(pack), initial=skipped, desc=said, unit=" glyphs") as bar,
    ):
        for chunk in chunks:
            for begin in range(0, len(chunk.glyphs), batch_size):
                some = np.stack([each[0] for each in chunk.glyphs[begin : begin + batch_size]])
                stream.write(predict(some).tobytes())
            bar.update(len(chunk.glyphs))
    if file.stat().st_size != len(pack) * bytes_each:
        file.unlink()
        raise ValueError(f"{pack.source} changed while it was labelled; run again")


def labelled(pack: Pack, entries: Sequence, done: int) -> tuple[int, int]:
    """Return how many entries of a source, and glyphs of these, the first `done` labels cover.

    Only whole tasks of `stream_glyphs` count, so that the others are batched as without a break.
    """
    files = {entry.path for entry in entries}
    per_file = Counter(name if name in files else name.rpartition("#")[0] for name in pack.names)
    start = 0
    while start < len(entries) and per_file[entries[start].path] <= done:
        done -= per_file[entries[start].path]
        start += 1
    if start < len(entries) and entries[start].label:
        start -= start % CHUNK
    return start, sum(per_file[entry.path] for entry in entries[:start])


def keep_basis(path: Path, teacher: Teacher) -> tuple[np.ndarray, np.ndarray]:
    """Return the teacher's basis and bias from the file beside its labels; write it if missing.

    Labels mean nothing without the basis they were made with, and the signs of singular vectors
    differ from machine to machine: what is there is not computed again.
    """
    if not path.exists():
        basis, bias = logit_basis(teacher.network)
        with replacing(path) as temporary:
            np.savez(temporary, basis=basis, bias=bias, classes=teacher.classes)
    with np.load(path) as data:
        return data["basis"], data["bias"]


def logit_basis(network: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Return the directions (K,R) in which a network's logits vary most, and their bias (K,).

    The directions are the leading left singular vectors of the last linear layer, without the part
    that is common to all classes, which no softmax can see.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError("the teacher has no linear layer to take its logits from")
    weight = layers[-1].weight.detach().float()
    bias = layers[-1].bias
    bias = torch.zeros(len(weight)) if bias is None else bias.detach().float()
    directions = torch.linalg.svd(weight - weight.mean(0), full_matrices=False)[0][:, :RANK]
    return directions.cpu().numpy(), (bias - bias.mean()).cpu().numpy()


def make_predictor(
    teacher: Teacher,
    logits_to: tuple[np.ndarray, np.ndarray],
    device: torch.device,
    batch_size: int,
    compiled: bool,
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from glyphs (n,S,S) uint8, n <= batch_size, to labels (n,R) float16.

    `logits_to` is the basis (K,R) of the labels and the bias (K,) that they leave out.
    """
    basis, bias = (torch.from_numpy(array).to(device) for array in logits_to)
    logits = ready(teacher, device, compiled)

    @torch.inference_mode()
    def predict(glyphs: np.ndarray) -> np.ndarray:
        full = np.zeros((batch_size, *glyphs.shape[1:]), np.uint8)  # one shape: one compilation
        full[: len(glyphs)] = glyphs
        seen = logits(to_input(full, device))[: len(glyphs)]
        return ((seen - bias) @ basis).half().cpu().numpy()

    return predict


def ready(teacher: Teacher, device: torch.device, compiled: bool) -> Callable[[Tensor], Tensor]:
    """Return a function from inputs (B,1,S,S) float in 0...1 to a teacher's logits, float32.

    The network runs channels last, in bfloat16 where the processor has it and, if `compiled`,
    through torch.compile: on a CPU core about twice as fast as in float32.
    """
    dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
    network = teacher.network.to(device, dtype, memory_format=torch.channels_last)
    network = torch.compile(network) if compiled else network
    layout = {"dtype": dtype, "memory_format": torch.channels_last}
    return lambda x: network((x * teacher.scale).to(**layout)).float()


class Soft(NamedTuple):
    """A teacher's logits (B,K') float32 of the student's classes `columns` (K',) int64."""

    logits: Tensor
    columns: Tensor


def shared(classes: Sequence[str], known: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the places of the classes that both know: in `classes`, and in `known`.

    Raises ValueError if there are none.
    """
    rows = {label: i for i, label in enumerate(known)}
    both = [(i, rows[label]) for i, label in enumerate(classes) if label in rows]
    if not both:
        raise ValueError("the teacher knows none of the classes")
    return tuple(map(list, zip(*both, strict=True)))


class LiveTeacher:
    """A teacher of augmented views: what of a student's picture of `size` pixels it looks at.

    `side` is the width of its input, `extent` the share of the student's picture that fills it.
    """

    def __init__(
        self, teacher: Teacher, classes: list[str], size: int, device: torch.device, compile: bool
    ) -> None:
        margin = teacher.size // 32 if teacher.margin is None else teacher.margin
        self.side = teacher.size
        self.extent = (1 - 2 * (size // 32) / size) / (1 - 2 * margin / teacher.size)
        self.logits = ready(teacher, device, compile)
        both = shared(classes, teacher.classes)
        self.columns, self.rows = (torch.tensor(places, device=device) for places in both)

    @torch.no_grad()
    def look(self, x: Tensor) -> Soft:
        """Return the logits of views (B,1,side,side) float in 0...1."""
        return Soft(self.logits(x).index_select(1, self.rows), self.columns)


class SoftLabels:
    """The labels of several packs behind the index of a `dataset.CharacterDataset`.

    `folders` are of `label_pack` by the same teacher, in the order of the packs. `columns` (K',)
    int64 tells which of the student's `classes` the teacher knows.
    """

    def __init__(self, folders: list[Path], classes: list[str], device: torch.device) -> None:
        self.device = device
        self.parts: list[tuple[np.ndarray, Tensor, Tensor]] = []  # codes, basis (R,K'), bias (K',)
        for folder in folders:
            with np.load(folder / "teacher.npz") as data:
                basis, bias, names = data["basis"], data["bias"], data["classes"].tolist()
            columns, chosen = shared(classes, names)
            codes = np.memmap(folder / "labels.bin", np.float16, "r").reshape(-1, basis.shape[1])
            basis = torch.from_numpy(basis[chosen].T.copy()).to(device)
            self.parts.append((codes, basis, torch.from_numpy(bias[chosen]).to(device)))
        self.columns = torch.tensor(columns, device=device)
        self.starts = np.cumsum([0, *(len(codes) for codes, _, _ in self.parts)])

    def fetch(self, indices: np.ndarray) -> Soft:
        """Return the teacher's logits of some glyphs, float32."""
        logits = torch.empty(len(indices), len(self.columns), device=self.device)
        part = np.searchsorted(self.starts, indices, "right") - 1
        for number in np.unique(part):
            codes, basis, bias = self.parts[number]
            here = np.flatnonzero(part == number)
            rows = torch.from_numpy(codes[indices[here] - self.starts[number]])
            some = rows.to(self.device, non_blocking=True).float() @ basis + bias
            logits[torch.from_numpy(here).to(self.device)] = some
        return Soft(logits, self.columns)
