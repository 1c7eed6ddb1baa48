"""Training and validation samples of a run: packed sources, or an endless synthetic stream."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import checkpoint
from config import Config, flag
from dataset import NO_LABEL, CharacterDataset, classes_of, hold_out
from hwdb.characters import LEVEL1, class_order, select_classes
from hwdb.sets import origin
from jobs.devices import Processes
from model import to_input
from packing import Pack, counted, open_pack
from synthesis.stream import SyntheticSet
from training.augment import augment, draw_maps, warp
from training.teacher import Teacher


class View(NamedTuple):
    """An augmented batch."""

    x: Tensor  # (B,1,S,S) float32 in 0...1
    labels: Tensor  # (B,) int64, dataset.NO_LABEL without a label
    confidence: Tensor  # (B,) float32: 1, less with leftovers, 0 without a character
    target: Tensor | None  # (B,K') float32, the teacher's logits


@dataclass(frozen=True)
class Samples:
    """Training and validation samples of a run, the same on every process."""

    config: Config
    device: torch.device
    processes: Processes
    classes: list[str]
    source: CharacterDataset | SyntheticSet
    train: np.ndarray  # indices into `source`; of a source DIR@2 each index twice
    val_source: CharacterDataset | SyntheticSet
    validation: np.ndarray  # indices into `val_source`
    description: str
    digest: str  # identifies the data of a resumed run

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.train) // self.config.batch_size)

    def views(
        self, epoch: int, first: int, last: int, teacher: Teacher | None = None
    ) -> Iterator[View]:
        """Yield this process's share of the steps first...last of an epoch.

        The random numbers of a batch are a function of (seed, step, process).
        """
        config = self.config
        share = config.batch_size // self.processes.world
        order = np.random.default_rng([config.seed, epoch]).permutation(self.train)
        if config.synthetic:
            order = order + epoch * len(self.train)  # never the same sample twice
        steps = range(first, last)
        starts = [step * config.batch_size + self.processes.rank * share for step in steps]
        chosen = [order[start : start + share] for start in starts]
        batches = self.source.batches(chosen)
        before = epoch * self.steps_per_epoch
        for step, indices, (glyphs, labels) in zip(steps, chosen, batches, strict=True):
            x, confidence, target = self.augment(before + step, glyphs, teacher)
            if not config.synthetic:
                full = torch.from_numpy(~self.source.no_character[indices])
                confidence = confidence * full.to(self.device, non_blocking=True)
            yield View(x, labels.to(self.device, non_blocking=True), confidence, target)

    def augment(
        self, number: int, glyphs: Tensor, teacher: Teacher | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return input, confidence and the teacher's logits for batch `number` of a run.

        The teacher sees the same warp at its own size, before the view is degraded.
        """
        words = np.random.SeedSequence([self.config.seed, number, self.processes.rank])
        seed = int(words.generate_state(1, np.uint64)[0]) >> 1
        torch.manual_seed(seed)  # dropout
        generator = torch.Generator().manual_seed(seed)
        x, maps = to_input(glyphs, self.device), draw_maps(len(glyphs), self.config, generator)
        target = teacher and teacher.predict(warp(x, maps, teacher.side, teacher.extent))
        x, confidence = augment(x, maps, self.config, generator)
        return x.contiguous(memory_format=torch.channels_last), confidence, target


def open_samples(
    config: Config, device: torch.device, processes: Processes, classes: list[str] | None = None
) -> Samples:
    """Open, and pack if needed, the sources of a config.

    `classes` is the label order of a resumed run. Raises ValueError or FileNotFoundError for
    sources that are missing, exclude each other, overlap, or have too few samples.
    """
    check_options(config, processes.world)
    opened = (synthetic if config.synthetic else packed)(config, classes)
    samples = Samples(config, device, processes, *opened)
    needed = config.batch_size if processes.world > 1 else 2
    if len(samples.train) < needed or len(samples.validation) == 0:
        what = f"{len(samples.train)} training and {len(samples.validation)} validation samples"
        raise ValueError(f"{what}; give more --data, or other --val-fraction or --batch-size")
    if device.type == "cuda" and not config.synthetic:
        samples.source.to(device, torch.cuda.mem_get_info(device)[0])
    return samples


def check_options(config: Config, world: int) -> None:
    """Raise ValueError for settings that exclude each other."""
    if config.batch_size % world or config.batch_size < 2 * world:
        what = f"--batch-size {config.batch_size} over {counted(world, 'process')}"
        raise ValueError(f"{what}: expected 2 or more each (BatchNorm), the same for all")
    for key in ("data", "val_data", "teacher", "unlabelled", "outliers"):
        if config.synthetic and getattr(config, key) != getattr(Config, key):
            what = f"--synthetic draws all samples, {flag(key)} cannot be combined with it"
            raise ValueError(f"{what}; write files with synthesize_gnt.py and give them as --data")
    needed = {"unlabelled": "teacher", "keep_classes": "init_from"}
    for key, other in needed.items():
        if getattr(config, key) and not getattr(config, other):
            raise ValueError(f"{flag(key)} needs {flag(other)}")


def synthetic(config: Config, classes: list[str] | None) -> tuple:
    """Return the last fields of `Samples`: an endless stream, another one to validate on."""
    classes = classes or choose_classes(config, select_classes(config.classes) or LEVEL1)
    source, other = (
        SyntheticSet(classes, config.size, seed, workers=config.workers)
        for seed in (config.seed, config.seed + 1)
    )
    count = config.synthetic_epoch
    validation = np.arange(min(10_000, max(100, count // 10)))
    description = f"training on {count:,} synthetic samples of {len(classes):,} classes per epoch; "
    description += f"validating on {len(validation):,} others"
    return (classes, source, np.arange(count), other, validation, description, f"{count}")


def packed(config: Config, classes: list[str] | None) -> tuple:
    """Return the last fields of `Samples`: packed sources, held-out writers or --val-data."""
    given = config.data, config.unlabelled, config.outliers
    kinds = [[split_repeat(source) for source in sources] for sources in given]
    known, free, empty = (
        [open_pack(folder, config.size, config.workers) for folder, _ in kind] for kind in kinds
    )
    chosen, present = select_classes(config.classes), classes_of(known)
    if chosen is not None:
        present = [label for label in present if label in set(chosen)]
    classes = classes or choose_classes(config, present)
    options = {"size": config.size, "classes": classes, "skip_unknown": chosen is not None}
    source = other = CharacterDataset(known, unlabelled=free, no_character=empty, **options)
    fraction = 0.0 if config.val_data else config.val_fraction
    train, validation, how = hold_out(source, fraction, config.seed)
    packs = source.packs
    if config.val_data:
        other = CharacterDataset(config.val_data, workers=config.workers, **options)
        validation, how, packs = np.arange(len(other)), config.val_data, packs + other.packs
    check_distinct(packs)
    description = f"training on {source.describe(train)}; validating on "
    description += f"{other.describe(validation)}: {how}"
    if tested := [name for name in source.writer_names if origin(f"{name}.gnt")[2] == "test"]:
        description += f"; {counted(len(tested), 'test writer')} among those trained on"
    train = np.concatenate([train, np.flatnonzero(source.targets == NO_LABEL)])
    repeats = np.array([times for kind in kinds for _, times in kind])
    train = np.repeat(train, repeats[source.sources[train]])
    split = zlib.crc32(validation, zlib.crc32(train))
    digest = " ".join([*(pack.fingerprint[:12] for pack in packs), f"{split:08x}"])
    return (classes, source, train, other, validation, description, digest)


def choose_classes(config: Config, present: str | list[str]) -> list[str]:
    """Return the label order: classes of the data, with --keep-classes also of the checkpoint."""
    kept = checkpoint.load(config.init_from)["classes"] if config.keep_classes else []
    return sorted({*present, *kept}, key=class_order)


def check_distinct(packs: list[Pack]) -> None:
    """Raise ValueError if two sources overlap: validation would score samples trained on."""
    for one, other in combinations(packs, 2):
        path, path2 = one.source.resolve(), other.source.resolve()
        equal = one.fingerprint == other.fingerprint
        if equal or path in (path2, *path2.parents) or path2 in path.parents:
            both = f"{one.source} and {other.source}"
            raise ValueError(f"{both} hold the same samples; give each source once")


def split_repeat(source: str) -> tuple[str, int]:
    """Split ``DIR@3`` into folder and repetitions if no file is named so; ValueError for DIR@0."""
    folder, _, count = source.rpartition("@")
    if not (folder and count.isdecimal()) or Path(source).exists():
        return source, 1
    if not int(count):
        raise ValueError(f"{source}: expected 1 repetition or more; to leave it out, omit it")
    return folder, int(count)
