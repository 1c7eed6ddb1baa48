"""Soft labels of a larger network, computed once a glyph and kept beside the pack.

    python train.py --teacher runs/large/best.pt
    python train.py --teacher network.onnx --teacher-scale 200 --teacher-margin 0

The teacher sees what the student sees, before augmentation, prepared at its own size from the
original picture. Kept are all its logits, as coordinates in the `RANK` leading directions of its
last linear layer: 512 bytes a glyph instead of four for each class. The student learns from them in
two ways: the softened probabilities (Hinton et al. 2015, "Distilling the Knowledge in a Neural
Network") and the logits themselves (Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?").

    <pack>/teacher-<digest>/labels.bin    N rows of R float16: (logits - bias) @ basis
    <pack>/teacher-<digest>/teacher.npz   basis (K,R), bias (K,), classes

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import checkpoint
from dataset import Pack, scan, stream_glyphs
from hwdb.characters import LEVEL1
from model import to_input

RANK = 256  # of the teacher of the shipped weights: 99.8 % of the energy of its logits
WORTH_COMPILING = 20_000  # glyphs; compiling takes a minute


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
        raise ValueError(f"{path}: does not say its classes; name them with --teacher-classes FILE")
    network = onnx2torch.convert(graph).eval()
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
    if last and last[0].out_features != len(labels):
        raise ValueError(
            f"{path}: {last[0].out_features} logits, but {len(labels)} classes are named; "
            "name them with --teacher-classes"
        )
    digest = _digest(path, scale, margin, labels)
    return Teacher(network, sides[2], margin, scale, labels, digest)


def _digest(path: Path, scale: float, margin: int | None, classes: Sequence[str] = LEVEL1) -> str:
    """Name a teacher's labels by all that decides them; level 1 is the order that goes unsaid."""
    content = hashlib.sha256(path.read_bytes())
    content.update(f"{scale}|{margin}".encode())
    if list(classes) != list(LEVEL1):
        content.update("|".join(classes).encode())
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
    basis, bias = keep_basis(folder / "teacher.npz", teacher)
    file = folder / "labels.bin"
    bytes_each = 2 * basis.shape[1]
    done = file.stat().st_size // bytes_each if file.exists() else 0
    if done == len(pack):
        return folder
    entries = scan(pack.source)
    per_file = Counter(name.partition("#")[0] for name in pack.names)
    start = skipped = 0  # whole files that are labelled already
    while start < len(entries) and skipped + per_file[entries[start].path] <= done:
        skipped += per_file[entries[start].path]
        start += 1
    compiled = len(pack) - skipped >= WORTH_COMPILING
    predict = make_predictor(teacher, (basis, bias), device, batch_size, compiled)
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
        stream.truncate(skipped * bytes_each)
        stream.seek(0, os.SEEK_END)
        for chunk in stream_glyphs(
            pack.source, entries[start:], teacher.size, teacher.margin, workers
        ):
            for begin in range(0, len(chunk.glyphs), batch_size):
                stream.write(predict(chunk.glyphs[begin : begin + batch_size]).tobytes())
            bar.update(len(chunk.glyphs))
    if file.stat().st_size != len(pack) * bytes_each:
        raise ValueError(f"{pack.source} changed while it was labelled; run again")
    return folder


def keep_basis(path: Path, teacher: Teacher) -> tuple[np.ndarray, np.ndarray]:
    """Return the teacher's basis and bias from the file beside its labels; write it if missing.

    Labels mean nothing without the basis they were made with, and the signs of singular vectors
    differ from machine to machine: what is there is not computed again.
    """
    if not path.exists():
        basis, bias = logit_basis(teacher.network)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, basis=basis, bias=bias, classes=teacher.classes)
        os.replace(temporary, path)
    with np.load(path) as data:
        return data["basis"], data["bias"]


def logit_basis(network: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Return the directions (K,R) in which a network's logits vary most, and their bias (K,).

    The directions are the leading left singular vectors of the last linear layer, without the part
    that is common to all classes, which no softmax can see.

    Raises:
        ValueError: the network has no linear layer.
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

    `logits_to` is the basis (K,R) of the labels and the bias (K,) that they leave out. The network
    runs channels last, in bfloat16 where the processor has it and, if `compiled`, through
    torch.compile: on a CPU core about twice as fast as in float32.
    """
    basis, bias = (torch.from_numpy(array).to(device) for array in logits_to)
    dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
    network = teacher.network.to(device, dtype, memory_format=torch.channels_last)
    if compiled:
        network = torch.compile(network)

    @torch.inference_mode()
    def predict(glyphs: np.ndarray) -> np.ndarray:
        full = np.zeros((batch_size, *glyphs.shape[1:]), np.uint8)  # one shape: one compilation
        full[: len(glyphs)] = glyphs
        x = to_input(full, device).mul_(teacher.scale).to(dtype)
        logits = network(x.contiguous(memory_format=torch.channels_last))[: len(glyphs)].float()
        return ((logits - bias) @ basis).half().cpu().numpy()

    return predict


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; a CPU that does not is very slow in it."""
    if device.type == "cpu":  # private, and not in the oldest versions
        return getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


class SoftLabels:
    """The labels of several packs behind the index of a `dataset.GlyphSet`.

    Args:
        folders: of `label_pack` by the same teacher, in the order of the packs.
        classes: the student's; those that the teacher does not know have no soft labels.

    Attributes:
        known: (K,) bool, which of the student's classes the teacher knows, K' of them.
    """

    def __init__(self, folders: list[Path], classes: list[str], device: torch.device) -> None:
        self.device = device
        self.parts: list[tuple[np.ndarray, Tensor, Tensor]] = []  # codes, basis (R,K'), bias (K',)
        for folder in folders:
            with np.load(folder / "teacher.npz") as data:
                basis, bias, names = data["basis"], data["bias"], data["classes"].tolist()
            rows = {label: i for i, label in enumerate(names)}
            chosen = [rows[label] for label in classes if label in rows]
            codes = np.memmap(folder / "labels.bin", np.float16, "r").reshape(-1, basis.shape[1])
            basis = torch.from_numpy(basis[chosen].T.copy()).to(device)
            self.parts.append((codes, basis, torch.from_numpy(bias[chosen]).to(device)))
        if not chosen:
            raise ValueError("the teacher knows none of the classes")
        self.known = torch.tensor([label in rows for label in classes], device=device)
        self.starts = np.cumsum([0, *(len(codes) for codes, _, _ in self.parts)])

    def fetch(self, indices: np.ndarray) -> Tensor:
        """Return the teacher's logits (B,K') float32 of the classes in `known`."""
        logits = torch.empty(len(indices), int(self.known.sum()), device=self.device)
        part = np.searchsorted(self.starts, indices, "right") - 1
        for number in np.unique(part):
            codes, basis, bias = self.parts[number]
            here = np.flatnonzero(part == number)
            rows = torch.from_numpy(codes[indices[here] - self.starts[number]])
            some = rows.to(self.device, non_blocking=True).float() @ basis + bias
            logits[torch.from_numpy(here).to(self.device)] = some
        return logits
