"""Devices, process groups and precision, shared by train.py and test.py.

    torchrun --nproc-per-node 2 train.py        # one process a GPU; gloo where there is none

Left out: what trains (train.py), what reads pictures (recognizer.py).
"""

import contextlib
import ctypes
import os
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


MALLOC = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 1 << 26)}


def keep_memory() -> None:
    """Have the C library keep what is freed: the next step wants as much again.

    What goes back to the system comes as fresh pages, which takes a tenth of a step on a CPU, with
    a live teacher a third (malloc.h of glibc; elsewhere nothing happens).
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in MALLOC.values():
            mallopt(option, value)


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
    if on_gpu and processes.local_rank >= (gpus := torch.cuda.device_count()):
        message = f"process {processes.local_rank + 1} of this machine has no GPU, there are {gpus}"
        raise ValueError(f"{message}; start {gpus} with --nproc-per-node, or give --device cpu")
    if on_gpu:
        torch.cuda.set_device(processes.local_rank)
    # The first process may pack and label for hours while the others wait.
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(days=1))
    return processes


def in_turn(processes: Processes, make: Callable[[], T]) -> T:
    """Call `make` on the first process, then on the first of each node, then on the others."""
    if processes.world == 1:
        return make()
    mine = 0 if processes.main else 1 if processes.local_rank == 0 else 2
    for turn in range(3):
        if turn == mine:
            made = make()
        dist.barrier()
    return made


def stop_processes() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """Return the device of a setting; auto takes CUDA, then MPS, then the CPU."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps") from None
    gpu = cuda and (device.index or 0) < max(torch.cuda.device_count(), 1)
    if not {"cpu": True, "cuda": gpu, "mps": mps}.get(device.type, False):
        raise ValueError(f"--device {name}: not there; use --device auto or cpu")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # batches are of one size
    return torch.device("cuda", local_rank) if name == "cuda" else device


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a CPU tensor to a device without waiting for what is queued there."""
    if device.type == "cuda":  # from pageable memory the copy would wait
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; what emulates it is slow."""
    if device.type == "cpu":  # private, and not in the oldest versions
        return getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def pick_dtype(amp: str, device: torch.device) -> torch.dtype:
    """Return the dtype of autocast; float32 switches it off.

    Measured on CPUs, bfloat16 autocast trains this network slower than float32: auto is float32.
    """
    if amp == "auto" and device.type == "cuda":
        return torch.bfloat16 if has_bfloat16(device) else torch.float16
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return kinds.get(amp, torch.float32)
