"""Device, processes, precision, and evaluation: what train and test share.

    torchrun --nproc-per-node 2 train.py        # one process a GPU; gloo where there is none

    from evaluation.score import evaluate
    from training.devices import pick_device, start_processes
    result = evaluate(model, glyphs, indices, device)
    print(result.topk(1), result.topk(5), result.loss)

Left out: what trains (train.py), what reads pictures (recognizer.py).
"""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
