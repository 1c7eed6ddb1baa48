"""Figures of an evaluation: by writer, by class, by pair, by confidence; two networks compared.

Pure functions of `evaluation.score.Result`; test.py prints them, report.py draws them.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evaluation.score import Result


class Share(NamedTuple):
    """How many samples of a group (a writer, a class) were read right."""

    key: int
    correct: int
    samples: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.samples


class Pair(NamedTuple):
    """A confusion: `count` samples of label `truth` were read as `guess`."""

    truth: int
    guess: int
    count: int


def correct(result: Result) -> np.ndarray:
    """Return (n,) bool: whether top-1 is right."""
    return result.top[:, 0] == result.labels


def correct_or_twin(result: Result, classes: Sequence[str], twins: Sequence[str]) -> np.ndarray:
    """Return (n,) bool: right, or read as a twin of the truth; each str of `twins` is a group."""
    label = {name: number for number, name in enumerate(classes)}
    right = correct(result)
    for group in twins:
        known = [label[name] for name in group if name in label]
        right |= np.isin(result.labels, known) & np.isin(result.top[:, 0], known)
    return right


def standard_error(values: np.ndarray, writers: np.ndarray) -> tuple[float, str]:
    """Return the standard error of the mean of values (n,), and what it was estimated over.

    Samples of a writer are correlated. With two known writers or more this is the cluster-robust
    error: samples of one writer count as one observation (Liang and Zeger 1986, for a mean).
    Samples of unknown writers (-1) are independent. Otherwise it is the error over samples.
    """
    values, known = np.asarray(values, float), writers >= 0
    people = len(np.unique(writers[known]))
    residuals = values - values.mean()
    if people < 2:
        return float(np.sqrt(np.sum(residuals**2)) / len(values)), "samples"
    clusters = np.concatenate([np.bincount(writers[known], residuals[known]), residuals[~known]])
    groups = people + int((~known).sum())
    error = np.sqrt(np.sum(clusters**2) * groups / (groups - 1)) / len(values)
    others = f" and {(~known).sum():,} samples of unknown writers" if not known.all() else ""
    return float(error), f"{people} writers{others}"


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the two-sided p-value that two networks are equally good (McNemar 1947).

    Only samples that exactly one of them reads right count: binomial with probability 1/2, exact
    up to 1,000, beyond that the normal approximation with continuity correction.
    """
    total, fewer = only_one + only_other, min(only_one, only_other)
    if total > 1000:
        return math.erfc(max(0.0, abs(only_one - only_other) - 1) / math.sqrt(2 * total))
    tail = sum(math.comb(total, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**total)


def compare(one: np.ndarray, other: np.ndarray, writers: np.ndarray) -> dict[str, object]:
    """Return how two networks compare on the same samples, (n,) bool: whether each is right."""
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    error, over = standard_error(one.astype(float) - other, writers)
    return {
        "samples": len(one),
        "top1": float(one.mean()),
        "top1_other": float(other.mean()),
        "difference_error": error,
        "difference_error_over": over,
        "only_this": only_one,
        "only_other": only_other,
        "p_value": mcnemar(only_one, only_other),
    }


def _shares(keys: np.ndarray, right: np.ndarray) -> list[Share]:
    known, inverse = np.unique(keys, return_inverse=True)
    samples = np.bincount(inverse, minlength=len(known))
    hits = np.bincount(inverse, weights=right, minlength=len(known)).astype(int)
    return [Share(*map(int, row)) for row in zip(known, hits, samples, strict=True)]


def by_writer(result: Result, writers: np.ndarray) -> list[Share]:
    """Return the shares of the known writers; `writers` (N,) is indexed by result.indices."""
    mine = writers[result.indices]
    known = mine >= 0
    return _shares(mine[known], correct(result)[known])


def worst_classes(result: Result) -> list[Share]:
    """Return the shares of all classes, worst first; ties by the larger number of mistakes."""
    shares = _shares(result.labels, correct(result))
    return sorted(shares, key=lambda s: (s.accuracy, s.correct - s.samples, s.key))


def confused_pairs(result: Result) -> list[Pair]:
    """Return confusions, most frequent first."""
    wrong = np.flatnonzero(~correct(result))
    pairs = Counter(zip(result.labels[wrong].tolist(), result.top[wrong, 0].tolist(), strict=True))
    return [Pair(*pair, count) for pair, count in sorted(pairs.items(), key=lambda p: (-p[1], p))]


class Bin(NamedTuple):
    """Samples of similar confidence: mean confidence, accuracy, number."""

    confidence: float
    accuracy: float
    samples: int


def reliability(result: Result, bins: int = 15) -> tuple[list[Bin], float]:
    """Return bins of equal width and the expected calibration error (Guo et al. 2017)."""
    confidence, right = result.probability[:, 0], correct(result)
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = [
        Bin(float(confidence[here].mean()), float(right[here].mean()), int(here.sum()))
        for here in (number == i for i in range(bins))
        if here.any()
    ]
    ece = sum(abs(row.confidence - row.accuracy) * row.samples for row in rows) / len(right)
    return rows, float(ece)


def coverage(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage (n,) and the accuracy (n,) of the i + 1 most confident samples."""
    order = np.argsort(-result.probability[:, 0], kind="stable")
    accepted = np.arange(1, len(order) + 1)
    return accepted / len(order), correct(result)[order].cumsum() / accepted
