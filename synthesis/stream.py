"""Endless labelled handwriting: single bitmaps, or batches of glyphs from worker processes.

    bitmap, label = Handwriting("永和九年", seed=1).draw(7)      # sample 7

A sample depends on the seed and its number only.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain, islice

import cv2
import numpy as np

from jobs.pool import Workers
from picture import to_glyph
from synthesis.writer import HARD, Writer, drawable, render

PART = 32  # glyphs per task


class Handwriting:
    """Endless labelled handwriting, every picture by a writer of its own.

    Raises ValueError for classes that cannot be drawn.
    """

    def __init__(self, classes: Sequence[str], seed: int = 0) -> None:
        self.classes, self.seed = list(classes), seed
        drawable(self.classes)

    def draw(self, index: int) -> tuple[np.ndarray, int]:
        """Return picture number `index` >= 0: bitmap (h, w) uint8, 255 = paper, and its label.

        Each run of len(classes) pictures shows every class once, in an order of its own.
        """
        count = len(self.classes)
        epoch, place = divmod(index, count)
        label = int(shuffled(self.seed, epoch, count)[place])
        rng = np.random.default_rng((self.seed, 1, index, 0))
        writer = Writer.draw(rng, rng.uniform(*HARD))
        return render(self.classes[label], writer, rng), label


@lru_cache(maxsize=8)
def shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order (count,) in which pass number `epoch` shows the classes."""
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


class SyntheticSet:
    """Endless synthetic handwriting, drawn by worker processes while the network trains.

    Sample i depends on (seed, i) only: a resumed run sees the same glyphs. 0 workers: one per core.
    """

    def __init__(self, classes: Sequence[str], size: int, seed: int, workers: int = 0) -> None:
        self.make = partial(draw_batch, Handwriting(classes, seed), size)
        self.workers = workers

    def fetch(self, indices: np.ndarray) -> tuple:
        """Return tensors: glyphs (B,S,S) uint8 and labels (B,) int64."""
        return next(self.batches([indices]))

    def batches(self, chosen: Sequence[np.ndarray]) -> Iterator[tuple]:
        """Yield the batches of index arrays; a few are drawn ahead."""
        import torch  # drawing works without it

        parts = [np.array_split(indices, max(1, len(indices) // PART)) for indices in chosen]
        drawn = drawing_pool(self.workers).map(self.make, chain.from_iterable(parts))
        for part in parts:
            columns = zip(*islice(drawn, len(part)), strict=True)
            yield tuple(torch.from_numpy(np.concatenate(column)) for column in columns)


@lru_cache(maxsize=1)
def drawing_pool(workers: int) -> Workers:
    """Return the worker pool of all synthetic sets; it lives as long as this process."""
    return Workers(workers)


def draw_batch(handwriting: Handwriting, size: int, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    """Draw glyphs (n,S,S) uint8 and labels (n,) int64."""
    cv2.setNumThreads(1)
    bitmaps, labels = zip(*map(handwriting.draw, indices.tolist()), strict=True)
    return np.stack([to_glyph(bitmap, size) for bitmap in bitmaps]), np.array(labels, np.int64)
