"""Knowledge distillation: the teacher network and the loss of the student.

The teacher predicts every augmented view that the student trains on, so nothing is stored (Beyer et
al. 2022, "Knowledge Distillation: A Good Teacher Is Patient and Consistent"). It sees the view
before strokes, resolution and surroundings are degraded. The student learns the probabilities
(Hinton et al. 2015, "Distilling the Knowledge in a Neural Network") and, with --logit-weight, its
logits (Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?").

A teacher is a checkpoint of this repository or an ONNX file. ONNX files are converted to PyTorch if
the optional package onnx2torch can do it, to run on GPUs; otherwise ONNX Runtime runs them on the
CPU. The metadata of an ONNX file may contain `classes` (JSON); the default is level 1.
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import checkpoint
from config import Config
from hwdb.characters import LEVEL1
from jobs.devices import has_bfloat16
from recognizer import open_session

MISREAD_WEIGHT = 0.3  # of the teacher's loss on samples whose label it does not predict


class Network(NamedTuple):
    """The network of a teacher."""

    module: nn.Module  # (B,1,S,S) -> logits (B,K)
    size: int  # S, pixels
    classes: list[str]  # K, in the order of the logits


class OnnxRuntime(nn.Module):
    """A network that ONNX Runtime runs on the CPU, whatever device its input is on."""

    def __init__(self, session) -> None:
        super().__init__()
        self.session = session

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        inputs = {self.session.get_inputs()[0].name: x.float().contiguous().cpu().numpy()}
        return torch.from_numpy(self.session.run(None, inputs)[0]).to(x.device)


def load_teacher(path: str | Path) -> Network:
    """Load a teacher from a checkpoint or an ONNX file.

    Raises FileNotFoundError, or ValueError if the file cannot be read or does not fit its classes.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        loaded = checkpoint.load(path)
        module = checkpoint.build_model(loaded).eval()
        return Network(module, loaded["config"]["size"], loaded["classes"])
    session = open_session(path)
    shape = session.get_inputs()[0].shape
    if len(shape) != 4 or shape[1] != 1 or shape[2] != shape[3] or not isinstance(shape[2], int):
        raise ValueError(f"{path}: its input has shape {shape}, expected (N, 1, S, S)")
    blank = torch.zeros(1, *shape[1:])
    try:
        import onnx2torch

        module = onnx2torch.convert(str(path)).eval()
        logits = module(blank)
    except Exception:  # not installed, or without an operator: it raises almost anything
        module = OnnxRuntime(session)
        logits = module(blank)
    classes = session.get_modelmeta().custom_metadata_map.get("classes", json.dumps(LEVEL1))
    try:
        checkpoint.check_classes(classes := json.loads(classes))
    except (ValueError, TypeError):
        raise ValueError(f"{path}: `classes` in its metadata are no classes in JSON") from None
    if logits.shape != (1, len(classes)):
        what = f"{path}: {logits.shape[-1]} logits for {len(classes)} classes"
        raise ValueError(f"{what}; write their order into its metadata: `classes` in JSON")
    return Network(module, shape[2], list(classes))


class Teacher:
    """A teacher for a student with `classes` and the input of a config.

    Attributes:
        side, extent: the view it expects, see `training.augment.warp`.
        columns: (K',) int64, the student's classes that it knows.
        place: (K,) int64, where they stand among these; -1 for classes it does not know.
    """

    def __init__(
        self, network: Network, classes: list[str], config: Config, device: torch.device
    ) -> None:
        known = {label: i for i, label in enumerate(network.classes)}
        columns = [i for i, label in enumerate(classes) if label in known]
        if not columns:
            raise ValueError("the teacher knows none of the classes")
        self.columns = torch.tensor(columns, device=device)
        self.rows = torch.tensor([known[classes[i]] for i in columns], device=device)
        self.place = torch.full((len(classes),), -1, device=device)
        self.place[self.columns] = torch.arange(len(columns), device=device)
        size, self.side, self.scale = config.size, network.size, config.teacher_scale
        margin = self.side // 32 if config.teacher_margin < 0 else config.teacher_margin
        if 2 * margin >= self.side:
            raise ValueError(f"--teacher-margin {margin} leaves nothing of {self.side} pixels")
        self.extent = (1 - 2 * (size // 32) / size) / (1 - 2 * margin / self.side)
        # On a CPU core with bfloat16 about twice as fast as in float32.
        self.dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
        module = network.module.to(device, self.dtype, memory_format=torch.channels_last)
        self.module = torch.compile(module) if config.compile else module

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return logits (B,K') float32 of views (B,1,side,side) in 0...1."""
        x = (x * self.scale).to(dtype=self.dtype, memory_format=torch.channels_last)
        return self.module(x).float().index_select(1, self.rows)

    def loss(
        self, logits: Tensor, logprob: Tensor, hard: Tensor, target: Tensor, labels: Tensor,
        config: Config,
    ) -> Tensor:  # fmt: skip
        """Mix the loss of the labels with the loss to the teacher's predictions.

        Samples without a label learn from the teacher alone. Classes unknown to the teacher get
        zero target probability; samples of these classes learn from their labels alone.

        Args:
            logits, logprob: (B,K) float32, the student's logits and their log-softmax.
            hard: (B,) float32, the loss of the labels; returned is the mixture.
            target: (B,K') float32, the teacher's logits, scaled by the confidence.
            labels: (B,) int64, below 0 without a label.
        """
        free = labels < 0
        place = self.place[labels.clamp(min=0)]
        trust = torch.where(target.argmax(1) == place, 1.0, MISREAD_WEIGHT)
        trust = torch.where(free, 1.0, (place >= 0) * trust)
        weight = torch.where(free, 1.0, config.teacher_weight * trust)
        soft = -(target.softmax(1) * logprob.index_select(1, self.columns)).sum(1)
        loss = (1 - weight) * hard + weight * soft
        if config.logit_weight:
            student = logits.index_select(1, self.columns)
            target = target - target.mean(1, keepdim=True)
            error = (student - student.mean(1, keepdim=True) - target).square().mean(1)
            energy = target.square().mean().clamp(min=1e-6)  # 0 if the teacher knows one class
            loss = loss + config.logit_weight * trust * error / energy
        return loss
