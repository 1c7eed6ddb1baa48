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
alone, so a resumed run repeats the unbroken one: bit for bit on a CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import checkpoint
from config import Config, add_arguments, from_arguments, from_dict
from dataset import GlyphSet, class_order, epoch_order, hold_out, open_pack
from evaluation.mistakes import Mistakes
from evaluation.score import Result, evaluate
from hwdb.characters import LEVEL1, select_classes
from model import mobilenet_v3, to_input
from synthesis.stream import SyntheticSet
from training import devices
from training.augment import Augmentation, augment
from training.teacher import SoftLabels, label_pack, load_teacher

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
    """Exponential moving average of weights and BatchNorm statistics.

    The decay grows from 0.1 as (1 + step) / (10 + step), so that the start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: t.detach().clone() for name, t in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, theirs = [], []
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                mine.append(self.state[name])
                theirs.append(tensor)
            else:
                self.state[name].copy_(tensor)
        torch._foreach_lerp_(mine, theirs, 1 - decay)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into those with weight decay (matrices, kernels) and without."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def loss_function(
    logits: Tensor,
    labels: Tensor,
    soft: tuple[Tensor, Tensor] | None,
    config: Config,
) -> Tensor:
    """Return cross-entropy with label smoothing, mixed with the teacher's where there is one.

    The teacher's part is T^2 times the cross-entropy to its softened probabilities (Hinton et al.
    2015, section 2) and, weighted by `logit_weight`, the squared error of the centred logits as a
    share of their square (Ba and Caruana 2014, section 2.2). Samples of classes that the teacher
    does not know have the plain loss alone.

    Args:
        logits: (B,K) float; labels: (B,) int64.
        soft: the teacher's logits (B,K') and which classes (K,) bool those are.
    """
    logits = logits.float()
    hard = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing, reduction="none")
    if soft is None:
        return hard.mean()
    target, known = soft
    covered = known[labels].float()
    student = logits if len(known) == target.shape[1] else logits[:, known]
    t = config.temperature
    logprob = (student / t).log_softmax(1)
    distilled = -((target / t).softmax(1) * logprob).sum(1) * t**2
    weight = config.teacher_weight * covered
    loss = (1 - weight) * hard + weight * distilled
    if config.logit_weight:
        target = target - target.mean(1, keepdim=True)
        error = (student - student.mean(1, keepdim=True) - target).square().mean(1)
        energy = target.square().mean().clamp(min=1e-6)  # 0 if the teacher knows one class
        loss = loss + config.logit_weight * covered * error / energy
    return loss.mean()


class Data:
    """Training and validation samples of a run, the same on every process.

    `digest` tells whether a resumed run finds the data that it began with.
    """

    def __init__(self, config: Config, device: torch.device, classes: list[str] | None) -> None:
        check_sources(config)
        if config.synthetic:
            self._make_synthetic(config, classes)
        else:
            self._open_packs(config, device, classes)
        if len(self.train) == 0 or len(self.validation) == 0:
            raise ValueError(
                f"{len(self.train)} training and {len(self.validation)} validation samples; "
                "give more --data or another --val-fraction"
            )
        packs = [*getattr(self.source, "packs", ()), *getattr(self.val_source, "packs", ())]
        self.digest = " ".join([pack.fingerprint[:12] for pack in packs] + [f"{len(self.train)}"])

    def _make_synthetic(self, config: Config, classes: list[str] | None) -> None:
        chosen = select_classes(config.classes) or LEVEL1
        self.classes = classes or sorted(chosen, key=class_order)
        make = dict(classes=self.classes, size=config.size, fonts=config.fonts)
        self.source = SyntheticSet(seed=config.seed, workers=config.workers, **make)
        self.train = np.arange(config.synthetic_epoch)
        self.val_source = SyntheticSet(seed=config.seed + 1, workers=config.workers, **make)
        self.validation = np.arange(min(10_000, max(100, config.synthetic_epoch // 10)))
        self.said = f"{len(self.validation):,} validation glyphs: other synthetic writers"
        self.soft = None

    def _open_packs(self, config: Config, device: torch.device, classes: list[str] | None) -> None:
        sources, repeats = zip(*map(split_repeat, config.data), strict=True)
        packs = [open_pack(source, config.size, config.workers or None) for source in sources]
        present = sorted({label for pack in packs for label in pack.classes}, key=class_order)
        chosen = select_classes(config.classes)
        if chosen is not None:
            present = [label for label in present if label in set(chosen)]
        self.classes = classes or present
        self.source = self.val_source = GlyphSet(packs, self.classes, chosen is not None)
        if config.val_data:
            pack = open_pack(config.val_data, config.size, config.workers or None)
            self.val_source = GlyphSet([pack], self.classes, chosen is not None)
            train = np.flatnonzero(self.source.labels >= 0)
            self.validation = np.flatnonzero(self.val_source.labels >= 0)
            self.said = f"{len(self.validation):,} validation glyphs of {config.val_data}"
        else:
            train, self.validation, self.said = hold_out(
                self.source, config.val_fraction, config.seed
            )
        self.train = np.repeat(train, np.array(repeats)[self.source.sources[train]])
        self.soft = None
        if config.teacher:
            self.soft = soft_labels(config, self.source, device)
        if device.type == "cuda":
            self.source.to(device, torch.cuda.mem_get_info(device)[0])


def check_sources(config: Config) -> None:
    """Raise ValueError for sources of samples that exclude each other."""
    default = Config()
    for key in ("data", "val_data", "teacher"):
        if config.synthetic and getattr(config, key) != getattr(default, key):
            raise ValueError(
                f"--synthetic draws all samples itself, --{key.replace('_', '-')} does not go with "
                "it; write files with synthesize_gnt.py and give them as --data"
            )
    if config.fonts and not config.synthetic:
        raise ValueError("--fonts is for --synthetic alone; see also synthesize_gnt.py --fonts")


def split_repeat(source: str) -> tuple[str, int]:
    """Split ``DIR@3`` into folder and repetitions."""
    folder, at, count = source.rpartition("@")
    return (folder, int(count)) if at and count.isdigit() else (source, 1)


def soft_labels(config: Config, source: GlyphSet, device: torch.device) -> SoftLabels:
    """Have the teacher label every pack (once; kept beside the pack)."""
    margin = None if config.teacher_margin < 0 else config.teacher_margin
    names = select_classes(config.teacher_classes)
    teacher = load_teacher(config.teacher, config.teacher_scale, margin, names)
    folders = [label_pack(pack, teacher, device, workers=config.workers) for pack in source.packs]
    return SoftLabels(folders, source.classes, device)


class Trainer:
    """One training run: model, optimizer, schedule, checkpoints, log."""

    def __init__(self, config: Config, resumed: dict | None, processes: devices.Processes) -> None:
        self.config = config
        self.processes = processes
        self.device = devices.pick_device(config.device, processes.local_rank)
        self.dtype = devices.pick_dtype(config.amp, self.device)
        if config.batch_size % processes.world:
            raise ValueError(
                f"--batch-size {config.batch_size} does not divide among {processes.world} "
                "processes"
            )
        classes = resumed["classes"] if resumed else None
        # One process prepares packs and labels, the others then find them.
        self.data = in_turn(processes, lambda: Data(config, self.device, classes))
        self.notice(self.data.said)
        if processes.world > 1 and len(self.data.train) < config.batch_size:
            raise ValueError(
                f"{len(self.data.train)} training samples do not fill a batch of "
                f"{config.batch_size} over {processes.world} processes; lower --batch-size"
            )
        torch.manual_seed(config.seed)
        self.model = mobilenet_v3(
            num_classes=len(self.data.classes),
            **{key: getattr(config, key) for key in checkpoint.ARCHITECTURE},
        )
        if resumed:
            self.model.load_state_dict(resumed["resume"]["model"])
        elif config.init_from:
            self.start_from(config.init_from)
        if config.sync_bn and processes.world > 1:
            self.model = devices.synchronise_batch_norm(self.model, self.device)
        self.model.to(self.device, memory_format=torch.channels_last)
        self.ema = Ema(self.model, config.ema)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, config.weight_decay),
            config.lr,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.steps_per_epoch = max(1, len(self.data.train) // config.batch_size)
        self.steps = config.epochs * self.steps_per_epoch
        self.step, self.best = 0, -1.0
        self.metrics: dict[str, float] = {}  # of the last epoch that was finished
        self.seconds = 0.0
        self.totals = torch.zeros(2, device=self.device)  # loss, samples of this epoch
        if resumed:
            self.restore(resumed)
        network: nn.Module = self.model
        if processes.world > 1:
            network = DistributedDataParallel(
                network, [self.device.index] if self.device.type == "cuda" else None
            )
        self.network = torch.compile(network) if config.compile else network
        self.out = Path(config.out)
        self.stopped = 0.0  # when a stop was asked for
        self.whole = True  # not within a step, where the parts of the state do not go together

    def start_from(self, path: str) -> None:
        """Take the weights of a checkpoint and say where it differs."""
        loaded = checkpoint.load(path)
        shared = checkpoint.transfer(self.model, self.data.classes, loaded)
        self.notice(f"{path}: {shared} of {len(self.data.classes)} classes known")
        for key in ("size", "stem_stride", "last_stride", "head"):
            if (before := loaded["config"][key]) != (now := getattr(self.config, key)):
                option = "--" + key.replace("_", "-")
                self.notice(f"{path} was trained with {option} {before}, not {now}")

    def notice(self, text: str) -> None:
        if self.processes.main:
            print(text, file=sys.stderr)

    def stop(self, number: int, _frame: object) -> None:
        """Ask for a stop after the step under way; a second signal does not wait for its end.

        One within a second is the same: torchrun passes on the Ctrl-C that the terminal sent, too.
        """
        if self.stopped and time.monotonic() > self.stopped + 1:
            raise KeyboardInterrupt
        self.stopped = self.stopped or time.monotonic()

    def must_stop(self) -> bool:
        """Whether a stop was asked for; all processes say the same, at every tenth step."""
        if self.processes.world == 1:
            return bool(self.stopped)
        if self.step % 10:
            return False
        asked = torch.tensor(float(bool(self.stopped)), device=self.device)
        torch.distributed.all_reduce(asked)
        return bool(asked)

    # --- state

    def restore(self, resumed: dict) -> None:
        """Take up the state of last.pt."""
        state = resumed["resume"]
        for name, tensor in resumed["model"].items():
            self.ema.state[name].copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if state.get("data", self.data.digest) != self.data.digest:
            raise ValueError(
                f"the data are not those that {self.config.out}/last.pt was trained on; put them "
                "back, or start anew with --init-from"
            )
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.metrics = resumed["metrics"]
        self.totals.copy_(state["totals"])

    def save(self, name: str, resumable: bool) -> None:
        """Write a checkpoint into --out, from the first process."""
        if not self.processes.main:
            return
        resume = None
        if resumable:
            resume = {
                "model": {k: v.detach().cpu() for k, v in self.model.state_dict().items()},
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "step": self.step,
                "best": self.best,
                "seconds": self.seconds,
                "totals": self.totals.cpu(),
                "data": self.data.digest,
            }
        checkpoint.save(
            self.out / name,
            self.weights(),
            self.config.to_dict(),
            self.data.classes,
            self.metrics,
            self.step // self.steps_per_epoch,
            resume,
        )

    def weights(self) -> dict[str, Tensor]:
        """Return what is validated and shipped: the EMA, or the raw weights without one."""
        return self.ema.state if self.config.ema else self.model.state_dict()

    # --- training

    def batches(self, epoch: int, first: int, last: int) -> Iterator[tuple]:
        """Yield this process's part of the steps first...last of an epoch."""
        config, data = self.config, self.data
        rank, world = self.processes.rank, self.processes.world
        share = config.batch_size // world
        order = data.train[epoch_order(len(data.train), config.seed, epoch)]
        if config.synthetic:
            order = order + epoch * len(data.train)  # never the same glyph twice
        starts = [step * config.batch_size + rank * share for step in range(first, last)]
        chosen = [order[start : start + share] for start in starts]
        for indices, (glyphs, labels) in zip(chosen, data.source.batches(chosen), strict=True):
            soft = None
            if data.soft is not None:
                soft = data.soft.fetch(indices), data.soft.known
            yield glyphs, labels.to(self.device, non_blocking=True), soft

    def prepare(self, glyphs: Tensor) -> Tensor:
        """Return the augmented input (B,1,S,S) of a batch, drawn from (seed, step, process)."""
        seed = np.random.SeedSequence([self.config.seed, self.step, self.processes.rank])
        state = int(seed.generate_state(1, np.uint64)[0]) >> 1
        torch.manual_seed(state)  # dropout
        generator = torch.Generator().manual_seed(state)
        x = augment(to_input(glyphs, self.device), self.strength(), generator)
        return x.contiguous(memory_format=torch.channels_last)

    def strength(self) -> Augmentation:
        return Augmentation(**{key: getattr(self.config, key) for key in Augmentation._fields})

    def train_step(self, x: Tensor, labels: Tensor, soft: tuple | None) -> None:
        """Take one step: forward, backward, clip, update, average."""
        config = self.config
        self.whole = False
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, config)
        with devices.autocast(self.device, self.dtype):
            logits = self.network(x)
        loss = loss_function(logits, labels, soft, config)
        self.scaler.scale(loss).backward()
        if config.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if config.ema:
            self.ema.update(self.model, self.step)
        self.totals += torch.stack(
            [loss.detach() * len(labels), loss.new_tensor(float(len(labels)))]
        )
        self.step += 1
        self.whole = True

    def check_finite(self) -> None:
        """Raise if the loss has become infinite or NaN; last.pt is then from before."""
        if not bool(torch.isfinite(self.totals[0])):
            raise FloatingPointError(
                f"the loss is not finite at step {self.step}; {self.out / 'last.pt'} is from "
                "before. Try a smaller --lr, a longer --warmup or --amp fp32"
            )

    def train_epoch(self, epoch: int, bar: tqdm) -> None:
        """Train what is left of an epoch, with a checkpoint every --save-minutes."""
        self.model.train()
        first = self.step - epoch * self.steps_per_epoch
        last = min(2, self.steps_per_epoch) if self.config.dry_run else self.steps_per_epoch
        saved = began = time.monotonic()
        before = self.seconds
        for glyphs, labels, soft in self.batches(epoch, first, last):
            self.train_step(self.prepare(glyphs), labels, soft)
            self.seconds = before + time.monotonic() - began
            bar.update()
            if self.step % 50 == 0 or self.device.type == "cpu":
                self.check_finite()
            if self.must_stop():
                raise KeyboardInterrupt
            if time.monotonic() - saved > 60 * self.config.save_minutes:
                self.check_finite()
                self.save("last.pt", resumable=True)
                saved = time.monotonic()
        self.check_finite()

    def validate(self) -> Result:
        """Score the held-out samples with the weights that would be shipped."""
        if self.processes.world > 1:  # each has seen other batches: their BatchNorms differ
            for tensor in self.weights().values():
                torch.distributed.broadcast(tensor, 0)
        mine = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.weights())
        indices = self.data.validation
        if self.config.dry_run:
            indices = indices[: self.config.batch_size]
        try:
            return evaluate(
                self.model,
                self.data.val_source,
                indices,
                self.device,
                self.dtype,
                self.config.batch_size,
                self.processes,
            )
        finally:
            self.model.load_state_dict(mine)

    def run(self) -> None:
        """Train to the last epoch; stop between two steps on SIGINT or SIGTERM."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)
        if self.step >= self.steps:
            self.notice(f"all {self.config.epochs} epochs are done; for more, give --epochs")
        log = Log(self) if self.processes.main and not self.config.dry_run else None
        for epoch in range(self.step // self.steps_per_epoch, self.config.epochs):
            with tqdm(
                total=self.steps_per_epoch,
                initial=self.step - epoch * self.steps_per_epoch,
                desc=f"epoch {epoch + 1}/{self.config.epochs}",
                unit=" steps",
                leave=False,
                disable=not (self.processes.main and sys.stderr.isatty()),
            ) as bar:
                self.train_epoch(epoch, bar)
            result = self.validate()
            if self.config.dry_run:
                self.notice("dry run: two steps and a validation batch went well")
                return
            row = self.summary(epoch, result)
            self.metrics = {k: row[k] for k in ("top1", "top5", "val_loss")}
            self.totals.zero_()
            self.seconds = 0.0
            if row["top1"] > self.best:
                self.best = row["top1"]
                self.save("best.pt", resumable=False)
            self.save("last.pt", resumable=True)
            if log:
                log.epoch(row, result)
        if log:
            log.close()

    def summary(self, epoch: int, result: Result) -> dict[str, float]:
        """Return what an epoch came to."""
        totals = self.totals.clone()
        if self.processes.world > 1:
            torch.distributed.all_reduce(totals)
        loss, samples = totals.tolist()
        return {
            "epoch": epoch + 1,
            "loss": loss / max(1.0, samples),
            "lr": learning_rate(self.step - 1, self.steps, self.config),
            "top1": result.topk(1),
            "top5": result.topk(5),
            "val_loss": result.loss,
            "val_samples": len(result.labels),
            "samples_per_second": samples / max(self.seconds, 1e-9),
            "seconds": self.seconds,
        }


class Log:
    """What a run tells: a line an epoch on stdout and in log.jsonl, and TensorBoard files.

    tag in TensorBoard             from
    accuracy/top1, accuracy/top5   validation
    loss/train, loss/validation    with and without label smoothing and augmentation
    confidence                     histogram of the validation's best probabilities
    pace/...                       learning rate, images a second
    pictures/inputs                the first batch as the network sees it
    pictures/mistakes              the most confident of the validation; names in the text tab
    """

    SCALARS = {
        "accuracy/top1": "top1",
        "accuracy/top5": "top5",
        "loss/train": "loss",
        "loss/validation": "val_loss",
        "pace/learning_rate": "lr",
        "pace/images_per_second": "samples_per_second",
    }
    # What TensorBoard compares runs by; it shows no more than a few columns well.
    COMPARED = ("variant", "width", "size", "lr")

    def __init__(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.trainer = trainer
        self.path = trainer.out / "log.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        done = trainer.step // trainer.steps_per_epoch
        lines = self.path.read_text().splitlines() if self.path.exists() and trainer.step else []
        # The last line may be half written; a whole one of an epoch that is done again goes, too.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["epoch"] <= done]
        self.path.write_text("".join(f"{line}\n" for line in kept))
        self.board = SummaryWriter(str(trainer.out), purge_step=done + 1)
        trainer.notice(f"curves and pictures: tensorboard --logdir {trainer.out}")
        self.describe_run()
        self.board.add_image("pictures/inputs", self.augmented(), done)
        print(
            f"{'epoch':>7}{'loss':>8}{'top-1':>8}{'top-5':>8}{'val loss':>9}"
            f"{'lr':>9}{'images/s':>10}{'time':>8}",
            flush=True,
        )

    def describe_run(self) -> None:
        """Tell TensorBoard the settings (as text, and to compare runs by) and which curves pair."""
        from torch.utils.tensorboard.summary import hparams

        defaults, rows = Config().to_dict(), ["| setting | value | default |", "|---|---|---|"]
        settings = self.trainer.config.to_dict()
        for key, value in settings.items():
            other = f"`{defaults[key]}`" if value != defaults[key] else ""
            rows.append(f"| {key} | `{value}` | {other} |")
        self.board.add_text("settings", "\n".join(rows))
        pairs = {
            name: ["Multiline", [tag for tag in self.SCALARS if tag.startswith(name)]]
            for name in ("accuracy", "loss")
        }
        self.board.add_custom_scalars({"curves": pairs})
        # The writer's own add_hparams would make a second run of it.
        compared = {key: settings[key] for key in self.COMPARED}
        best = dict.fromkeys(tag for tag in self.SCALARS if not tag.startswith("pace"))
        for summary in hparams(compared, best)[:2]:
            self.board.file_writer.add_summary(summary)

    def augmented(self) -> Tensor:
        """Return a grid of the first batch as the network sees it."""
        from torchvision.utils import make_grid

        glyphs, _, _ = next(iter(self.trainer.batches(0, 0, 1)))
        x = self.trainer.prepare(glyphs[:64])
        return make_grid(1 - x, nrow=8, pad_value=0.5)

    def epoch(self, row: dict[str, float], result: Result) -> None:
        """Tell of a finished epoch."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for tag, key in self.SCALARS.items():
            self.board.add_scalar(tag, row[key], row["epoch"])
        self.board.add_histogram("confidence", result.probability[:, 0], row["epoch"])
        data = self.trainer.data
        if mistakes := Mistakes(result, data.val_source, data.classes):
            sheet = mistakes.sheet(24, columns=3)
            self.board.add_image("pictures/mistakes", sheet, row["epoch"], dataformats="HW")
            self.board.add_text("mistakes", mistakes.as_markdown(24), row["epoch"])
        self.board.flush()
        print(
            f"{row['epoch']:>7}{row['loss']:>8.4f}{row['top1']:>8.2%}{row['top5']:>8.2%}"
            f"{row['val_loss']:>9.4f}{row['lr']:>9.2e}{row['samples_per_second']:>10.0f}"
            f"{row['seconds']:>7.0f}s",
            flush=True,
        )

    def close(self) -> None:
        self.board.close()


def in_turn(processes: devices.Processes, make: Any) -> Any:
    """Call `make` on the first process, then on the first of each node, then on the others."""
    if processes.world == 1:
        return make()
    mine = 0 if processes.main else 1 if processes.local_rank == 0 else 2
    for turn in range(3):
        if turn == mine:
            made = make()
        torch.distributed.barrier()
    return made


def resumed_config(given: argparse.Namespace) -> tuple[Config, dict | None]:
    """Return the config of the command line, or with --resume that of last.pt and its content.

    Raises:
        ValueError: a setting that a resumed run cannot change.
    """
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
                print(
                    f"--epochs {value} instead of {stored[key]}: the rest of the schedule is "
                    "that of the new length",
                    file=sys.stderr,
                )
            stored[key] = value
        elif key in vars(given) and value != stored[key]:
            raise ValueError(
                f"--resume goes on with --{key.replace('_', '-')} {stored[key]}, not {value}; "
                "leave it out, or start anew with --init-from"
            )
    return from_dict(stored), loaded


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0] + " See README.md for data and results.",
        epilog="Settings of a resumed run are those it was started with.",
    )
    add_arguments(parser)
    given = parser.parse_args(argv)
    processes = devices.Processes(0, 1, 0)
    trainer = None
    try:
        config, resumed = resumed_config(given)
        if config.threads:
            torch.set_num_threads(config.threads)
        processes = devices.start_processes(config.device)
        trainer = Trainer(config, resumed, processes)
        trainer.run()
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        interrupted(trainer)
        return 130
    finally:
        devices.stop_processes()
    return 0


def interrupted(trainer: Trainer | None) -> None:
    """Save what was trained and say how to go on."""
    if trainer is None or trainer.step == 0 or trainer.config.dry_run:
        print("\ninterrupted before the first step", file=sys.stderr)
        return
    if not (trainer.whole and torch.isfinite(trainer.totals).all()):
        trainer.notice(
            f"\ninterrupted within step {trainer.step + 1:,}; "
            f"{trainer.out / 'last.pt'} is from before, if there is one"
        )
        return
    trainer.save("last.pt", resumable=True)
    trainer.notice(
        f"\ninterrupted at step {trainer.step:,} of {trainer.steps:,}; go on with: "
        f"python train.py --resume --out {trainer.config.out}"
    )


if __name__ == "__main__":
    sys.exit(main())
