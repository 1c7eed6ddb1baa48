"""Devices, processes and precision: what is chosen with GPUs and without."""

import pytest
import torch
import torch.distributed as dist

from jobs import devices
from jobs.devices import Processes, pick_device, pick_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def machine(monkeypatch):
    """Have a machine with so many GPUs of a generation, or with MPS."""

    def set_up(gpus: int = 0, mps: bool = False, generation: tuple[int, int] = (8, 0)) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    set_up()
    return set_up


def test_auto_takes_the_best_there_is(machine):
    assert pick_device() == CPU
    machine(mps=True)
    assert pick_device("auto") == torch.device("mps") == pick_device("mps")
    machine(gpus=4, mps=True)
    assert pick_device() == torch.device("cuda", 0)
    assert pick_device("auto", 3) == pick_device("cuda", 3) == torch.device("cuda", 3)
    assert pick_device("cuda:1", 3) == torch.device("cuda", 1) and pick_device("cpu", 3) == CPU


@pytest.mark.parametrize(
    ("gpus", "name", "message"),
    [(0, "cuda", "unavailable"), (0, "mps", "unavailable"), (2, "cuda:2", "unavailable"),
     (1, "meta", "unavailable"), (1, "toaster", "unavailable, expected auto, cuda, cuda:0, cpu")],
)  # fmt: skip
def test_what_is_not_there_is_said(machine, gpus, name, message):
    machine(gpus=gpus)
    with pytest.raises(ValueError, match=f"--device {name}: {message}"):
        pick_device(name)


def test_precision_is_the_device_s_own(machine):
    assert pick_dtype("auto", CPU) == pick_dtype("auto", torch.device("mps")) == torch.float32
    assert pick_dtype("auto", CUDA) == torch.bfloat16
    machine(gpus=2, generation=(7, 5))
    assert pick_dtype("auto", CUDA) == torch.float16
    for name, dtype in (("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")):
        assert pick_dtype(name, CUDA) == getattr(torch, dtype)


@pytest.mark.parametrize(
    ("gpus", "device", "backend"),
    [(2, "auto", "nccl"), (2, "cuda", "nccl"), (2, "cpu", "gloo"), (0, "auto", "gloo")],
)
def test_a_process_group_is_joined_as_torchrun_says(machine, monkeypatch, gpus, device, backend):
    machine(gpus=gpus)
    began, set_ = [], []
    monkeypatch.setattr(dist, "init_process_group", lambda *a, **k: began.append((a, k)))
    monkeypatch.setattr(torch.cuda, "set_device", set_.append)
    monkeypatch.setenv("RANK", "5")
    assert devices.start_processes(device) == Processes(0, 1, 0)  # some clusters set RANK alone
    for key, value in (("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(key, value)
    assert devices.start_processes(device) == Processes(rank=5, world=8, local_rank=1)
    ((given, options),) = began
    assert given == (backend,) and options["timeout"].total_seconds() >= 24 * 3600
    assert set_ == ([1] if backend == "nccl" else [])
    assert Processes(0, 8, 0).main and not Processes(1, 8, 1).main


def test_a_process_without_a_gpu_is_one_sentence(machine, monkeypatch):
    machine(gpus=1)
    for key, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(key, value)
    with pytest.raises(ValueError, match="--nproc-per-node is at most 1 here"):
        devices.start_processes("auto")
