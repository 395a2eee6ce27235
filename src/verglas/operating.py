"""Choose the operating point: the score from which a pick counts, and how sure it is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isnan, nan
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import isotonic_regression
from scipy.special import logit

from verglas.errors import InputError
from verglas.matching import Pool, check_comparable
from verglas.ranking import FEWEST, Ranked, ends_of_ties, midway, resamples
from verglas.types import Picks, PickSet

PLATEAU = 0.02
"""Thresholds whose F1 is this near to the best are as good; a few held-out labels cannot tell them apart."""

PULL = 0.1
"""F1 that each squared unit of log odds from half the best F1 costs a threshold, divided by the number of labels.

Measured on micrographs neither labelled nor for testing. One training on klh, with 8 labels held out, had its threshold
at .02 for the sake of two faint ones; now .44, and an F1 of .904 instead of .802. With 7 to 13 held-out labels in five
other trainings there, and 71 to 181 in four on the other sets, the threshold stays what it was. In 150 windows of 6,
10 or 20 of these labels in each of the four, the F1 elsewhere moves by .002 at most in the mean, and in the worst
twentieth rises by up to .02 (cryoppp_10059).
"""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The score from which a pick counts, how it was chosen, and what it reached where it was chosen."""

    threshold: float
    how: str
    f1: float
    precision: float
    recall: float
    interval: tuple[float, float]
    n_micrographs: int
    n_labels: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"interval": list(self.interval)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OperatingPoint":
        """Read what ``to_dict`` returned."""
        expected = {f.name for f in fields(cls)}
        if values.keys() != expected:
            odd = ", ".join(sorted(values.keys() ^ expected))
            raise InputError("operating point", "fields", found=f"lacking or strange: {odd}", expected="those of a run")
        low, high = values["interval"]
        return cls(**dict(values) | {"interval": (float(low), float(high))})


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A goal other than the best F1: the highest threshold with this recall, or the lowest with this precision.

    Precision is smoothed so that it falls with the score.
    """

    figure: Literal["recall", "precision"]
    value: float


def choose_threshold(
    picks: PickSet,
    truth: Mapping[str, Picks],
    *,
    diameter_px: float,
    radius: float = 0.5,
    goal: AtLeast | None = None,
    seed: int = 0,
    bootstraps: int = 500,
) -> OperatingPoint:
    """Choose the score from which a pick counts, for the best F1 or another goal, on micrographs not reported on.

    For F1 it is the middle of the thresholds that are as good as the best, but at most half the best F1, which is
    where the F1 of calibrated probabilities peaks (Lipton et al., arXiv 1402.1892). The labels of one micrograph are
    often its clearest particles, and a threshold that suits them finds few elsewhere. Two faint ones of eight labels
    would pull it to where much else is picked, so few labels leave it near that half of the best F1 (``PULL``).

    With few micrographs the interval comes from resampling particles, which is narrower than the truth.
    """
    check_comparable(picks, truth, radius * diameter_px)
    pool = Pool.of(picks.by_name(), truth)
    if not len(pool.label_unit):
        raise InputError("operating point", "number of labels", found=0, expected="one or more to choose by")
    ranked = pool.by_micrograph(radius * diameter_px)
    threshold = _threshold(ranked, np.ones(len(truth)), goal)
    if isnan(threshold):
        found = f"a recall or precision that none of {len(pool.score)} candidates reaches"
        raise InputError("operating point", "goal", found=found, expected="one within reach", remedy="Ask for less.")
    few = np.count_nonzero(ranked.labels) < FEWEST
    parts = pool.by_particle(radius * diameter_px) if few else ranked
    draws = [_threshold(parts, weights, goal) for weights in resamples(len(parts.labels), bootstraps, seed)]
    low, high = np.nanpercentile([threshold, *draws], (2.5, 97.5)).tolist()
    aim = "best F1" if goal is None else f"{goal.figure} >= {goal.value:g}"
    how = f"{aim} within {radius:g} D; 95 % interval: bootstrap over {'particles' if few else 'micrographs'}"
    reached, sizes = ranked.whole(threshold), (len(truth), len(pool.label_unit))
    return OperatingPoint(threshold, how, reached["f1"], reached["precision"], reached["recall"], (low, high), *sizes)


def _threshold(r: Ranked, weights: Float[np.ndarray, " u"], goal: AtLeast | None) -> float:
    """Return the threshold that meets the goal when each unit counts as often as it weighs, or NaN."""
    weight, ends = weights[r.unit], ends_of_ties(r.score)
    taken, hits = np.cumsum(weight)[ends], np.cumsum(weight * r.right)[ends]
    new = np.diff(taken, prepend=0.0) > 0
    ends, hits, taken, labels = ends[new], hits[new], taken[new], float(weights @ r.labels)
    good = _meeting(goal, r.score[ends], hits, taken, labels)
    if not len(good):
        return nan
    middle = midway(r.score, int(ends[good[0]]), int(ends[good[-1]]))
    return middle if goal else min(middle, float((hits / (taken + labels)).max()))


def _meeting(
    goal: AtLeast | None,
    score: Float[np.ndarray, " k"],
    hits: Float[np.ndarray, " k"],
    taken: Float[np.ndarray, " k"],
    labels: float,
) -> Int[np.ndarray, " s"]:
    """Return the stretch of thresholds that meet the goal alike."""
    if goal is None:
        f1 = 2 * hits / (taken + labels)
        half = f1.max(initial=0.0) / 2
        nearest = np.clip(half, np.append(score[1:], 0.0), score)
        apart = logit(np.clip(nearest, 0.001, 0.999)) - logit(np.clip(half, 0.001, 0.999))
        worth = f1 - PULL / max(labels, 1.0) * apart**2
        good = np.flatnonzero(worth >= worth.max(initial=-np.inf) - PLATEAU)
        stretches = np.split(good, np.flatnonzero(np.diff(good) > 1) + 1)
        return next((s for s in stretches if np.argmax(worth) in s), good) if len(good) else good
    if goal.figure == "recall":
        return np.flatnonzero(hits >= goal.value * labels - 1e-9)[:1]
    return np.flatnonzero(_falling_precision(hits, taken) >= goal.value - 1e-9)[-1:]


def _falling_precision(hits: Float[np.ndarray, " k"], taken: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Smooth precision by isotonic regression: the chance to be right does not rise as the score falls."""
    if not len(hits):
        return hits
    size = np.diff(taken, prepend=0.0)
    fit = isotonic_regression(np.diff(hits, prepend=0.0) / size, weights=size, increasing=False)
    return np.cumsum(fit.x * size) / taken
