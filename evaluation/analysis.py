"""Metrics of an evaluation: by writer, class, confused pair and confidence; tests of significance.

Pure functions of `evaluation.score.Result`; test.py prints their results, report.py plots them.
"""

import math
from collections import Counter
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


def standard_error(values: np.ndarray, writers: np.ndarray) -> tuple[float, str]:
    """Return the standard error of the mean of values (n,), and what it was estimated over.

    Samples of a writer are correlated. With two known writers or more this is the cluster-robust
    error: samples of one writer count as one observation (Liang and Zeger 1986, for a mean).
    Samples of unknown writers (-1) are independent. Otherwise it is the error over samples.
    """
    residuals = values - np.mean(values)
    people, alone = len(np.unique(writers[writers >= 0])), np.arange(len(values))
    groups = alone if people < 2 else np.where(writers >= 0, writers, -1 - alone)
    _, cluster = np.unique(groups, return_inverse=True)
    sums = np.bincount(cluster, residuals)
    error = np.sqrt(np.sum(sums**2) * len(sums) / max(1, len(sums) - 1)) / len(values)
    return float(error), "samples" if people < 2 else f"{people} writers"


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the two-sided p-value that two networks are equally good (McNemar 1947).

    Only samples that exactly one of them reads right count: binomial with probability 1/2.
    """
    total = only_one + only_other
    whole = math.lgamma(total + 1) - total * math.log(2)
    tail = sum(
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(total - k + 1))
        for k in range(min(only_one, only_other) + 1)
    )
    return min(1.0, 2 * tail)


def shares(result: Result, keys: np.ndarray) -> list[Share]:
    """Return the shares of the groups of samples with equal keys (n,), worst first.

    Of groups of equal accuracy the one with more mistakes comes first; samples of key -1 (unknown
    writers) are left out.
    """
    known, inverse = np.unique(keys[keys >= 0], return_inverse=True)
    hits = np.bincount(inverse, result.correct[keys >= 0]).astype(int)
    rows = zip(known.tolist(), hits.tolist(), np.bincount(inverse).tolist(), strict=True)
    return sorted((Share(*row) for row in rows), key=lambda s: (s.accuracy, s.correct - s.samples))


def confused_pairs(result: Result) -> list[tuple[tuple[int, int], int]]:
    """Return confusions ((truth, prediction), number), most frequent first."""
    wrong = ~result.correct
    pairs = zip(result.labels[wrong].tolist(), result.top[wrong, 0].tolist(), strict=True)
    return Counter(pairs).most_common()


def reliability(result: Result, bins: int = 15) -> tuple[np.ndarray, float]:
    """Return the reliability diagram and the expected calibration error (Guo et al. 2017).

    The diagram (3,m) is mean confidence, accuracy and number of samples of the bins of equal width
    that have samples.
    """
    confidence = result.probability[:, 0].astype(float)
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    sums = [np.bincount(number, weights) for weights in (confidence, result.correct, None)]
    confidence, right, samples = np.array(sums)[:, sums[-1] > 0]
    ece = np.abs(confidence - right).sum() / samples.sum()
    return np.array([confidence / samples, right / samples, samples]), float(ece)
