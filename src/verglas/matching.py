"""Match picks with labels one to one: a pick is right when it got a label within reach."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from verglas.errors import InputError
from verglas.ranking import Ranked
from verglas.types import Picks, PickSet, nothing

_APART = 1e6  # between micrographs, along a third axis: keeps their picks out of each other's reach


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


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """All candidates, best first, and all labels; ``unit`` numbers the micrograph, as the third coordinate does."""

    names: tuple[str, ...]
    xyz: Float[np.ndarray, "n 3"]
    score: Float[np.ndarray, " n"]
    unit: Int[np.ndarray, " n"]
    label_xyz: Float[np.ndarray, "m 3"]
    label_unit: Int[np.ndarray, " m"]

    @classmethod
    def of(cls, picks: Mapping[str, Picks], truth: Mapping[str, Picks]) -> "Pool":
        """Pool picks and labels of the micrographs of ``truth``."""
        names = tuple(sorted(truth))  # resamples must not depend on the order of files
        xyz, score, unit = _stacked(names, picks)
        label_xyz, _, label_unit = _stacked(names, truth)
        order = np.lexsort((xyz[:, 0], xyz[:, 1], unit, -score))
        return cls(names, xyz[order], score[order], unit[order], label_xyz, label_unit)

    def by_micrograph(self, radius_px: float) -> Ranked:
        """Match, with micrographs as units."""
        right = _greedy(self.xyz, self.label_xyz, radius_px) >= 0
        labels = np.bincount(self.label_unit, minlength=len(self.names)).astype(float)
        return Ranked(self.score, right, self.unit, labels)

    def by_particle(self, radius_px: float) -> Ranked:
        """Match, with a unit for each label and its pick, and one for each wrong pick."""
        label, n_labels = _greedy(self.xyz, self.label_xyz, radius_px), len(self.label_unit)
        right = label >= 0
        unit = np.where(right, label, n_labels + np.cumsum(~right) - 1)
        labels = np.repeat(np.array((1.0, 0.0)), np.array((n_labels, np.sum(~right))))
        return Ranked(self.score, right, unit, labels)


def check_comparable(picks: PickSet, truth: Mapping[str, Picks], reach_px: float) -> None:
    """Raise ``InputError`` where picks and labels cannot be compared."""
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


def _stacked(
    names: tuple[str, ...], picks: Mapping[str, Picks]
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    parts = [picks.get(name, nothing(name)) for name in names]
    unit = np.repeat(np.arange(len(names)), [len(p) for p in parts])
    unit = unit.astype(int)  # of nothing, numpy makes floats
    xy, score = (
        np.concatenate([nothing("").xy, *(p.xy for p in parts)]),
        np.concatenate([[], *(p.score for p in parts)]),
    )
    return np.column_stack((xy, unit * _APART)), score, unit
