"""Device, processes, precision, and evaluation: what train and test share.

    torchrun --nproc-per-node 2 train.py        # one process a GPU; gloo where there is none

    from engine import pick_device, start_processes, evaluate
    result = evaluate(model, glyphs, indices, device)
    print(result.topk(1), result.topk(5), result.loss)

Left out: what trains (train.py), what reads pictures (recognizer.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dataset import GlyphSet
from transforms import to_input

TOP = 10


class Processes(NamedTuple):
    """This process among those of torchrun; rank 0 of 1 without it."""

    rank: int
    world: int
    local_rank: int

    @property
    def main(self) -> bool:
        return self.rank == 0


def start_processes(device: str) -> Processes:
    """Join the process group that torchrun describes in the environment, if there is one."""
    if "RANK" not in os.environ:
        return Processes(0, 1, 0)
    processes = Processes(*(int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    on_gpu = torch.cuda.is_available() and device in ("auto", "cuda")
    if on_gpu:
        torch.cuda.set_device(processes.local_rank)
    # The first process may pack and label for hours while the others wait.
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(days=1))
    return processes


def stop_processes() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """Return the device of a setting; auto takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: not a device, or not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps") from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available()
        and (device.index or 0) < max(torch.cuda.device_count(), 1),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise ValueError(f"--device {name}: not there; use --device auto or cpu")
    return torch.device("cuda", local_rank) if name == "cuda" else device


def pick_dtype(amp: str, device: torch.device) -> torch.dtype:
    """Return the dtype of autocast; float32 switches it off.

    Measured on CPUs, bfloat16 autocast trains this network slower than float32: auto is float32.
    """
    if amp == "auto":
        if device.type == "cuda":
            native = torch.cuda.get_device_capability(device) >= (8, 0)  # older ones emulate it
            return torch.bfloat16 if native else torch.float16
        return torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Return the autocast of a dtype, a no-op for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


class Result(NamedTuple):
    """Evaluation of n samples, in the order of the indices.

    top (n,T) int64: best labels, T = min(10, K); probability (n,T) float32; labels (n,) int64;
    losses (n,) float32: cross-entropy without smoothing; indices (n,) int64.
    """

    top: np.ndarray
    probability: np.ndarray
    labels: np.ndarray
    losses: np.ndarray
    indices: np.ndarray

    def topk(self, k: int) -> float:
        """Return the share of samples whose label is among the best k."""
        return float((self.top[:, :k] == self.labels[:, None]).any(1).mean())

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


@torch.no_grad()
def evaluate(
    network: nn.Module | Callable[[Tensor], Tensor],
    glyphs: GlyphSet,
    indices: np.ndarray,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 256,
    processes: Processes | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> Result:
    """Score glyphs; with several processes each takes a share, and all get the whole result.

    A module is put into eval mode and back. Every sample counts exactly once.
    """
    rank, world = (processes.rank, processes.world) if processes else (0, 1)
    mine = indices[rank::world]
    training = isinstance(network, nn.Module) and network.training
    if isinstance(network, nn.Module):
        network.eval()
    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(mine), batch_size):
        chosen = mine[start : start + batch_size]
        images, labels = glyphs.fetch(chosen)
        x = to_input(images, device).contiguous(memory_format=torch.channels_last)
        with autocast(device, dtype):
            logits = network(x)
        logprob = logits.float().log_softmax(1).cpu()
        best = logprob.topk(min(TOP, logprob.shape[1]))
        losses = -logprob.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        parts.append(
            (
                best.indices.numpy(),
                best.values.exp().numpy(),
                labels.numpy(),
                losses.numpy(),
                chosen,
            )
        )
        progress(len(chosen))
    if isinstance(network, nn.Module):
        network.train(training)
    if world > 1:
        gathered: list[list] = [[] for _ in range(world)]
        dist.all_gather_object(gathered, parts)
        parts = [part for share in gathered for part in share]
    if not parts:
        raise ValueError("nothing to evaluate: no samples")
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[-1], kind="stable")
    return Result(*(column[order] for column in columns))


class GlobalBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, for devices that PyTorch's SyncBatchNorm lacks.

    Means are averaged over processes with a differentiable all-reduce, so every process must have
    the same number of samples.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce  # slow to import for predict.py

        world = dist.get_world_size()
        moments = torch.stack([x.mean((0, 2, 3)), (x * x).mean((0, 2, 3))])  # (2,C)
        moments = all_reduce(moments) / world
        mean, variance = moments[0], moments[1] - moments[0] ** 2
        with torch.no_grad():
            n = x.numel() / x.shape[1] * world
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Make BatchNorm count the samples of all processes; names of weights stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                norm = GlobalBatchNorm(child.num_features, child.eps, child.momentum)
                norm.load_state_dict(child.state_dict())
                setattr(module, name, norm)
    return model
