"""What a run trains and validates on: packed sources, or an endless synthetic stream.

samples = open_samples(config, torch.device("cpu"))
for glyphs, labels, soft in samples.batches(config, 0, 0, 3, Processes(0, 1, 0)):
    ...
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from config import Config, flag
from dataset import CharacterDataset, classes_of, epoch_order, hold_out
from hwdb.characters import LEVEL1, class_order, select_classes
from jobs.devices import Processes
from packing import Pack, open_pack
from synthesis.stream import SyntheticSet
from training.teacher import LiveTeacher, Soft, SoftLabels, label_pack, load_teacher

UNLABELLED, NO_CHARACTER = -1, -2  # marks in the labels of a batch


@dataclass(frozen=True)
class Samples:
    """Training and validation samples of a run, the same on every process."""

    classes: list[str]
    source: CharacterDataset | SyntheticSet
    train: np.ndarray  # indices into `source`; those that are seen twice stand twice
    val_source: CharacterDataset | SyntheticSet
    validation: np.ndarray  # indices into `val_source`
    said: str  # of the validation, in words
    digest: str  # tells whether a resumed run finds the data that it began with
    soft: SoftLabels | None = None
    live: LiveTeacher | None = None

    def batches(
        self, config: Config, epoch: int, first: int, last: int, processes: Processes
    ) -> Iterator[tuple[Tensor, Tensor, Soft | None]]:
        """Yield a process's part of the steps first...last of an epoch.

        Each is glyphs (B,S,S) uint8, labels (B,) int64, and a teacher's logits where it labelled
        the glyphs.
        """
        share = config.batch_size // processes.world
        order = self.train[epoch_order(len(self.train), config.seed, epoch)]
        if config.synthetic:
            order = order + epoch * len(self.train)  # never the same glyph twice
        starts = [step * config.batch_size + processes.rank * share for step in range(first, last)]
        chosen = [order[start : start + share] for start in starts]
        for indices, (glyphs, labels) in zip(chosen, self.source.batches(chosen), strict=True):
            if isinstance(self.source, CharacterDataset):
                labels[torch.from_numpy(self.source.unlabelled[indices])] = UNLABELLED
                labels[torch.from_numpy(self.source.no_character[indices])] = NO_CHARACTER
            yield glyphs, labels, self.soft and self.soft.fetch(self.soft_rows(indices))

    def soft_rows(self, indices: np.ndarray) -> np.ndarray:
        """Return where samples stand among all samples of all packs."""
        starts = np.cumsum([0, *map(len, self.source.packs)])
        return starts[self.source.sources[indices]] + self.source.rows[indices]


def open_samples(config: Config, device: torch.device, classes: list[str] | None = None) -> Samples:
    """Open (and pack, and have labelled) what the config names.

    `classes` is the label order of a resumed run. Raises ValueError or FileNotFoundError for
    sources that exclude each other, are absent or hold too little.
    """
    check_sources(config)
    samples = (synthetic if config.synthetic else packed)(config, device, classes)
    if len(samples.train) == 0 or len(samples.validation) == 0:
        said = f"{len(samples.train)} training and {len(samples.validation)} validation samples"
        raise ValueError(f"{said}; give more --data or another --val-fraction")
    return samples


def check_sources(config: Config) -> None:
    """Raise ValueError for settings of the samples that exclude each other."""
    default = Config()
    for key in ("data", "val_data", "teacher", "unlabelled", "outliers"):
        if config.synthetic and getattr(config, key) != getattr(default, key):
            said = f"--synthetic draws all samples itself, {flag(key)} does not go with it"
            raise ValueError(f"{said}; write files with synthesize_gnt.py and give them as --data")
    if config.fonts and not config.synthetic:
        raise ValueError("--fonts is for --synthetic alone; see also synthesize_gnt.py --fonts")
    for key in ("unlabelled", "outliers"):
        if getattr(config, key) and not config.teacher:
            said = "is learned beside the logits of a --teacher; there is none"
            raise ValueError(f"{flag(key)} {said}")
    if config.teacher_input and not config.teacher:
        raise ValueError("--teacher-input says what a --teacher expects; there is none")
    if config.teacher_live and not config.teacher:
        raise ValueError("--teacher-live says how a --teacher looks; there is none")
    if config.join and not config.teacher_live:
        raise ValueError(
            "--join makes pictures that --teacher-live alone can read; it is not given"
        )


def synthetic(config: Config, device: torch.device, classes: list[str] | None) -> Samples:
    """Return the endless stream, and another one to validate on."""
    chosen = select_classes(config.classes) or LEVEL1
    classes = classes or sorted(chosen, key=class_order)
    source, other = (
        SyntheticSet(classes, config.size, seed, config.fonts, config.workers)
        for seed in (config.seed, config.seed + 1)
    )
    count = config.synthetic_epoch
    validation = np.arange(min(10_000, max(100, count // 10)))
    said = f"{len(validation):,} validation glyphs: other synthetic writers"
    return Samples(classes, source, np.arange(count), other, validation, said, f"{count}")


def packed(config: Config, device: torch.device, classes: list[str] | None) -> Samples:
    """Return packed sources, parted by writer or with a source of their own to validate on."""
    kinds = [
        [split_repeat(source) for source in given]
        for given in (config.data, config.unlabelled, config.outliers)
    ]
    known, free, empty = (
        [open_pack(folder, config.size, config.workers) for folder, _ in kind] for kind in kinds
    )
    chosen = select_classes(config.classes)
    present = classes_of(known)
    if chosen is not None:
        present = [label for label in present if label in set(chosen)]
    classes = classes or present
    skip = chosen is not None
    source = other = CharacterDataset(
        known,
        unlabelled=free,
        no_character=empty,
        size=config.size,
        classes=classes,
        skip_unknown=skip,
    )
    packs = source.packs
    names = ["--data"] * len(known) + ["--unlabelled"] * len(free) + ["--outliers"] * len(empty)
    if config.val_data:
        pack = open_pack(config.val_data, config.size, config.workers)
        packs = [*packs, pack]
        other = CharacterDataset(pack, size=config.size, classes=classes, skip_unknown=skip)
        train, validation = np.flatnonzero(source.targets >= 0), np.arange(len(other))
        how = f"{config.val_data}"
    else:
        train, validation, how = hold_out(source, config.val_fraction, config.seed)
    check_distinct([*names, "--val-data"], packs)
    said = (
        f"training on {source.describe(train)}; validating on {other.describe(validation)}: {how}"
    )
    train = np.concatenate([train, np.flatnonzero(source.unlabelled | source.no_character)])
    repeats = np.array([times for kind in kinds for _, times in kind])
    train = np.repeat(train, repeats[source.sources[train]])
    digest = " ".join([*(pack.fingerprint[:12] for pack in packs), f"{len(train)}"])
    soft = live = None
    if config.teacher:
        teacher = load_teacher(config.teacher, config.teacher_input)
        if config.teacher_live:
            live = LiveTeacher(teacher, classes, config.size, device, config.compile)
        else:  # labels every pack, once; kept beside the pack
            folders = [label_pack(p, teacher, device, workers=config.workers) for p in source.packs]
            soft = SoftLabels(folders, classes, device)
    if device.type == "cuda":
        source.to(device, torch.cuda.mem_get_info(device)[0])
    return Samples(classes, source, train, other, validation, said, digest, soft, live)


def check_distinct(options: list[str], packs: list[Pack]) -> None:
    """Raise ValueError if two sources overlap: validation would score samples that were trained on.

    `options` names the option of each pack.
    """
    given = zip(options, packs, [pack.source.resolve() for pack in packs], strict=False)
    for (option, pack, path), (option2, pack2, path2) in combinations(given, 2):
        both = f"{option} {pack.source} and {option2} {pack2.source}"
        if path == path2 or pack.fingerprint == pack2.fingerprint:
            raise ValueError(f"{both} hold the same samples; give each source once")
        if path in path2.parents or path2 in path.parents:
            raise ValueError(f"{both} overlap, one is part of the other; give each source once")


def split_repeat(source: str) -> tuple[str, int]:
    """Split ``DIR@3`` into folder and repetitions."""
    folder, at, count = source.rpartition("@")
    return (folder, int(count)) if at and count.isdigit() else (source, 1)
