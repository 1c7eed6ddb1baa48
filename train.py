"""Train MobileNetV3 on handwritten characters.

    python train.py                                          # data/train, settings of config.py
    python train.py --resume                                 # go on exactly where it stopped
    python train.py --init-from FILE.pt                      # fine-tune, other classes allowed
    python train.py --synthetic                              # endless synthetic handwriting
    torchrun --nproc-per-node 4 train.py --batch-size 1024   # one process a GPU

Writes into --out: last.pt (resumable, at least every --save-minutes), best.pt (best top-1 on
held-out writers of the training part, EMA weights: the file to share), log.jsonl (a line an epoch),
and TensorBoard files. The test part is touched by test.py alone.

Everything random is a function of (seed, step, process), and the learning rate one of the step
alone, so a resumed run repeats the unbroken one: bit for bit on a CPU. Ctrl-C ends a run after the
step under way and saves it; a second one does not wait.

A `Run` is what stays the same while a run lasts, a `State` what changes and what last.pt holds.
"""

import argparse
import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import calibration
import checkpoint
from config import Config, add_arguments, flag, from_arguments, from_dict
from evaluation.mistakes import Mistakes
from evaluation.score import Result, evaluate
from jobs import devices
from jobs.command import command, progress, sentence
from model import mobilenet_v3, to_input
from training.augment import Augmentation, draw_maps, join_halves, spoil, warp
from training.log import Log
from training.samples import NO_CHARACTER, UNLABELLED, Samples, open_samples
from training.teacher import Soft

# Settings that a resumed run may change; all others are those of the checkpoint.
FREE_ON_RESUME = {"epochs", "workers", "save_minutes", "device", "amp", "compile", "threads"}


def learning_rate(step: int, steps: int, config: Config) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine."""
    warmup = max(1, round(config.warmup * steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.final_lr + (1 - config.final_lr) * cosine)


class Ema:
    """Exponential moving average of weights and BatchNorm statistics; its start is soon forgotten.

    The decay grows from 0.1 as (1 + step) / (10 + step). The model's tensors are held, not looked
    up again: they must not be replaced.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        now = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        self.state = {name: tensor.clone() for name, tensor in now.items()}
        averaged = [name for name, tensor in now.items() if tensor.is_floating_point()]
        self.averaged = [[tensors[name] for name in averaged] for tensors in (self.state, now)]
        counters = [name for name in now if name not in averaged]
        self.copied = [[tensors[name] for name in counters] for tensors in (self.state, now)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self.averaged, 1 - decay)
        torch._foreach_copy_(*self.copied)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into those with weight decay (matrices, kernels) and without."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def loss_function(logits: Tensor, labels: Tensor, soft: Soft | None, config: Config) -> Tensor:
    """Return cross-entropy with label smoothing, mixed with the teacher's where there is one.

    The teacher's part is T^2 times the cross-entropy to its softened probabilities (Hinton et al.
    2015, section 2) and, weighted by `logit_weight`, the squared error of the centred logits as a
    share of their square (Ba and Caruana 2014, section 2.2). Samples of classes that the teacher
    does not know have the plain loss alone, those without a label (-1) the teacher's alone, those
    that it misreads `misread_weight` of it. For what is no character (-2) all logits are to be
    alike (outlier exposure, Hendrycks et al. 2019).

    Args:
        logits: (B,K) float; labels: (B,) int64.
        soft: the teacher's logits of K' classes.
    """
    logits = logits.float()
    options = {"label_smoothing": config.label_smoothing, "ignore_index": UNLABELLED}
    hard = F.cross_entropy(logits, labels.clamp(min=UNLABELLED), reduction="none", **options)
    if soft is None:
        return hard.mean()
    target, columns = soft
    free = labels < 0
    target = torch.where((labels == NO_CHARACTER)[:, None], 0.0, target)
    place = labels.new_full(logits.shape[1:], -1)  # of the student's classes among the teacher's
    place[columns] = torch.arange(len(columns), device=place.device)
    at = place[labels.clamp(min=0)]
    trust = torch.where(free | (target.argmax(1) == at), 1.0, config.misread_weight)
    covered = ((at >= 0) | free) * trust
    t = config.temperature
    # Classes that the teacher does not know are none that it means: they get no probability.
    logprob = (logits / t).log_softmax(1).index_select(1, columns)
    distilled = -((target / t).softmax(1) * logprob).sum(1) * t**2
    weight = torch.where(free, 1.0, config.teacher_weight * covered)
    loss = (1 - weight) * hard + weight * distilled
    if config.logit_weight:
        student = logits.index_select(1, columns)
        target = target - target.mean(1, keepdim=True)
        error = (student - student.mean(1, keepdim=True) - target).square().mean(1)
        energy = target.square().mean().clamp(min=1e-6)  # 0 if the teacher knows one class
        loss = loss + config.logit_weight * covered * error / energy
    return loss.mean()


class Run(NamedTuple):
    """What stays the same while a run lasts."""

    config: Config
    processes: devices.Processes
    device: torch.device
    dtype: torch.dtype  # of autocast
    samples: Samples

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.samples.train) // self.config.batch_size)

    @property
    def last_checkpoint(self) -> Path:
        return Path(self.config.out) / "last.pt"

    def notice(self, text: str) -> None:
        if self.processes.main:
            print(text, file=sys.stderr)


def open_run(config: Config, processes: devices.Processes, classes: list[str] | None) -> Run:
    """Choose the device and open the samples; ValueError where they do not fit the settings."""
    device = devices.pick_device(config.device, processes.local_rank)
    size, world = config.batch_size, processes.world
    if size % world:
        raise ValueError(f"--batch-size {size} does not divide among {world} processes")
    if config.sync_bn and device.type != "cuda":
        raise ValueError(f"--sync-bn works between GPUs alone, this run is on {device}")
    # One process prepares packs and labels, the others then find them.
    samples = devices.in_turn(processes, lambda: open_samples(config, device, classes))
    if world > 1 and len(samples.train) < size:
        said = f"{len(samples.train)} training samples do not fill a batch of {size}"
        raise ValueError(f"{said} over {world} processes; lower --batch-size")
    run = Run(config, processes, device, devices.pick_dtype(config.amp, device), samples)
    run.notice(samples.said)
    return run


class State:
    """What changes as a run goes on: weights, optimizer, step, and what this epoch has come to."""

    def __init__(self, run: Run) -> None:
        config, classes = run.config, run.samples.classes
        torch.manual_seed(config.seed)
        architecture = {key: getattr(config, key) for key in checkpoint.ARCHITECTURE}
        self.model: nn.Module = mobilenet_v3(num_classes=len(classes), **architecture)
        if config.init_from and not config.resume:
            start_from(run, self.model)
        if config.sync_bn:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.model.to(run.device, memory_format=torch.channels_last)
        self.ema = Ema(self.model, config.ema)
        groups = parameter_groups(self.model, config.weight_decay)
        fused = run.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(groups, config.lr, fused=fused)
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=run.dtype == torch.float16)
        self.step, self.best = 0, -1.0
        self.metrics: dict[str, float] = {}  # of the last epoch that was finished
        self.seconds = 0.0  # of this epoch
        self.totals = torch.zeros(2, device=run.device)  # loss, samples of this epoch

    def weights(self) -> dict[str, Tensor]:
        """Return what is validated and shipped: the EMA, or the raw weights without one."""
        return self.ema.state if self.ema.decay else self.model.state_dict()

    def save(self, run: Run, name: str = "last.pt") -> None:
        """Write a checkpoint from the first process: last.pt to go on from, another to share."""
        if not run.processes.main:
            return
        resume = {
            "model": {k: v.detach().cpu() for k, v in self.model.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "totals": self.totals.cpu(),
            "data": run.samples.digest,
        }
        path, epoch = Path(run.config.out) / name, self.step // run.steps_per_epoch
        config, resume = run.config.to_dict(), resume if name == "last.pt" else None
        classes = run.samples.classes
        checkpoint.save(path, self.weights(), config, classes, self.metrics, epoch, resume)

    def restore(self, run: Run, loaded: dict) -> None:
        """Take up what last.pt holds; ValueError if that is of other data, or damaged."""
        state = loaded["resume"]
        if state.get("data", run.samples.digest) != run.samples.digest:
            said = f"the data are not those that {run.last_checkpoint} was trained on"
            raise ValueError(f"{said}; put them back, or start anew with --init-from")
        try:
            self.model.load_state_dict(state["model"])
            for name, tensor in loaded["model"].items():
                self.ema.state[name].copy_(tensor)
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.best = int(state["step"]), float(state["best"])
            self.seconds = float(state["seconds"])
            self.totals.copy_(state["totals"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            said = f"{run.last_checkpoint}: its training state is damaged ({sentence(error):.120})"
            raise ValueError(f"{said}; start from its weights with --init-from") from None
        self.metrics = loaded["metrics"]


def start_from(run: Run, model: nn.Module) -> None:
    """Take the weights of --init-from and say where that differs."""
    path, classes = run.config.init_from, run.samples.classes
    loaded = checkpoint.load(path)
    shared = calibration.transfer(model, classes, loaded)
    run.notice(f"{path}: {shared} of {len(classes)} classes known")
    for key in ("size", "stem_stride", "last_stride", "head"):
        if (before := loaded["config"][key]) != (now := getattr(run.config, key)):
            run.notice(f"{path} was trained with {flag(key)} {before}, not {now}")


def wrap(run: Run, model: nn.Module) -> nn.Module:
    """Return the model as it is called in training: over all processes, compiled."""
    if run.processes.world > 1:
        gpus = [run.device.index] if run.device.type == "cuda" else None
        model = DistributedDataParallel(model, gpus)
    return torch.compile(model) if run.config.compile else model


# --- the loop


def train(run: Run, state: State) -> int:
    """Train to the last epoch, or until a stop is asked for; return the exit status."""
    config = run.config
    network = wrap(run, state.model)
    done = state.step // run.steps_per_epoch
    if done >= config.epochs:
        run.notice(f"all {config.epochs} epochs are done; for more, give --epochs")
    log = None
    if run.processes.main and not config.dry_run:
        log = Log(Path(config.out), config, done)
        run.notice(f"curves and pictures: tensorboard --logdir {config.out}")
        glyphs, labels, _ = next(run.samples.batches(config, 0, 0, 1, run.processes))
        log.inputs(prepare(run, state.step, glyphs, labels)[0][:64], done)
    with stop_signals() as asked:
        for epoch in range(done, config.epochs):
            if not train_one_epoch(run, state, network, epoch, asked):
                return stopped(run, state)
            result = validate(run, state)
            if config.dry_run:
                run.notice("dry run: two steps and a validation batch went well")
                return 0
            row = finish_epoch(run, state, epoch, result)
            if log:
                mistakes = Mistakes(result, run.samples.val_source, run.samples.classes)
                sheet, names = mistakes.sheet(24, columns=3), mistakes.as_markdown(24)
                log.epoch(row, result.probability[:, 0], sheet, names)
    if log:
        log.close()
    return 0


def train_one_epoch(
    run: Run, state: State, network: nn.Module, epoch: int, asked: threading.Event
) -> bool:
    """Train what is left of an epoch; return False if a stop was asked for between two steps."""
    config, steps = run.config, run.steps_per_epoch
    first, last = state.step - epoch * steps, min(2, steps) if config.dry_run else steps
    saved = began = time.monotonic()
    before = state.seconds
    state.model.train()
    batches = run.samples.batches(config, epoch, first, last, run.processes)
    name = f"epoch {epoch + 1}/{config.epochs}"
    with progress(total=steps, initial=first, desc=name, unit=" steps", leave=False) as bar:
        for glyphs, labels, soft in batches:
            x, labels, seen = prepare(run, state.step, glyphs, labels)
            train_step(run, state, network, x, labels, seen or soft)
            state.seconds = before + time.monotonic() - began
            bar.update()
            if state.step % 50 == 0 or run.device.type == "cpu":
                check_finite(run, state)
            if must_stop(run, state, asked):
                return False
            if time.monotonic() - saved > 60 * config.save_minutes:
                check_finite(run, state)
                state.save(run)
                saved = time.monotonic()
    check_finite(run, state)
    return True


def prepare(
    run: Run, step: int, glyphs: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Soft | None]:
    """Return augmented input (B,1,S,S) and labels of a batch, drawn from (seed, step, process).

    A live teacher sees the same warp, but not what makes the picture worse: its logits come along.
    Of halves put together it alone says what they are.
    """
    seed = np.random.SeedSequence([run.config.seed, step, run.processes.rank])
    number = int(seed.generate_state(1, np.uint64)[0]) >> 1
    torch.manual_seed(number)  # dropout
    strength = Augmentation(**{key: getattr(run.config, key) for key in Augmentation._fields})
    generator, live, seen = torch.Generator().manual_seed(number), run.samples.live, None
    x, labels = to_input(glyphs, run.device), labels.to(run.device, non_blocking=True)
    maps = draw_maps(len(x), strength, generator)
    if run.config.join:
        x, joined = join_halves(x, run.config.join, generator)
        labels = labels.index_fill(0, joined, UNLABELLED)
    if live is not None:
        seen = live.look(warp(x, maps, live.side, live.extent))
    x = spoil(warp(x, maps), strength, generator)
    return x.contiguous(memory_format=torch.channels_last), labels, seen


def train_step(
    run: Run, state: State, network: nn.Module, x: Tensor, labels: Tensor, soft: Soft | None
) -> None:
    """Take one step: forward, backward, clip, update, average."""
    config, optimizer, scaler = run.config, state.optimizer, state.scaler
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(state.step, config.epochs * run.steps_per_epoch, config)
    with torch.autocast(run.device.type, run.dtype, run.dtype != torch.float32):
        logits = network(x)
    loss = loss_function(logits, labels, soft, config)
    scaler.scale(loss).backward()
    if config.clip:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), config.clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    if config.ema:
        state.ema.update(state.step)
    state.totals[0] += loss.detach() * len(labels)
    state.totals[1] += len(labels)
    state.step += 1


def check_finite(run: Run, state: State) -> None:
    """Raise if the loss has become infinite or NaN; last.pt is then from before."""
    if not bool(torch.isfinite(state.totals[0])):
        said = f"the loss is not finite at step {state.step}; {run.last_checkpoint} is from before"
        raise FloatingPointError(f"{said}; try a smaller --lr, a longer --warmup or --amp fp32")


def validate(run: Run, state: State) -> Result:
    """Score the held-out samples with the weights that would be shipped."""
    if run.processes.world > 1:  # each has seen other batches: their BatchNorms differ
        for tensor in state.weights().values():
            torch.distributed.broadcast(tensor, 0)
    mine = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    state.model.load_state_dict(state.weights())
    indices, size = run.samples.validation, run.config.batch_size
    if run.config.dry_run:
        indices = indices[:size]
    source, processes = run.samples.val_source, run.processes
    result = evaluate(state.model, source, indices, run.device, size, processes)
    state.model.load_state_dict(mine)
    return result


def finish_epoch(run: Run, state: State, epoch: int, result: Result) -> dict[str, float]:
    """Save what an epoch has come to, as best.pt too if none was better, and return its figures."""
    totals = state.totals.clone()
    if run.processes.world > 1:
        torch.distributed.all_reduce(totals)
    loss, samples = totals.tolist()
    steps = run.config.epochs * run.steps_per_epoch
    row = {
        "epoch": epoch + 1,
        "loss": loss / max(1.0, samples),
        "lr": learning_rate(state.step - 1, steps, run.config),
        "top1": result.topk(1),
        "top5": result.topk(5),
        "val_loss": result.loss,
        "val_samples": len(result.labels),
        "samples_per_second": samples / max(state.seconds, 1e-9),
        "seconds": state.seconds,
    }
    state.metrics = {key: row[key] for key in ("top1", "top5", "val_loss")}
    state.totals.zero_()
    state.seconds = 0.0
    if row["top1"] > state.best:
        state.best = row["top1"]
        state.save(run, "best.pt")
    state.save(run)
    return row


# --- stopping and going on


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Give an event that SIGINT or SIGTERM sets; a second SIGINT raises KeyboardInterrupt."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def must_stop(run: Run, state: State, asked: threading.Event) -> bool:
    """Whether a stop was asked for; all processes say the same, at every tenth step."""
    if run.processes.world == 1:
        return asked.is_set()
    if state.step % 10:
        return False
    any_asked = torch.tensor(float(asked.is_set()), device=run.device)
    torch.distributed.all_reduce(any_asked)
    return bool(any_asked)


def stopped(run: Run, state: State) -> int:
    """Save what was trained, say how to go on, and return the exit status of Ctrl-C."""
    if not run.config.dry_run:
        state.save(run)
        where = f"step {state.step:,} of {run.config.epochs * run.steps_per_epoch:,}"
        how = f"python train.py --resume --out {run.config.out}"
        run.notice(f"\ninterrupted at {where}; go on with: {how}")
    return 130


def resumed_config(given: argparse.Namespace) -> tuple[Config, dict | None]:
    """Return the config of the command line, or with --resume that of last.pt and its content."""
    config = from_arguments(given)
    if not config.resume:
        return config, None
    path = Path(config.out) / "last.pt"
    loaded = checkpoint.load(path)
    if "resume" not in loaded:
        raise ValueError(f"{path}: holds no training state; start from it with --init-from")
    stored = from_dict(loaded["config"]).to_dict()
    for key, value in config.to_dict().items():
        if key in ("out", "resume") or (key in vars(given) and key in FREE_ON_RESUME):
            if key == "epochs" and value != stored[key]:
                said = f"--epochs {value} instead of {stored[key]}: the rest of the schedule is "
                print(f"{said}that of the new length", file=sys.stderr)
            stored[key] = value
        elif key in vars(given) and value != stored[key]:
            said = f"--resume goes on with {flag(key)} {stored[key]}, not {value}"
            raise ValueError(f"{said}; leave it out, or start anew with --init-from")
    return from_dict(stored), loaded


@command
def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0] + " See README.md for data and results.",
        epilog="Settings of a resumed run are those it was started with.",
    )
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
