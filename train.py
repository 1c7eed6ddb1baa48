"""Train MobileNetV3 on handwritten characters.

    python train.py                                          # data/train, defaults of config.py
    python train.py --resume                                 # continue an interrupted run
    torchrun --nproc-per-node 4 train.py --batch-size 1024   # one process per GPU

The folder --out gets last.pt (to resume), best.pt (to share: the EMA weights of the epoch with the
highest top-1 on held-out writers), log.jsonl (one line per epoch) and TensorBoard files.

Random numbers depend only on (seed, step, process), the learning rate only on the step and the
total number of steps. So a resumed run gives the same result as an uninterrupted one, bit for bit
on a CPU. Ctrl-C stops a run after the current step and saves it.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn, update_bn

import calibration
import checkpoint
from config import Config, add_arguments, flag, from_arguments, from_dict
from evaluation.mistakes import Mistakes
from evaluation.score import Result, evaluate
from jobs import devices
from jobs.command import command, progress, sentence, shorten, stop_signals
from model import mobilenet_v3
from packing import counted
from picture import changed_settings
from training.log import Log
from training.samples import Samples, View, open_samples
from training.teacher import Teacher, load_teacher

FINAL_LR = 0.01  # learning rate at the end, as a fraction of --lr
CLIP = 5.0  # largest norm of the gradient
SAVE_MINUTES = 10  # between checkpoints within an epoch
YOUNG = 1000  # steps from scratch after which BatchNorm's running statistics are reliable
FEW_STEPS = 2000  # of a run from scratch, below which fine-tuning is recommended
TIMED = 50  # steps from which the duration of a run is estimated
# Settings that a resumed run may change. Data may move: `Samples.digest` tells whether it is equal.
FREE_ON_RESUME = {"data", "val_data", "unlabelled", "outliers", "teacher", "epochs", "workers",
                  "device", "amp", "compile", "threads"}  # fmt: skip


def train_one_epoch(
    run: Run, state: State, network: nn.Module, epoch: int, stop: threading.Event
) -> bool:
    """Train the rest of an epoch; return False if a stop was requested before its last step."""
    steps = run.steps_per_epoch
    first = state.step - epoch * steps
    saved = time.monotonic()
    began = saved - state.seconds
    network.train()
    views = run.samples.views(epoch, first, steps, run.teacher)
    name = f"epoch {epoch + 1}/{run.config.epochs}"
    with progress(total=steps, initial=first, desc=name, unit=" steps", leave=False) as bar:
        for _ in range(first, steps):
            if agree(run, state, stop.is_set()):
                return False
            train_step(run, state, network, next(views))
            state.seconds = time.monotonic() - began
            bar.update()
            if state.step % 50 == 0 or run.device.type == "cpu":
                check_finite(run, state)
            tell_duration(run, state)
            late = time.monotonic() - saved > 60 * SAVE_MINUTES
            if agree(run, state, late and state.step % steps > 0):  # an epoch is validated first
                state.save(run)
                saved = time.monotonic()
    check_finite(run, state)
    return True


def train_step(run: Run, state: State, network: nn.Module, view: View) -> None:
    """Take one step: forward, backward, clip, update, average."""
    config, optimizer, scaler = run.config, state.optimizer, state.scaler
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(state.step, run.steps, config)
    with torch.autocast(run.device.type, run.dtype, run.dtype != torch.float32):
        logits = network(view.x)
    loss = loss_function(logits, view, config, run.teacher)
    scaler.scale(loss).backward()
    state.totals[0] += loss.detach() * len(view.labels)
    state.totals[1] += len(view.labels)
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(state.model.parameters(), CLIP)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    if config.ema:  # the decay rises, so that early weights are soon forgotten
        decay = min(config.ema, (1 + state.step) / (10 + state.step))
        get_ema_multi_avg_fn(decay)(*state.floats, None)
    state.step += 1


def validate(run: Run, state: State) -> Result:
    """Evaluate the averaged weights on the validation samples, in float32."""
    if state.step < YOUNG and not run.config.init_from:
        # BatchNorm's running statistics begin at variance 1, those of deep layers are smaller by
        # orders of magnitude: for some hundred steps the initial values dominate, and validation
        # would be at chance. They are computed anew.
        epoch = (state.step - 1) // run.steps_per_epoch
        views = run.samples.views(epoch, 0, min(10, run.steps_per_epoch))
        update_bn((view.x for view in views), state.averaged)
    if run.processes.world > 1:  # BatchNorm has seen other batches on each process
        for tensor in state.averaged.state_dict().values():
            torch.distributed.broadcast(tensor, 0)
    source, indices = run.samples.val_source, run.samples.validation
    size = run.config.batch_size
    return evaluate(state.averaged, source, indices, run.device, size, run.processes)


def loss_function(
    logits: Tensor, view: View, config: Config, teacher: Teacher | None = None
) -> Tensor:
    """Return the mean cross-entropy of logits (B,K), mixed with a teacher's loss if there is one.

    The target of a label is mixed with the uniform distribution: by label smoothing, and where the
    confidence is below 1 (outlier exposure, Hendrycks et al. 2019, for images without a character).
    """
    logits = logits.float()
    logprob = logits.log_softmax(1)
    sure = view.confidence * (1 - config.label_smoothing)
    label = F.nll_loss(logprob, view.labels, reduction="none")  # 0 without a label
    loss = sure * label - (1 - sure) * logprob.mean(1)
    if teacher is not None:
        target = view.target * view.confidence[:, None]
        mixed = teacher.loss(logits, logprob, loss, target, view.labels, config)
        loss = torch.where(view.confidence > 0, mixed, loss)  # a teacher expects characters
    return loss.mean()


def learning_rate(step: int, steps: int, config: Config) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine."""
    warmup = max(1, round(config.warmup * steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (FINAL_LR + (1 - FINAL_LR) * cosine)


class Run(NamedTuple):
    """What stays the same while a run lasts."""

    config: Config
    processes: devices.Processes
    device: torch.device
    dtype: torch.dtype  # of autocast
    samples: Samples
    teacher: Teacher | None = None

    @property
    def steps_per_epoch(self) -> int:
        return self.samples.steps_per_epoch

    @property
    def steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    @property
    def last_checkpoint(self) -> Path:
        return Path(self.config.out) / "last.pt"

    def notice(self, text: str) -> None:
        if self.processes.main:
            print(text, file=sys.stderr)


def open_run(config: Config, processes: devices.Processes, classes: list[str] | None) -> Run:
    """Choose the device, open samples and teacher; raise as `open_samples` and `load_teacher`."""
    device = devices.pick_device(config.device, processes.local_rank)
    dtype = devices.pick_dtype(config.amp, device)
    # The first process packs, the others find the pack.
    samples = devices.in_turn(processes, lambda: open_samples(config, device, processes, classes))
    teacher = None
    if config.teacher:
        teacher = Teacher(load_teacher(config.teacher), samples.classes, config, device)
    return Run(config, processes, device, dtype, samples, teacher)


class State:
    """What changes during a run and last.pt stores: weights, optimizer, step, sums of the epoch."""

    def __init__(self, run: Run) -> None:
        config, classes = run.config, run.samples.classes
        torch.manual_seed(config.seed)
        architecture = {key: getattr(config, key) for key in checkpoint.ARCHITECTURE}
        self.model: nn.Module = mobilenet_v3(num_classes=len(classes), **architecture)
        if config.init_from and not config.resume:
            start_from(run, self.model)
        self.model.to(run.device, memory_format=torch.channels_last)
        # What is validated and shared. Not swa_utils.AveragedModel: its counter makes a GPU wait.
        self.averaged = copy.deepcopy(self.model) if config.ema else self.model
        self.floats = [
            [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
            for network in (self.averaged, self.model)
        ]
        # Another optimizer goes here; train_step() sets the learning rate of its groups.
        parameters, decay = list(self.model.parameters()), config.weight_decay
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        fused = run.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(groups, config.lr, fused=fused)
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=run.dtype == torch.float16)
        self.step, self.best = 0, -1.0
        self.metrics: dict[str, float] = {}  # of the last finished epoch
        self.seconds = 0.0  # of this epoch
        self.totals = torch.zeros(2, device=run.device)  # loss, samples of this epoch
        self.timed = (0, 0.0)  # the first step since the start, and when it ended

    def save(self, run: Run, name: str = "last.pt") -> None:
        """Write a checkpoint: last.pt to resume, another name to share; all processes take part."""
        check_finite(run, self)
        totals = summed(run, self.totals)
        if not run.processes.main:
            return
        resume = {
            "model": {k: v.detach().cpu() for k, v in self.model.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "totals": totals.cpu(),
            "samples": run.samples.digest,
        }
        path, epoch = Path(run.config.out) / name, self.step // run.steps_per_epoch
        config, resume = run.config.to_dict(), resume if name == "last.pt" else None
        weights, classes = self.averaged.state_dict(), run.samples.classes
        checkpoint.save(path, weights, config, classes, self.metrics, epoch, resume)

    def restore(self, run: Run, loaded: dict) -> None:
        """Load the content of last.pt; ValueError if it is damaged or of other data."""
        state = loaded["resume"]
        if state.get("samples", run.samples.digest) != run.samples.digest:
            what = f"the data are not those that {run.last_checkpoint} was trained on"
            raise ValueError(f"{what}; restore them, or start a new run with --init-from")
        try:
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(loaded["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.best = int(state["step"]), float(state["best"])
            self.seconds = float(state["seconds"])
            self.totals.copy_(state["totals"] * run.processes.main)  # they are of all processes
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            what = f"{run.last_checkpoint}: its training state is damaged ({sentence(error):.120})"
            raise ValueError(f"{what}; start from its weights with --init-from") from None
        self.metrics = loaded["metrics"]


def start_from(run: Run, model: nn.Module) -> None:
    """Load the weights of --init-from and print what differs."""
    path, classes = run.config.init_from, run.samples.classes
    loaded = checkpoint.load(path)
    shared = calibration.transfer(model, classes, loaded)
    run.notice(f"{path}: {shared} of {len(classes)} classes known")
    for key in ("size", "stem_stride", "last_stride"):
        if (before := loaded["config"][key]) != (now := getattr(run.config, key)):
            run.notice(f"{path} was trained with {flag(key)} {before}, not {now}")
    if changed := changed_settings(loaded.get("preprocessing")):
        run.notice(f"{path} was trained with another preprocessing: {shorten(changed)}")


def wrap(run: Run, model: nn.Module) -> nn.Module:
    """Return the model as it is called in training: distributed, compiled."""
    if run.processes.world > 1:
        gpus = [run.device.index] if run.device.type == "cuda" else None
        model = DistributedDataParallel(model, gpus)
    return torch.compile(model) if run.config.compile else model


def train(run: Run, state: State) -> int:
    """Train to the last epoch, or until a stop is requested; return the exit status."""
    network = wrap(run, state.model)
    done = state.step // run.steps_per_epoch
    introduce(run, state)
    log = None
    if run.processes.main:
        log = Log(Path(run.config.out), run.config, done)
        log.inputs(next(run.samples.views(0, 0, 1)).x[:64], done)
    with stop_signals() as stop:
        for epoch in range(done, run.config.epochs):
            if not train_one_epoch(run, state, network, epoch, stop):
                state.save(run)
                where = f"step {state.step:,} of {run.steps:,}"
                how = f"python train.py --resume --out {run.config.out}"
                run.notice(f"\ninterrupted at {where}; continue with: {how}")
                return 130
            finish_epoch(run, state, epoch, validate(run, state), log)
    if log:
        log.board.close()
        best = run.last_checkpoint.with_name("best.pt")
        if best.is_file():
            epoch = checkpoint.load(best)["epoch"]
            run.notice(f"best: epoch {epoch}, validation top-1 {state.best:.2%}, {best}")
            run.notice(f"next: python test.py --checkpoint {best}")
            run.notice(f"curves: tensorboard --logdir {run.config.out}")
    return 0


def finish_epoch(run: Run, state: State, epoch: int, result: Result, log: Log | None) -> None:
    """Log an epoch, then save it, also as best.pt if none was better.

    In this order: a run that is killed in between repeats the epoch and its line.
    """
    loss, samples = summed(run, state.totals).tolist()
    row = {
        "epoch": epoch + 1,
        "loss": loss / max(1.0, samples),
        "lr": learning_rate(state.step - 1, run.steps, run.config),
        "top1": result.topk(1),
        "top5": result.topk(5),
        "val_loss": result.loss,
        "val_samples": len(result.labels),
        "samples_per_second": samples / max(state.seconds, 1e-9),
        "seconds": state.seconds,
    }
    if log:
        mistakes = Mistakes(result, run.samples.val_source, run.samples.classes)
        log.epoch(row, mistakes.sheet(24, columns=3))
    state.metrics = {key: row[key] for key in ("top1", "top5", "val_loss")}
    state.totals.zero_()
    state.seconds = 0.0
    if row["top1"] > state.best:
        state.best = row["top1"]
        state.save(run, "best.pt")
    state.save(run)


def introduce(run: Run, state: State) -> None:
    """Print data, network and schedule."""
    config, classes = run.config, counted(len(run.samples.classes), "class")
    parameters = sum(p.numel() for p in state.model.parameters())
    where = f"{run.device}, {str(run.dtype).removeprefix('torch.')}"
    epochs, steps = counted(config.epochs, "epoch"), counted(run.steps_per_epoch, "step")
    samples = counted(config.batch_size, "sample")
    run.notice(f"data: {run.samples.description}")
    run.notice(f"network: {config.variant}, {classes}, {parameters:,} parameters, on {where}")
    run.notice(f"schedule: {epochs} of {steps} of {samples}")
    if state.step >= run.steps:
        run.notice(f"{epochs} done; for more, give --epochs")
    elif run.steps < FEW_STEPS and not config.init_from:
        hint = "fine-tuning needs fewer: --init-from checkpoints/small80.pt --lr 0.001"
        run.notice(f"few steps to train from scratch ({run.steps:,}); {hint}")


def tell_duration(run: Run, state: State) -> None:
    """Print once, after TIMED steps, how long the rest of the run will take."""
    if state.timed[0] == 0:  # the first step is slower than the others
        state.timed = state.step, time.monotonic()
    elif state.step == state.timed[0] + TIMED:
        each, left = (time.monotonic() - state.timed[1]) / TIMED, run.steps - state.step
        hours, minutes = divmod(max(1, round(each * left / 60)), 60)
        duration = f"about {hours} h {minutes} min left for {left:,} steps"
        run.notice(f"{each:.2g} s per step: {duration}")


def agree(run: Run, state: State, wish: bool) -> bool:
    """Return whether a process wishes to stop or save; all agree on it at every tenth step."""
    if run.processes.world == 1:
        return wish
    if state.step % 10:
        return False
    return bool(summed(run, torch.tensor(float(wish), device=run.device)))


def summed(run: Run, values: Tensor) -> Tensor:
    """Return the sum of values over all processes."""
    total = values.clone()
    if run.processes.world > 1:
        torch.distributed.all_reduce(total)
    return total


def check_finite(run: Run, state: State) -> None:
    """Raise FloatingPointError if the loss has become infinite or NaN."""
    if not bool(torch.isfinite(state.totals[0])):
        what = f"the loss is not finite at step {state.step}; {run.last_checkpoint} is from before"
        raise FloatingPointError(f"{what}; try a smaller --lr, a longer --warmup or --amp fp32")


def resumed_config(given: argparse.Namespace) -> tuple[Config, dict | None]:
    """Return the config of the command line; with --resume that of last.pt, and its content.

    Raises ValueError for a setting that cannot change, or a folder that already holds a run.
    """
    config = from_arguments(given)
    path = Path(config.out) / "last.pt"
    if not config.resume:
        for old in (path, path.with_name("best.pt")):
            if old.exists():
                what = f"{old} exists, {config.out} holds a run"
                raise ValueError(f"{what}; continue it with --resume, or give another --out")
        return config, None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no run to resume; start one without --resume")
    loaded = checkpoint.load(path)
    if "resume" not in loaded:
        raise ValueError(f"{path} has no training state; start from it with --init-from")
    stored = from_dict(loaded["config"])
    changes = {key: getattr(config, key) for key in {"out", "resume", *vars(given)}}
    for key, value in changes.items():
        before = getattr(stored, key)
        if value != before and key not in {"out", "resume", *FREE_ON_RESUME}:
            what = f"--resume continues with {flag(key)} {before}, not {value}"
            raise ValueError(f"{what}; omit it, or start a new run with --init-from")
    return replace(stored, **changes), loaded


@command
def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description="Train MobileNetV3 on handwritten characters.")
    add_arguments(parser)
    config, resumed = resumed_config(parser.parse_args(argv))
    if config.threads:
        torch.set_num_threads(config.threads)
    devices.keep_memory()
    processes = devices.start_processes(config.device)
    try:
        run = open_run(config, processes, resumed["classes"] if resumed else None)
        state = State(run)
        if resumed:
            state.restore(run, resumed)
        return train(run, state)
    finally:
        devices.stop_processes()


if __name__ == "__main__":
    sys.exit(main())
