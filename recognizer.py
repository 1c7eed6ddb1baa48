"""Read single characters: a checkpoint or an exported ONNX file -> a recognizer.

    from recognizer import Recognizer

    recognizer = Recognizer.from_checkpoint("checkpoints/small80.pt")
    for readings in recognizer.recognize(["a.png", "b.jpg"], top_k=3):
        print(readings[0].character, readings[0].probability)

Pictures go through picture.to_glyph, as in training. Imports neither data sets nor torchvision,
so that it starts fast. Left out: finding characters on a page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import checkpoint
from model import to_input
from picture import read_picture, to_glyph


class Reading(NamedTuple):
    """One reading of a picture; the probability is among the classes of the checkpoint."""

    character: str
    probability: float


class Network(NamedTuple):
    """A loaded network: input (B,1,S,S) float32 in 0...1 -> logits (B,K); label -> class."""

    logits: Callable[[Tensor], Tensor]
    size: int
    classes: list[str]
    source: str


def load_network(path: str | Path, device: torch.device | str = "cpu") -> Network:
    """Load a checkpoint (.pt), or a file of export.py (.onnx), which runs on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint or ONNX file of this repository; onnxruntime is missing.
    """
    if Path(path).suffix == ".onnx":
        return _load_onnx(Path(path))
    loaded = checkpoint.load(path)
    model = checkpoint.build_model(loaded).eval()
    model.to(device, memory_format=torch.channels_last)
    return Network(model, loaded["config"]["size"], loaded["classes"], str(path))


def open_session(path: Path):
    """Open an ONNX file with onnxruntime on the CPU, on as many threads as PyTorch has.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an ONNX file; onnxruntime is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; python export.py makes one")
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(
            f"{path}: reading ONNX needs onnxruntime: pip install -r requirements-optional.txt"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        reason = str(error).splitlines()[0][:120]
        raise ValueError(f"{path}: not a readable ONNX file ({reason})") from None


def _load_onnx(path: Path) -> Network:
    session = open_session(path)
    metadata = session.get_modelmeta().custom_metadata_map
    if "classes" not in metadata or "config" not in metadata:
        raise ValueError(f"{path}: has no classes in its metadata; python export.py writes them")
    name = session.get_inputs()[0].name

    def logits(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.cpu().contiguous().numpy()})[0])

    size = json.loads(metadata["config"])["size"]
    return Network(logits, size, list(json.loads(metadata["classes"])), str(path))


class Recognizer:
    """Read pictures of single characters.

    >>> recognizer = Recognizer.from_checkpoint("checkpoints/small80.pt")
    >>> readings = recognizer.recognize(["samples/U+6C38.png"], top_k=5)[0]
    >>> readings[0].character
    '永'

    A picture is a path, or an array: (h,w), (h,w,3) BGR or (h,w,4) BGRA; uint8, uint16, bool, or
    float in 0...1. Dark on light or light on dark, scan or photo.
    """

    def __init__(self, network: Network, device: torch.device | str = "cpu") -> None:
        self.network = network
        self.device = torch.device(device)

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: torch.device | str = "cpu") -> Recognizer:
        """Load a checkpoint or an exported ONNX file.

        Raises:
            FileNotFoundError, ValueError: see `load_network`.
        """
        return cls(load_network(path, device), device)

    @property
    def classes(self) -> list[str]:
        return self.network.classes

    def glyph(self, picture: str | Path | np.ndarray) -> np.ndarray:
        """Return what the network gets of a picture: (S,S) uint8, 0 = paper.

        Raises:
            FileNotFoundError, ValueError: no such file; not a picture; blank; too large.
        """
        if isinstance(picture, np.ndarray):
            return to_glyph(picture, self.network.size)
        pixels = read_picture(picture)
        try:
            return to_glyph(pixels, self.network.size)
        except ValueError as error:
            raise ValueError(f"{picture}: {error}") from None

    @torch.inference_mode()
    def read(self, glyphs: np.ndarray, top_k: int = 10) -> list[list[Reading]]:
        """Read prepared glyphs (B,S,S) uint8; best first, top_k readings each."""
        x = to_input(glyphs, self.device).contiguous(memory_format=torch.channels_last)
        best = self.network.logits(x).float().softmax(1).topk(min(top_k, len(self.classes)))
        return [
            [Reading(self.classes[i], p) for i, p in zip(labels, probabilities, strict=True)]
            for labels, probabilities in zip(
                best.indices.tolist(), best.values.tolist(), strict=True
            )
        ]

    def recognize(
        self, pictures: Sequence[str | Path | np.ndarray], top_k: int = 10
    ) -> list[list[Reading]]:
        """Read pictures; best first, top_k readings each.

        Raises:
            FileNotFoundError, ValueError: a picture cannot be read; see `glyph`.
        """
        if not pictures:
            return []
        return self.read(np.stack([self.glyph(picture) for picture in pictures]), top_k)
