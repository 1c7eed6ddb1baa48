"""What an evaluation says beyond top-1: by writer, by class, by pair, by confidence.

    result = evaluate(...)
    confused_pairs(result)[:10], by_writer(result, glyphs.writers), calibration(result)

Pure functions of an `evaluation.score.Result`; test.py prints them, report.py draws them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from evaluation.score import Result
from jobs.command import shorten


class Share(NamedTuple):
    """How many of a group (a writer, a class) were read right."""

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
    """Return (n,) bool: read right at first place."""
    return result.top[:, 0] == result.labels


def correct_or_twin(result: Result, classes: Sequence[str], twins: Sequence[str]) -> np.ndarray:
    """Return (n,) bool: read right, or as a twin of the truth; a group of `twins` are twins."""
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


def sample_lines(figures: dict) -> list[str]:
    """Say what was counted and what was not, from the figures of test.py."""
    samples, classes, read = (figures[key] for key in ("samples", "classes", "classes_read"))
    lines = [f"samples     {samples:,} of {classes} classes, read among {read}"]
    if refused := figures["refused"]:
        why = "were refused (blank, or no picture) and count as wrong"
        lines.append(f"not read    {refused:,} of them {why}")
    if unknown := figures["unknown_classes"]:
        what = f"{sum(unknown.values()):,} samples of {len(unknown)} classes that are not read"
        lines.append(f"left out    {what}: {shorten(list(unknown))}")
    if damaged := figures["damaged"]:
        lines.append(f"damaged     {damaged:,} places of .gnt files")
    return lines


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
    """Samples of like confidence: mean confidence, share read right, number."""

    confidence: float
    accuracy: float
    samples: int


def calibration(result: Result, bins: int = 15) -> tuple[list[Bin], float]:
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


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the number by which logits (n,K) are to be divided so that the labels (n,) fit best.

    Temperature scaling (Guo et al. 2017): the mean cross-entropy is smallest. It is convex in the
    reciprocal, so the golden section finds it; the result is between 0.05 and 20.
    """

    def loss(log_temperature: float) -> float:
        scaled = logits * float(np.exp(-log_temperature))
        return float(torch.nn.functional.cross_entropy(scaled, labels))

    low, high, golden = -np.log(20), np.log(20), (np.sqrt(5) - 1) / 2
    while high - low > 0.002:
        one, two = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, two) if loss(one) < loss(two) else (one, high)
    return float(np.exp((low + high) / 2))


def coverage(result: Result) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return threshold, coverage and accuracy of the accepted, for a growing share of accepted.

    Samples are accepted in the order of their confidence, so entry i accepts i + 1 of them.
    """
    order = np.argsort(-result.probability[:, 0], kind="stable")
    hits = correct(result)[order].cumsum()
    accepted = np.arange(1, len(order) + 1)
    return result.probability[order, 0], accepted / len(order), hits / accepted
