"""Compare picks with labels: match one to one, rank, count at a threshold, and say how sure the figures are.

A pick is right when it is matched with a label within a share (``radius``) of the diameter. Chance is high at 0.5 and
low at 0.2 diameters, so figures are given at several radii, beside what pickers reach that look at nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import isotonic_regression
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from verglas.errors import InputError
from verglas.targets import distance_to_nearest
from verglas.types import Evaluation, Grid, Image, Picks, PickSet

RADII = (0.2, 0.3, 0.5)
"""Matching radii, in diameters, at which figures are always given."""

FEWEST = 5
"""Micrographs with labels from which an interval over micrographs means something."""

PLATEAU = 0.002
"""Thresholds whose F1 is this near to the best are as good: the middle of them is taken."""

PITCHES = tuple(tenth / 10 for tenth in range(5, 16))
"""Pitches, in diameters, of the square grids that are tried: no closer than picks may be."""

_APART = 1e6  # between micrographs, along a third axis: keeps their picks out of each other's reach


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


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """All candidates, best first, and all labels; ``unit`` numbers the micrograph, as the third coordinate does."""

    names: tuple[str, ...]
    xyz: Float[np.ndarray, "n 3"]
    score: Float[np.ndarray, " n"]
    unit: Int[np.ndarray, " n"]
    label_xyz: Float[np.ndarray, "m 3"]
    label_unit: Int[np.ndarray, " m"]


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """Candidates, best first: which are right, and of which unit of resampling; ``labels`` counts those per unit."""

    score: Float[np.ndarray, " n"]
    right: Bool[np.ndarray, " n"]
    unit: Int[np.ndarray, " n"]
    labels: Float[np.ndarray, " u"]


def match(
    xy: Float[np.ndarray, "n 2"], score: Float[np.ndarray, " n"], truth_xy: Float[np.ndarray, "m 2"], radius: float
) -> tuple[Bool[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Give each pick, best first, the nearest free label within ``radius``; return which got one, and which or -1.

    What a pick gets depends on better picks only, so one matching serves every threshold.
    """
    order = np.lexsort((xy[:, 0], xy[:, 1], -score))
    label = np.empty(len(xy), int)
    label[order] = _greedy(xy[order], truth_xy, radius)
    return label >= 0, label


def match_optimal(
    xy: Float[np.ndarray, "n d"], truth_xy: Float[np.ndarray, "m d"], radius: float
) -> tuple[Bool[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Match as many picks and labels as possible, at the least sum of squared distances; no score enters."""
    n, m = len(xy), len(truth_xy)
    label = np.full(n, -1)
    if n and m:
        pick, found, distance = _pairs(xy, truth_xy, radius)
        # A label may stay alone at a cost above that of all matches; 1 + d², because sparse arrays lose zeros.
        cost = np.append(1 + (distance / radius) ** 2, np.full(m, 2.0 * min(n, m) + 2))
        places = np.append(found, np.arange(m)), np.append(pick, n + np.arange(m))
        row, column = min_weight_full_bipartite_matching(csr_array((cost, places), shape=(m, n + m)))
        label[column[column < n]] = row[column < n]
    return label >= 0, label


def precision_recall_curve(
    right: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], n_labels: int
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return precision, recall and threshold at each distinct score, falling. Every label is in the denominator."""
    hits, taken, score, ends = _down(right, score)
    return hits / taken, _share(hits, np.full(len(hits), float(n_labels))), score[ends]


def average_precision(right: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], n_labels: int) -> float:
    """Sum precision over the steps of recall; equal scores are one step. NaN without labels."""
    precision, recall, _ = precision_recall_curve(right, score, n_labels)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision)) if n_labels else math.nan


def best_f1(right: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], n_labels: int) -> tuple[float, float | None]:
    """Return the best F1 of all thresholds and its threshold, midway to the next score. Optimistic by nature."""
    if not n_labels or not right.any():
        return (0.0 if n_labels else math.nan), None
    hits, taken, score, ends = _down(right, score)
    f1 = 2 * hits / (taken + n_labels)
    best = int(np.argmax(f1))
    return float(f1[best]), _between(score, int(ends[best]), int(ends[best]))


def evaluate(
    picks: PickSet,
    truth: Mapping[str, Picks],
    *,
    diameter_px: float,
    radius: float = 0.5,
    seed: int = 0,
    bootstraps: int = 2000,
    probability: Mapping[str, Image] | None = None,
    shapes: Mapping[str, tuple[int, int]] | None = None,
    valid: Mapping[str, Image] | None = None,
) -> Evaluation:
    """Compute every figure of merit of ``picks`` on the micrographs of ``truth``, each of which counts.

    Parameters
    ----------
    truth
        Labels by micrograph. One without rows says that there is none: all picks there are wrong.
    radius
        Reach of the matching, in diameters, for the headline; others stand in ``at_radius``.
    probability
        Maps for the pixel figures, which compare them with full discs of one diameter.
    shapes
        (h, w) by micrograph for the trivial pickers, where ``picks`` does not say.
    valid
        Where somebody looked: picks and labels centred elsewhere are left out.
    """
    _check(picks, truth, radius * diameter_px)
    pool = _pool(picks.by_name(), truth, valid or {})
    shares, known = sorted({radius, *RADII}), {**picks.shapes, **(shapes or {})}
    ranked = {f: _ranked(pool, f * diameter_px) for f in shares}
    at_radius = {
        f"{f:g}": _at_radius(pool, r, f * diameter_px, picks.threshold, bootstraps, seed) for f, r in ranked.items()
    }
    rows = _rows(pool.names, ranked[radius], picks.threshold)
    empty = [row["n_picks"] for row in rows if not row["n_labels"]]
    pooled = at_radius[f"{radius:g}"] | {
        "threshold": picks.threshold,
        "n_labels": len(pool.label_unit),
        "n_picks": sum(row["n_picks"] for row in rows),
        "n_candidates": len(pool.score),
        "n_micrographs": len(rows),
        "n_empty": len(empty),
        "false_picks_per_empty": float(np.mean(empty)) if empty else None,
        "at_radius": at_radius,
        "pixel": _pixels(probability, truth, diameter_px) if probability else None,
        "baselines": _baselines(truth, known, diameter_px, seed, shares) if truth.keys() <= known.keys() else None,
    }
    how = {
        "matching": "one to one: best score first, nearest free label",
        "aggregation": f"pooled over {len(rows)} micrographs",
        "radius": radius,
        "diameter_px": diameter_px,
        "threshold": picks.threshold_how or ("all picks count" if picks.threshold is None else "given with the picks"),
        "scores_differ": bool(np.ptp(pool.score) > 0) if len(pool.score) else False,
        "micrographs_without_labels": len(picks.by_name().keys() - truth.keys()),
        "bootstraps": bootstraps,
        "seed": seed,
    }
    return Evaluation(tuple(_plain(rows)), _plain(pooled), how)


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return the evaluation as one object of plain values; what is undefined is None."""
    return {**evaluation.pooled, "per_micrograph": list(evaluation.rows), "how": dict(evaluation.how)}


def paired_difference(
    a: PickSet,
    b: PickSet,
    truth: Mapping[str, Picks],
    *,
    diameter_px: float,
    radius: float = 0.5,
    seed: int = 0,
    bootstraps: int = 2000,
) -> dict[str, Any]:
    """Return by how much ``a`` exceeds ``b`` in each figure, with bounds from resampling both alike."""
    sides = []
    for picks in (a, b):
        _check(picks, truth, radius * diameter_px)
        sides.append((_ranked(_pool(picks.by_name(), truth, {}), radius * diameter_px), picks.threshold))

    def difference(weights: Float[np.ndarray, "b u"]) -> dict[str, Float[np.ndarray, " b"]]:
        first, second = (_figures(ranked, threshold, weights) for ranked, threshold in sides)
        return {key: first[key] - second[key] for key in first}

    kind, weights, percentiles = _resamples(sides[0][0].labels, bootstraps, seed)
    whole = {key: value[0] for key, value in difference(np.ones((1, len(truth)))).items()}
    return dict(_plain(whole | {"ci": {"kind": kind} | _bounds(difference(weights), percentiles)}))


def choose_threshold(
    picks: PickSet,
    truth: Mapping[str, Picks],
    *,
    diameter_px: float,
    radius: float = 0.5,
    least_recall: float | None = None,
    expected_precision: float | None = None,
    seed: int = 0,
    bootstraps: int = 500,
) -> OperatingPoint:
    """Choose the score from which a pick counts, on micrographs that are not reported on.

    F1 is made highest, unless ``least_recall`` asks for the highest threshold that keeps this recall, or
    ``expected_precision`` for the lowest with this precision, smoothed so that it falls with the score.
    With few micrographs the interval comes from resampling particles, which is narrower than the truth.
    """
    _check(picks, truth, radius * diameter_px)
    pool = _pool(picks.by_name(), truth, {})
    if not len(pool.label_unit):
        raise InputError("operating point", "number of labels", found=0, expected="one or more to choose by")
    if least_recall is not None and expected_precision is not None:
        raise InputError("operating point", "goal", found="both a recall and a precision", expected="one of them")
    ranked = _ranked(pool, radius * diameter_px)
    goal = (least_recall, expected_precision)
    threshold = _threshold(ranked, np.ones(len(truth)), *goal)
    if math.isnan(threshold):
        found = f"a recall or precision that none of {len(pool.score)} candidates reaches"
        raise InputError("operating point", "goal", found=found, expected="one within reach", remedy="Ask for less.")
    few = np.count_nonzero(ranked.labels) < FEWEST
    parts = _by_particle(pool, radius * diameter_px) if few else ranked
    draws = [_threshold(parts, weights, *goal) for weights in _multinomial(len(parts.labels), bootstraps, seed)]
    low, high = np.nanpercentile([threshold, *draws], (2.5, 97.5)).tolist()
    figures = {key: float(value[0]) for key, value in _figures(ranked, threshold, np.ones((1, len(truth)))).items()}
    aims = {"recall": least_recall, "precision": expected_precision}
    aim = next((f"{name} >= {value:g}" for name, value in aims.items() if value is not None), "best F1")
    how = f"{aim} within {radius:g} D; 95 % interval: bootstrap over {'particles' if few else 'micrographs'}"
    f1, precision, recall = figures["f1"], figures["precision"], figures["recall"]
    return OperatingPoint(threshold, how, f1, precision, recall, (low, high), len(truth), len(pool.label_unit))


def _check(picks: PickSet, truth: Mapping[str, Picks], reach_px: float) -> None:
    if not reach_px > 0:
        raise InputError("evaluation", "radius times diameter", found=f"{reach_px} px", expected="> 0 px")
    if not truth:
        raise InputError("labels", "number of micrographs", found=0, expected="one or more")
    for p in (*picks, *truth.values()):
        if not (np.isfinite(p.xy).all() and np.isfinite(p.score).all()):
            raise InputError(p.micrograph, "position or score", found="not a number", expected="finite values")
    names = picks.by_name().keys()
    if names and not names & truth.keys():
        remedy = "Name micrographs alike in picks and labels; folders and suffixes do not matter."
        raise InputError(
            "picks", "micrograph", found=min(names), expected=f"a labelled one: {min(truth)}", remedy=remedy
        )


# --- matching


def _pairs(
    xy: Float[np.ndarray, "n d"], truth_xy: Float[np.ndarray, "m d"], radius: float
) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Return pick, label and distance of every pair within ``radius``, give or take rounding."""
    reach = radius * (1 + 1e-9)
    found = cKDTree(xy).sparse_distance_matrix(cKDTree(truth_xy), reach, output_type="ndarray")
    return found["i"].astype(int), found["j"].astype(int), found["v"]


def _greedy(
    best_first: Float[np.ndarray, "n d"], truth_xy: Float[np.ndarray, "m d"], radius: float
) -> Int[np.ndarray, " n"]:
    label, free = [-1] * len(best_first), [True] * len(truth_xy)
    if label and free:
        pick, found, distance = _pairs(best_first, truth_xy, radius)
        order = np.lexsort((truth_xy[found, 0], truth_xy[found, 1], distance, pick))
        for i, j in zip(pick[order].tolist(), found[order].tolist(), strict=True):
            if free[j] and label[i] < 0:
                label[i], free[j] = j, False
    return np.array(label, int)


def _pool(picks: Mapping[str, Picks], truth: Mapping[str, Picks], valid: Mapping[str, Image]) -> _Pool:
    names = tuple(sorted(truth))  # resamples must not depend on the order of files
    xyz, score, unit = _stacked(names, picks, valid)
    label_xyz, _, label_unit = _stacked(names, truth, valid)
    order = np.lexsort((xyz[:, 0], xyz[:, 1], unit, -score))
    return _Pool(names, xyz[order], score[order], unit[order], label_xyz, label_unit)


def _stacked(
    names: tuple[str, ...], picks: Mapping[str, Picks], valid: Mapping[str, Image]
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    nothing = Picks("", np.empty((0, 2)), np.empty(0))
    parts = [_looked_at(picks.get(name, nothing), valid.get(name)) for name in names]
    unit = np.repeat(np.arange(len(names)), [len(p) for p in parts])
    xy, score = np.concatenate([p.xy for p in parts]), np.concatenate([p.score for p in parts])
    return np.column_stack((xy, unit * _APART)), score, unit


def _looked_at(picks: Picks, image: Image | None) -> Picks:
    if image is None:
        return picks
    column, row = np.rint(image.grid.from_micrograph(picks.xy)).astype(int).T
    (h, w), seen = image.valid.shape, np.zeros(len(picks), bool)
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
    seen[inside] = image.valid[row[inside], column[inside]]
    return picks.where(seen)


def _ranked(pool: _Pool, radius_px: float) -> _Ranked:
    """Match, with micrographs as units."""
    right = _greedy(pool.xyz, pool.label_xyz, radius_px) >= 0
    return _Ranked(pool.score, right, pool.unit, np.bincount(pool.label_unit, minlength=len(pool.names)).astype(float))


def _by_particle(pool: _Pool, radius_px: float) -> _Ranked:
    """Match, with a unit for each label and its pick, and one for each wrong pick."""
    label, n_labels = _greedy(pool.xyz, pool.label_xyz, radius_px), len(pool.label_unit)
    right = label >= 0
    unit = np.where(right, label, n_labels + np.cumsum(~right) - 1)
    return _Ranked(pool.score, right, unit, np.repeat(np.array((1.0, 0.0)), np.array((n_labels, np.sum(~right)))))


# --- thresholds


def _ends(score: Float[np.ndarray, " n"]) -> Int[np.ndarray, " k"]:
    """Return the last index of each run of equal scores."""
    return np.flatnonzero(np.diff(score, append=-np.inf))


def _down(
    right: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " n"], Int[np.ndarray, " k"]]:
    """Return right picks and all picks down to each distinct score, the falling scores, and where each one ends."""
    order = np.argsort(-score, kind="stable")
    ends = _ends(score[order])
    return np.cumsum(right[order])[ends].astype(float), ends + 1.0, score[order], ends


def _between(falling: Float[np.ndarray, " n"], first: int, last: int) -> float:
    """Return the middle of the thresholds that take all up to a candidate from ``first`` to ``last``."""
    upper, rest = float(falling[first]), falling[last + 1 :]
    lower = float(rest[0] if len(rest) else falling[last])
    middle = (upper + lower) / 2
    return middle if middle > lower else upper


def _threshold(
    r: _Ranked, weights: Float[np.ndarray, " u"], least_recall: float | None, expected_precision: float | None
) -> float:
    """Return the threshold that meets the goal when each unit counts as often as it weighs, or NaN."""
    weight, ends, labels = weights[r.unit], _ends(r.score), weights @ r.labels
    taken, hits = np.cumsum(weight)[ends], np.cumsum(weight * r.right)[ends]
    new = np.diff(taken, prepend=0.0) > 0
    ends, taken, hits = ends[new], taken[new], hits[new]
    if least_recall is not None:
        good = np.flatnonzero(hits >= least_recall * labels - 1e-9)[:1]
    elif expected_precision is not None:
        good = np.flatnonzero(_falling_precision(hits, taken) >= expected_precision - 1e-9)[-1:]
    else:
        f1 = 2 * hits / (taken + labels)
        good = np.flatnonzero(f1 >= f1.max(initial=0.0) - PLATEAU)
        stretches = np.split(good, np.flatnonzero(np.diff(good) > 1) + 1)
        good = next((s for s in stretches if np.argmax(f1) in s), good) if len(good) else good
    return _between(r.score, int(ends[good[0]]), int(ends[good[-1]])) if len(good) else math.nan


def _falling_precision(hits: Float[np.ndarray, " k"], taken: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Smooth precision by isotonic regression: the chance to be right does not rise as the score falls."""
    if not len(hits):
        return hits
    size = np.diff(taken, prepend=0.0)
    fit = isotonic_regression(np.diff(hits, prepend=0.0) / size, weights=size, increasing=False)
    return np.cumsum(fit.x * size) / taken


# --- figures of merit


def _counted(score: Float[np.ndarray, " n"], threshold: float | None) -> Bool[np.ndarray, " n"]:
    return score >= (-np.inf if threshold is None else threshold)


def _share(part: Float[np.ndarray, " b"], whole: Float[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _figures(
    r: _Ranked, threshold: float | None, weights: Float[np.ndarray, "b u"]
) -> dict[str, Float[np.ndarray, " b"]]:
    """Return figures for each row of weights, which say how often each unit counts; NaN where there is no label.

    Without picks precision is 0.
    """
    counted = _counted(r.score, threshold)
    units, labels = len(r.labels), weights @ r.labels
    picks = weights @ np.bincount(r.unit[counted], minlength=units)
    hits = weights @ np.bincount(r.unit[counted & r.right], minlength=units)
    ap, best = _over_thresholds(r, weights, labels)
    some = labels > 0
    return {
        "ap": _share(ap, labels),
        "f1": _share(2 * hits, some * (picks + labels)),
        "precision": _share(hits, some * np.maximum(picks, 1)),
        "recall": _share(hits, labels),
        "best_f1": np.where(some, best, np.nan),
    }


def _over_thresholds(
    r: _Ranked, weights: Float[np.ndarray, "b u"], labels: Float[np.ndarray, " b"]
) -> Float[np.ndarray, "2 b"]:
    """Return AP times the number of labels, and best F1. Both can only change where a right pick comes in."""
    ends = _ends(r.score)
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


def _generator(seed: int, consumer: str) -> np.random.Generator:
    return np.random.default_rng([seed, *consumer.encode()])  # never the stream that, say, simulated the labels


def _multinomial(units: int, bootstraps: int, seed: int) -> Float[np.ndarray, "b u"]:
    return _generator(seed, "bootstrap").multinomial(units, np.full(units, 1 / units), size=bootstraps).astype(float)


def _resamples(
    labels: Float[np.ndarray, " u"], bootstraps: int, seed: int
) -> tuple[str, Float[np.ndarray, "b u"], tuple[float, float]]:
    """Return what the bounds are, the weights to compute them from, and which percentiles they are."""
    if np.count_nonzero(labels) < FEWEST:
        return "range over micrographs", np.eye(len(labels)), (0.0, 100.0)
    return "95 % bootstrap over micrographs", _multinomial(len(labels), bootstraps, seed), (2.5, 97.5)


def _bounds(values: Mapping[str, Float[np.ndarray, " b"]], percentiles: tuple[float, float]) -> dict[str, Any]:
    known = {key: value[~np.isnan(value)] for key, value in values.items()}
    return {key: np.percentile(value, percentiles).tolist() if len(value) else None for key, value in known.items()}


def _at_radius(
    pool: _Pool, r: _Ranked, radius_px: float, threshold: float | None, bootstraps: int, seed: int
) -> dict[str, Any]:
    whole = {key: float(value[0]) for key, value in _figures(r, threshold, np.ones((1, len(r.labels)))).items()}
    each = _figures(r, threshold, np.eye(len(r.labels))[r.labels > 0])
    kind, weights, percentiles = _resamples(r.labels, bootstraps, seed)
    return whole | {
        "radius_px": radius_px,
        "best_threshold": best_f1(r.right, r.score, len(pool.label_unit))[1],
        "macro": {key: np.mean(v).item() if len(v) else None for key, v in each.items() if key != "best_f1"},
        "optimal": _optimal(pool, radius_px, threshold, whole["f1"]),
        "ci": {"kind": kind} | _bounds(_figures(r, threshold, weights), percentiles),
    }


def _optimal(pool: _Pool, radius_px: float, threshold: float | None, greedy_f1: float) -> dict[str, Any]:
    counted = pool.xyz[_counted(pool.score, threshold)]
    n, m = len(counted), len(pool.label_xyz)
    hits = float(match_optimal(counted, pool.label_xyz, radius_px)[0].sum()) if m else math.nan
    f1 = 2 * hits / max(n + m, 1)
    return {"f1": f1, "precision": hits / max(n, 1), "recall": hits / max(m, 1), "differs": abs(f1 - greedy_f1) > 0.01}


def _rows(names: tuple[str, ...], r: _Ranked, threshold: float | None) -> list[dict[str, Any]]:
    counted = _counted(r.score, threshold)
    columns = {
        "n_labels": r.labels.astype(int),
        "n_picks": np.bincount(r.unit[counted], minlength=len(names)),
        "n_candidates": np.bincount(r.unit, minlength=len(names)),
        **_figures(r, threshold, np.eye(len(names))),
    }
    return [{"micrograph": name} | {key: v[k].item() for key, v in columns.items()} for k, name in enumerate(names)]


# --- pixels, and pickers that look at nothing


def _discs(picks: Picks, grid: Grid, shape: tuple[int, int], diameter_px: float) -> Bool[np.ndarray, "h w"]:
    return distance_to_nearest(picks.xy, grid, shape) <= diameter_px / 2


def _pixels(probability: Mapping[str, Image], truth: Mapping[str, Picks], diameter_px: float) -> dict[str, Any] | None:
    parts = []
    for name in sorted(truth.keys() & probability.keys()):
        image = probability[name]
        inside = _discs(truth[name], image.grid, image.valid.shape, diameter_px)
        parts.append((image.data[image.valid], inside[image.valid]))
    if not parts:
        return None
    p, y = (np.concatenate(values) for values in zip(*parts, strict=True))
    if len(p) and p.min() == 0 and p.max() == 1 and not np.any((p > 0) & (p < 1)):
        raise InputError("probability", "values", found="only 0 and 1", expected="a ranking, before any threshold")
    each = [_pixel_figures(*part) for part in parts if part[1].any()]
    mean = {key: float(np.mean([row[key] for row in each])) for key in ("f1_at_0.5", "best_f1", "ap")} if each else None
    return _pixel_figures(p, y) | {"per_image_mean": mean, "n_maps": len(parts)}


def _pixel_figures(p: Float[np.ndarray, " n"], y: Bool[np.ndarray, " n"]) -> dict[str, float]:
    """Compute AP and best F1 at the values of positive pixels, where alone they can change."""
    inside, everything = np.sort(p[y]), np.sort(p)
    value = np.unique(inside)[::-1]
    hits = (len(inside) - np.searchsorted(inside, value)).astype(float)
    taken = len(p) - np.searchsorted(everything, value)
    prior = len(inside) / max(len(p), 1)
    return {
        "f1_at_0.5": 2 * float(np.sum(inside > 0.5)) / max(float(np.sum(everything > 0.5)) + len(inside), 1.0),
        "best_f1": float(np.max(2 * hits / (taken + len(inside)), initial=0.0)),
        "ap": float(np.sum(np.diff(hits, prepend=0.0) * hits / taken)) / max(len(inside), 1),
        "trivial_f1": 2 * prior / (1 + prior),
        "prior": prior,
    }


def _baselines(
    truth: Mapping[str, Picks],
    shapes: Mapping[str, tuple[int, int]],
    diameter_px: float,
    seed: int,
    shares: list[float],
) -> dict[str, Any]:
    """Return what as many random picks as labels, the best square grid, and calling every pixel positive reach."""
    rng, names = _generator(seed, "baselines"), sorted(truth)
    random = [
        {k: Picks(k, rng.random((len(truth[k]), 2)) * shapes[k][::-1] - 0.5, rng.random(len(truth[k]))) for k in names}
        for _ in range(10)
    ]
    grids = [{k: _lattice(k, shapes[k], pitch * diameter_px) for k in names} for pitch in PITCHES]

    def reached(places: Mapping[str, Picks], share: float) -> tuple[float, float]:
        figures = _figures(_ranked(_pool(places, truth, {}), share * diameter_px), None, np.ones((1, len(names))))
        return float(figures["f1"][0]), float(figures["ap"][0])

    of_random = {f: np.mean([reached(places, f) for places in random], axis=0).tolist() for f in shares}
    of_grid = {f: max(reached(places, f) for places in grids) for f in shares}
    grid = Grid(dx=diameter_px / 8, dy=diameter_px / 8)  # fine enough for the share of many discs
    sizes = {k: (int(shapes[k][0] / grid.dy), int(shapes[k][1] / grid.dx)) for k in names}
    drawn = [_discs(truth[k], grid, sizes[k], diameter_px).ravel() for k in names]
    prior = float(np.mean(np.concatenate(drawn)))
    return {
        "random": {f"{f:g}": {"f1": f1, "ap": ap} for f, (f1, ap) in of_random.items()},
        "grid": {f"{f:g}": {"f1": f1, "ap": ap} for f, (f1, ap) in of_grid.items()},
        "all_positive": {"pixel_f1": 2 * prior / (1 + prior), "prior": prior},
    }


def _lattice(name: str, shape: tuple[int, int], pitch: float) -> Picks:
    y, x = (np.arange(pitch / 2, length, pitch) - 0.5 for length in shape)
    xy = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return Picks(name, xy, np.ones(len(xy)))


def _plain(value: Any) -> Any:
    """Turn values into what JSON knows: NaN becomes None."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return (float(value) if math.isfinite(value) else None) if isinstance(value, float) else value
