"""Devices, process groups and precision, shared by training, evaluation and the recognizer."""

import contextlib
import ctypes
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h


def keep_memory() -> None:
    """Make the C library keep freed memory for the next step, which needs as much again.

    Getting new pages from the system takes a tenth of a step on a CPU, with a teacher a third.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt  # glibc alone has it
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 1 << 26)


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
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        return Processes(0, 1, 0)
    processes = Processes(*(int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    on_gpu = torch.cuda.is_available() and device in ("auto", "cuda")
    if on_gpu and processes.local_rank >= (gpus := torch.cuda.device_count()):
        raise ValueError(f"--nproc-per-node is at most {gpus} here, or give --device cpu")
    if on_gpu:
        torch.cuda.set_device(processes.local_rank)
    # The first process may pack for minutes or more while the others wait.
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(days=1))
    return processes


def in_turn(processes: Processes, make: Callable[[], Any]) -> Any:
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
    there = ["mps", "cpu"] if torch.backends.mps.is_available() else ["cpu"]
    if torch.cuda.is_available():
        there = ["cuda", *(f"cuda:{n}" for n in range(torch.cuda.device_count())), *there]
        torch.backends.cudnn.benchmark = True  # batches are of one size
    name = there[0] if name == "auto" else name
    if name not in there:
        raise ValueError(f"--device {name}: unavailable, expected auto, {', '.join(there)}")
    return torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)


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
    """Return the dtype of autocast; float32 switches it off."""
    if amp == "auto" and device.type == "cuda":  # on CPUs bfloat16 trains more slowly
        return torch.bfloat16 if has_bfloat16(device) else torch.float16
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(amp, torch.float32)
