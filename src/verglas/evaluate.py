"""Compare picks with labels: match one to one, rank, count at a threshold, and say how sure the figures are.

A pick is right when it is matched with a label within a share (``radius``) of the diameter. Chance is high at 0.5 and
low at 0.2 diameters, so figures are given at several radii, beside what pickers reach that look at nothing.
"""

from collections.abc import Mapping
from math import nan
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from verglas.baselines import chance
from verglas.errors import InputError
from verglas.matching import Pool, check_comparable, match_optimal
from verglas.ranking import Ranked, best_f1, bounds
from verglas.records import plain
from verglas.targets import distance_to_nearest
from verglas.types import Evaluation, Image, Picks, PickSet

RADII = (0.2, 0.3, 0.5)
"""Matching radii, in diameters, at which figures are always given."""


def evaluate(
    picks: PickSet,
    truth: Mapping[str, Picks],
    *,
    diameter_px: float,
    radius: float = 0.5,
    seed: int = 0,
    bootstraps: int = 2000,
    probability: Mapping[str, Image] | None = None,
) -> Evaluation:
    """Compute every figure of merit of ``picks`` on the micrographs of ``truth``, each of which counts.

    Parameters
    ----------
    picks
        Where they know the shapes of all micrographs, the trivial pickers stand beside them.
    truth
        Labels by micrograph. One without rows says that there is none: all picks there are wrong.
    radius
        Reach of the matching, in diameters, for the headline; others stand in ``at_radius``.
    probability
        Maps for the pixel figures, which compare them with full discs of one diameter.
    """
    check_comparable(picks, truth, radius * diameter_px)
    pool, shares = Pool.of(picks.by_name(), truth), sorted({radius, *RADII})
    ranked = {f: pool.by_micrograph(f * diameter_px) for f in shares}
    at_radius = {
        f"{f:g}": _at_radius(pool, r, f * diameter_px, picks.threshold, bootstraps, seed) for f, r in ranked.items()
    }
    rows = _rows(pool.names, ranked[radius], picks.threshold)
    pooled = at_radius[f"{radius:g}"] | {"threshold": picks.threshold} | _counts(rows) | {"at_radius": at_radius}
    pooled["pixel"] = _pixels(probability, truth, diameter_px) if probability else None
    pooled["baselines"] = None
    if truth.keys() <= picks.shapes.keys():
        pooled["baselines"] = chance(truth, picks.shapes, diameter_px=diameter_px, shares=shares, seed=seed)
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
    return Evaluation(tuple(plain(rows)), plain(pooled), how)


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
        check_comparable(picks, truth, radius * diameter_px)
        sides.append((Pool.of(picks.by_name(), truth).by_micrograph(radius * diameter_px), picks.threshold))

    def difference(weights: Float[np.ndarray, "b u"]) -> dict[str, Float[np.ndarray, " b"]]:
        first, second = (ranked.figures(threshold, weights) for ranked, threshold in sides)
        return {key: first[key] - second[key] for key in first}

    whole = {key: value[0] for key, value in difference(np.ones((1, len(truth)))).items()}
    return dict(plain(whole | {"ci": bounds(difference, sides[0][0].labels, bootstraps, seed)}))


def _at_radius(
    pool: Pool, r: Ranked, radius_px: float, threshold: float | None, bootstraps: int, seed: int
) -> dict[str, Any]:
    whole, each = r.whole(threshold), r.figures(threshold, np.eye(len(r.labels))[r.labels > 0])
    return whole | {
        "radius_px": radius_px,
        "best_threshold": best_f1(r.right, r.score, len(pool.label_unit))[1],
        "macro": {key: np.mean(v).item() if len(v) else None for key, v in each.items() if key != "best_f1"},
        "optimal": _optimal(pool, r.counted(threshold), radius_px, whole["f1"]),
        "ci": bounds(lambda weights: r.figures(threshold, weights), r.labels, bootstraps, seed),
    }


def _optimal(pool: Pool, counted: Bool[np.ndarray, " n"], radius_px: float, greedy_f1: float) -> dict[str, Any]:
    n, m = int(counted.sum()), len(pool.label_xyz)
    hits = float(match_optimal(pool.xyz[counted], pool.label_xyz, radius_px)[0].sum()) if m else nan
    f1 = 2 * hits / max(n + m, 1)
    return {"f1": f1, "precision": hits / max(n, 1), "recall": hits / max(m, 1), "differs": abs(f1 - greedy_f1) > 0.01}


def _rows(names: tuple[str, ...], r: Ranked, threshold: float | None) -> list[dict[str, Any]]:
    columns = {
        "n_labels": r.labels.astype(int),
        "n_picks": np.bincount(r.unit[r.counted(threshold)], minlength=len(names)),
        "n_candidates": np.bincount(r.unit, minlength=len(names)),
        **r.figures(threshold, np.eye(len(names))),
    }
    return [{"micrograph": name} | {key: v[k].item() for key, v in columns.items()} for k, name in enumerate(names)]


def _counts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    empty = [row["n_picks"] for row in rows if not row["n_labels"]]
    return {
        **{key: sum(row[key] for row in rows) for key in ("n_labels", "n_picks", "n_candidates")},
        "n_micrographs": len(rows),
        "n_empty": len(empty),
        "false_picks_per_empty": float(np.mean(empty)) if empty else None,
    }


def _pixels(probability: Mapping[str, Image], truth: Mapping[str, Picks], diameter_px: float) -> dict[str, Any] | None:
    parts = []
    for name in sorted(truth.keys() & probability.keys()):
        image = probability[name]
        inside = np.isfinite(distance_to_nearest(truth[name].xy, image.grid, image.valid.shape, within=diameter_px / 2))
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
