"""Handwritten characters as a `torch.utils.data.Dataset`, like torchvision's ImageFolder.

    dataset = CharacterDataset("data/train", size=80)
    image, label = dataset[0]                    # (1,80,80) float in 0...1, int
    dataset.classes[label], dataset.samples[0]   # "一", ("data/train/U+4E00/1001_00000.png", 0)

A source is a tree of class folders, a .gnt file, or a folder of .gnt files. It is packed on first
use (packing.py); after that, all samples are read from the pack.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hwdb.characters import class_order
from jobs.command import shorten
from packing import Pack, counted, open_pack
from picture import Proposals

NO_LABEL = -100  # ignored by torch.nn.functional.cross_entropy

Sources = str | Path | Pack | Sequence[str | Path | Pack]


class CharacterDataset(Dataset):
    """Samples of one or more sources. An item is an image (1,S,S) float32 in 0...1 and its label.

    Attributes:
        classes: class of each label.
        class_to_idx: label of each class.
        targets: (N,) int64 labels; NO_LABEL for samples of `unlabelled` and `no_character`.
        no_character: (N,) bool, samples of `no_character`.
        writers: (N,) int64 into `writer_names`, -1 if unknown. Equal names in two sources are one
            writer.
        sources: (N,) int64 into `packs`.
        rows: (N,) int64, the sample within its pack.

    Args:
        labelled: sources whose class folders (or .gnt tags) are the labels.
        unlabelled: sources whose labels are not used.
        no_character: sources of images that contain no character.
        size: side S of a glyph in pixels.
        classes: the label order; by default all classes of the labelled sources in GB order.
        skip_unknown: leave out labelled samples of other classes instead of raising.
        transform: applied to each image by indexing, not by `fetch`.
        workers: processes that pack; 0 means one per core.

    Raises ValueError or FileNotFoundError for sources that cannot be packed, and ValueError for
    those with other classes than `classes`.
    """

    def __init__(
        self,
        labelled: Sources,
        *,
        unlabelled: Sources = (),
        no_character: Sources = (),
        size: int = 80,
        classes: Sequence[str] | None = None,
        skip_unknown: bool = False,
        transform: Callable[[Tensor], Tensor] | None = None,
        workers: int = 0,
    ) -> None:
        known, free, empty = (
            _open(given, size, workers) for given in (labelled, unlabelled, no_character)
        )
        self.packs = [*known, *free, *empty]
        self.classes = classes_of(known) if classes is None else list(classes)
        self.class_to_idx = {label: i for i, label in enumerate(self.classes)}
        self.size, self.transform = size, transform
        self.writer_names = sorted({name for pack in self.packs for name in pack.writers})
        person = {name: i for i, name in enumerate(self.writer_names)}
        targets, rows, writers = [], [], []
        for number, pack in enumerate(self.packs):
            labels, kept = np.full(len(pack), NO_LABEL), np.arange(len(pack))
            if number < len(known):
                labels = self._labels(pack, skip_unknown)
                kept = np.flatnonzero(labels != NO_LABEL)
            people = np.array([*(person[name] for name in pack.writers), -1])
            if not tells_writers(pack):
                people[:] = -1
            targets.append(labels[kept])
            rows.append(kept)
            writers.append(people[pack.writer_ids[kept]])  # -1 is the last
        self.targets, self.rows, self.writers = (
            np.concatenate(parts).astype(np.int64) for parts in (targets, rows, writers)
        )
        self.sources = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
        self.no_character = self.sources >= len(known) + len(free)
        self._resident: Tensor | None = None

    def _labels(self, pack: Pack, skip_unknown: bool) -> np.ndarray:
        """Return the labels (n,) of a pack, NO_LABEL for classes that are not ours."""
        unknown = [label for label in pack.classes if label not in self.class_to_idx]
        if unknown and not skip_unknown:
            what = f"{pack.source}: {len(unknown)} of its classes are not among the"
            raise ValueError(f"{what} {len(self.classes)} of the model: {shorten(unknown, 20)}")
        table = [self.class_to_idx.get(label, NO_LABEL) for label in pack.classes]
        return np.array(table)[pack.labels]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return the items of a batch, read at once; DataLoader calls this."""
        glyphs, labels = self.fetch(np.asarray(indices))
        images = (glyphs[:, None].float() / 255).unbind()
        if self.transform is not None:
            images = map(self.transform, images)
        return list(zip(images, labels.tolist(), strict=True))

    @cached_property
    def samples(self) -> list[tuple[str, int]]:
        """File and label of each sample."""
        return [(self.name(i), label) for i, label in enumerate(self.targets.tolist())]

    def name(self, index: int) -> str:
        """Return the file of a sample; for a record of a .gnt file, ``FILE#OFFSET``."""
        pack = self.packs[self.sources[index]]
        folder = pack.source.parent if pack.source.is_file() else pack.source
        return str(folder / pack.names[self.rows[index]])

    def fetch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the first proposals (B,S,S) uint8 and the labels (B,) int64 on the CPU.

        The proposals are on the device that `to` has moved them to, else on the CPU.
        """
        labels = torch.from_numpy(self.targets[indices])
        if self._resident is not None:
            at = torch.from_numpy(indices).to(self._resident.device, non_blocking=True)
            return self._resident[at], labels
        glyphs = np.empty((len(indices), self.size, self.size), np.uint8)
        for number in np.unique(self.sources[indices]):
            here = self.sources[indices] == number
            glyphs[here] = self.packs[number].first(self.rows[indices[here]])
        return torch.from_numpy(glyphs), labels

    def batches(self, chosen: Sequence[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of index arrays; see `fetch`."""
        yield from map(self.fetch, chosen)

    def proposals(self, indices: np.ndarray) -> list[Proposals]:
        """Return the proposals of samples."""
        places = zip(self.sources[indices].tolist(), self.rows[indices].tolist(), strict=True)
        return [self.packs[number].proposals(row) for number, row in places]

    def to(self, device: torch.device, free: int) -> None:
        """Move all first proposals to a device if they fit into half of its `free` bytes."""
        if 2 * len(self) * self.size**2 < free:
            parts = np.array_split(np.arange(len(self)), len(self) // 10_000 + 1)
            self._resident = torch.cat([self.fetch(part)[0].to(device) for part in parts])

    def describe(self, indices: np.ndarray) -> str:
        """Return the numbers of samples, classes and writers among `indices` in one line."""
        labels, writers = self.targets[indices], self.writers[indices]
        classes = len(np.unique(labels[labels != NO_LABEL]))
        people = len(np.unique(writers[writers >= 0]))
        text = f"{counted(len(indices), 'sample')} of {counted(classes, 'class')}"
        return f"{text} by {counted(people, 'writer')}" if people else f"{text}, writers unknown"


def _open(given: Sources, size: int, workers: int) -> list[Pack]:
    sources = [given] if isinstance(given, str | Path | Pack) else given
    return [s if isinstance(s, Pack) else open_pack(s, size, workers) for s in sources]


def classes_of(packs: Sequence[Pack]) -> list[str]:
    """Return the classes of packs in label order."""
    return sorted({label for pack in packs for label in pack.classes}, key=class_order)


def tells_writers(pack: Pack) -> bool:
    """Return whether a writer has several classes; not so if files are named by class: 木_1.png."""
    label = np.zeros(1 + len(pack.writers), int)
    label[pack.writer_ids] = pack.labels  # one of each writer's
    several = label[pack.writer_ids] != pack.labels
    return len(pack.classes) == 1 or bool(several[pack.writer_ids >= 0].any())


def hold_out(
    dataset: CharacterDataset, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray, str]:
    """Split the labelled samples into training and validation by writer.

    `fraction` of the writers are drawn with `seed`, at least one. Samples of unknown writers, or of
    a single writer, are split by sample, as are those of classes that only drawn writers wrote.
    Returns training indices and validation indices, both ascending, and how the latter were chosen.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    labelled = np.flatnonzero(dataset.targets != NO_LABEL)
    writers = dataset.writers[labelled]
    known = np.unique(writers[writers >= 0])
    people = max(1, round(fraction * len(known))) if fraction and len(known) > 1 else 0
    held = np.isin(writers, rng.permutation(known)[:people])
    labels = dataset.targets[labelled]
    lost = np.isin(labels, np.setdiff1d(labels[held], labels[~held]))
    held &= ~lost
    alone = np.flatnonzero((writers < 0) | lost) if people else np.arange(len(labelled))
    count = round(fraction * len(alone))
    held[rng.permutation(alone)[:count]] = True
    held &= ~np.isin(labels, np.setdiff1d(labels[held], labels[~held]))  # to train on every class
    drawn = f"{held[alone].sum():,} drawn by sample, as writers are unknown or too few"
    return labelled[~held], labelled[held], drawn if count else "held-out writers"
