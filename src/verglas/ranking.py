"""Figures of merit of ranked candidates, of which it is known which are right, and how sure the figures are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

FEWEST = 5
"""Micrographs with labels from which an interval over micrographs means something."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Candidates, best first: which are right, and of which unit of resampling; ``labels`` counts those per unit."""

    score: Float[np.ndarray, " n"]
    right: Bool[np.ndarray, " n"]
    unit: Int[np.ndarray, " n"]
    labels: Float[np.ndarray, " u"]

    def counted(self, threshold: float | None) -> Bool[np.ndarray, " n"]:
        """Tell which candidates count."""
        return self.score >= (-np.inf if threshold is None else threshold)

    def figures(self, threshold: float | None, weights: Float[np.ndarray, "b u"]) -> dict[str, Float[np.ndarray, " b"]]:
        """Return figures for each row of weights, which say how often each unit counts; NaN where there is no label.

        Without picks precision is 0.
        """
        counted = self.counted(threshold)
        units, labels = len(self.labels), weights @ self.labels
        picks = weights @ np.bincount(self.unit[counted], minlength=units)
        hits = weights @ np.bincount(self.unit[counted & self.right], minlength=units)
        ap, best = _over_thresholds(self, weights, labels)
        some = labels > 0
        return {
            "ap": _share(ap, labels),
            "f1": _share(2 * hits, some * (picks + labels)),
            "precision": _share(hits, some * np.maximum(picks, 1)),
            "recall": _share(hits, labels),
            "best_f1": np.where(some, best, np.nan),
        }

    def whole(self, threshold: float | None) -> dict[str, float]:
        """Return the figures where each unit counts once."""
        return {key: float(v[0]) for key, v in self.figures(threshold, np.ones((1, len(self.labels)))).items()}


def precision_recall_curve(
    right: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], n_labels: int
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return precision, recall and threshold at each distinct score, falling. Every label is in the denominator."""
    hits, taken, score, ends = _down(right, score)
    return hits / taken, _share(hits, np.full(len(hits), float(n_labels))), score[ends]


def average_precision(right: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], n_labels: int) -> float:
    """Sum precision over the steps of recall; equal scores are one step. NaN without labels."""
    precision, recall, _ = precision_recall_curve(right, score, n_labels)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision)) if n_labels else nan


def best_f1(right: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], n_labels: int) -> tuple[float, float | None]:
    """Return the best F1 of all thresholds and its threshold, midway to the next score. Optimistic by nature."""
    if not n_labels or not right.any():
        return (0.0 if n_labels else nan), None
    hits, taken, score, ends = _down(right, score)
    f1 = 2 * hits / (taken + n_labels)
    best = int(np.argmax(f1))
    return float(f1[best]), midway(score, int(ends[best]), int(ends[best]))


def standard_error(share: float, number: float) -> float:
    """Return the standard error of a share, or of an AP as far as it is one, among so many; NaN where it is NaN."""
    return sqrt(max(share * (1 - share), 0.0) / max(number, 1.0))


def ends_of_ties(falling: Float[np.ndarray, " n"]) -> Int[np.ndarray, " k"]:
    """Return the last index of each run of equal scores."""
    return np.flatnonzero(np.diff(falling, append=-np.inf))


def midway(falling: Float[np.ndarray, " n"], first: int, last: int) -> float:
    """Return the middle of the thresholds that take all up to a candidate from ``first`` to ``last``."""
    upper, rest = float(falling[first]), falling[last + 1 :]
    lower = float(rest[0] if len(rest) else falling[last])
    middle = (upper + lower) / 2
    return middle if middle > lower else upper


def bounds(
    figures: Callable[[Float[np.ndarray, "b u"]], Mapping[str, Float[np.ndarray, " b"]]],
    labels: Float[np.ndarray, " u"],
    bootstraps: int,
    seed: int,
) -> dict[str, Any]:
    """Return the bounds of each figure, and as ``kind`` what they are; ``figures`` are computed from weights."""
    if np.count_nonzero(labels) < FEWEST:
        kind, weights, percentiles = "range over micrographs", np.eye(len(labels)), (0.0, 100.0)
    else:
        kind, weights = "95 % bootstrap over micrographs", resamples(len(labels), bootstraps, seed)
        percentiles = (2.5, 97.5)
    known = {key: value[~np.isnan(value)] for key, value in figures(weights).items()}
    limits = {key: np.percentile(v, percentiles).tolist() if len(v) else None for key, v in known.items()}
    return {"kind": kind} | limits


def resamples(units: int, bootstraps: int, seed: int) -> Float[np.ndarray, "b u"]:
    """Draw as many units as there are, with replacement; return how often each came."""
    return generator(seed, "bootstrap").multinomial(units, np.full(units, 1 / units), size=bootstraps).astype(float)


def generator(seed: int, consumer: str) -> np.random.Generator:
    """Return a stream of the consumer's own: never the one that, say, simulated the labels."""
    return np.random.default_rng([seed, *consumer.encode()])


def _down(
    right: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " n"], Int[np.ndarray, " k"]]:
    """Return right picks and all picks down to each distinct score, the falling scores, and where each one ends."""
    order = np.argsort(-score, kind="stable")
    ends = ends_of_ties(score[order])
    return np.cumsum(right[order])[ends].astype(float), ends + 1.0, score[order], ends


def _share(part: Float[np.ndarray, " b"], whole: Float[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _over_thresholds(
    r: Ranked, weights: Float[np.ndarray, "b u"], labels: Float[np.ndarray, " b"]
) -> Float[np.ndarray, "2 b"]:
    """Return AP times the number of labels, and best F1. Both can only change where a right pick comes in."""
    ends = ends_of_ties(r.score)
    ends = ends[np.diff(np.cumsum(r.right)[ends], prepend=0) > 0]
    step, shape = np.searchsorted(ends, np.arange(len(r.score))), (len(ends), len(r.labels))
    some = step < len(ends)
    every = csr_array((np.ones(some.sum()), (step[some], r.unit[some])), shape=shape)
    right = csr_array((np.ones(r.right.sum()), (step[r.right], r.unit[r.right])), shape=shape)
    figures = np.empty((2, len(weights)))
    rows = 2**18 // max(len(ends), 1) + 1  # at a time, to stay in the cache
    for part in (slice(at, at + rows) for at in range(0, len(weights), rows)):
        new = right @ weights[part].T
        hits, taken = np.cumsum(new, axis=0), np.cumsum(every @ weights[part].T, axis=0)
        figures[0, part] = np.sum(new * hits / np.maximum(taken, 1), axis=0)
        figures[1, part] = np.max(2 * hits / np.maximum(taken + labels[part], 1), axis=0, initial=0.0)
    return figures
