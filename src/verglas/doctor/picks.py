"""Are the picks where the labels are, once each? A flip, a swap, a scale or a shift on the way out would show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

from verglas.doctor._base import Finding, RunCheck, Value, skipped
from verglas.doctor.subject import Outcome
from verglas.holdout import Area
from verglas.matching import match
from verglas.types import Picks as Found

Positions = Float[np.ndarray, "n 2"]
Way = Callable[[Positions, float, float], Positions]

REACH = 0.3
"""Diameters within which a pick is on a label: a shift by half of one must not pass."""

DRAWS = 5
"""Random placements whose mean is chance."""


def _turned(swap: bool, across: bool, down: bool) -> Way:
    def way(xy: Positions, w: float, h: float) -> Positions:
        x, y = (xy[:, ::-1] if swap else xy).T
        return np.column_stack([w - 1 - x if across else x, h - 1 - y if down else y])

    return way


def _scaled(factor: float) -> Way:
    return lambda xy, w, h: (xy + 0.5) * factor - 0.5


TURNS: dict[str, Way] = {
    "flipped left to right": _turned(False, True, False), "flipped top to bottom": _turned(False, False, True),
    "turned by 180 degrees": _turned(False, True, True), "with x and y swapped": _turned(True, False, False),
    "turned by 90 degrees": _turned(True, True, False), "turned by 270 degrees": _turned(True, False, True),
    "with x and y swapped and turned by 180 degrees": _turned(True, True, True),
    "at half the scale": _scaled(0.5), "at twice the scale": _scaled(2.0),
}  # fmt: skip
"""What the picks might have to undergo to fit the labels."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """All picks of a micrograph that count, and the labels in the area that is looked at."""

    picks: Found
    truth: Found
    area: Area
    shape: tuple[int, int]

    def hits(self, xy: Positions, reach_px: float) -> tuple[int, int]:
        """Return how many of these positions in the area are on a label, and how many there are."""
        h, w = self.shape
        inside = self.area.holds(xy) & ((xy >= -0.5) & (xy < (w - 0.5, h - 0.5))).all(axis=1)
        right, _ = match(xy[inside], self.picks.score[inside], self.truth.xy, reach_px)
        return int(right.sum()), int(inside.sum())


class Picks(RunCheck):
    """Ask whether the picks on held-out areas fit the labels as they are, better than turned, scaled or shifted.

    What fits better must be right beyond chance by ``sure`` standard deviations: a few labels prove nothing. Crowded
    particles keep their distance, so a shift may fit better than chance: by .15 at most on real and simulated sets.
    """

    name = "picks"
    question = "Are the picks on the labels, once each?"

    def __init__(
        self, *, better: float = 1.5, beyond_chance: float = 0.2, sure: float = 4.0, least_apart: float = 0.25
    ) -> None:
        self.better, self.beyond_chance, self.sure, self.least_apart = better, beyond_chance, sure, least_apart

    def check(self, outcome: Outcome) -> Finding:
        """Return whether picks are twice in one place, or fit the labels better in another way."""
        data, threshold = outcome.data, outcome.run.operating_point().threshold
        diameter, micrographs, held = data.collection.diameter_px, data.collection.by_name(), data.holdout.areas
        found = {one.name: outcome.picker.find(micrographs[one.name], one.found) for one in outcome.looked}
        judged = [
            Judged(picks.above(threshold), data.holdout.inside(data.collection.picks[name]), held[name],
                   micrographs[name].shape)
            for name, picks in found.items() if name in held
        ]  # fmt: skip
        placed = self._placed(judged, diameter)
        apart = max(self.least_apart, data.config.search.separation)
        close = sum(too_close(picks, apart * diameter) for picks in found.values())
        if close and placed.verdict != "fail":  # picks at half the scale are nearer, too
            return _duplicated(close, sum(map(len, found.values())), apart)
        return placed

    def _placed(self, judged: Sequence[Judged], diameter_px: float) -> Finding:
        labels = sum(len(one.truth) for one in judged)
        if not labels or not sum(len(one.picks) for one in judged):
            return skipped("There are no held-out labels, or no picks that count.")
        reach, r = REACH * diameter_px, diameter_px / 2
        f1, hits, picks = scored(judged, lambda xy, w, h: xy, reach)
        chance, lucky = by_chance(judged, reach)
        shifts = {f"shifted by ({dx * r:+.0f}, {dy * r:+.0f}) px": _shifted(dx * r, dy * r)
                  for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy}  # fmt: skip
        others = {name: scored(judged, way, reach) for name, way in (TURNS | shifts).items()}
        best = max(others, key=lambda name: others[name][0])
        top, top_hits, _ = others[best]
        evidence: dict[str, Value] = {
            "micrographs": len(judged), "labels": labels, "picks": picks, "picks_per_label": picks / labels,
            "f1_as_they_are": f1, "f1_by_chance": chance, "f1_of_best_other": top, "best_other": best,
        }  # fmt: skip
        certain = top_hits > lucky + self.sure * max(1.0, lucky) ** 0.5
        if top > self.better * f1 and top > chance + self.beyond_chance and certain:
            sentence = f"The picks fit the held-out labels {best} (F1 {top:.2f}), not as they are ({f1:.2f})."
            remedy = "Labels and micrographs differ in orientation or scale: look with verglas inspect, export anew."
            return Finding("fail", sentence, evidence, "PICKS_MISPLACED", remedy)
        sentence = f"{picks} picks for {labels} held-out labels, {hits} of them right; no turn or shift fits better."
        return Finding("ok", sentence, evidence)


def scored(judged: Sequence[Judged], way: Way, reach_px: float) -> tuple[float, int, int]:
    """Return F1, right picks and all picks in the areas, when all picks go this way."""
    hits, picks = np.sum([one.hits(way(one.picks.xy, *one.shape[::-1]), reach_px) for one in judged], axis=0).tolist()
    return 2 * hits / max(1, picks + sum(len(one.truth) for one in judged)), hits, picks


def by_chance(judged: Sequence[Judged], reach_px: float) -> tuple[float, float]:
    """Return F1 and right picks of as many picks, placed at random."""
    generator = np.random.default_rng(0)

    def anywhere(xy: Positions, w: float, h: float) -> Positions:
        return generator.uniform(0, (w - 1, h - 1), xy.shape)

    f1, hits, _ = np.mean([scored(judged, anywhere, reach_px) for _ in range(DRAWS)], axis=0).tolist()
    return f1, hits


def too_close(picks: Found, apart_px: float) -> int:
    """Return how many pairs of picks are nearer than this, but for rounding."""
    return len(cKDTree(picks.xy).query_pairs(apart_px * (1 - 1e-6)))


def _shifted(dx: float, dy: float) -> Way:
    return lambda xy, w, h: xy + np.array((dx, dy))


def _duplicated(close: int, picks: int, apart: float) -> Finding:
    sentence = f"{close} pairs of {picks} candidates are nearer than {apart:g} diameters: particles are picked twice."
    evidence = {"pairs": close, "candidates": picks, "least_distance_diameters": apart}
    return Finding("fail", sentence, evidence, "PICKS_DUPLICATED", "--set search.separation=0.45, or larger.")
