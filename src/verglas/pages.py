"""Which micrographs a report shows, and what is marked on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from verglas import plots
from verglas.matching import match
from verglas.plots import Marks
from verglas.types import Image, Picks

RADIUS = 0.5
"""Reach of the matching in diameters, for pictures and curves."""


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """A micrograph to show: prepared, with all candidates, and its labels and probability map where there are any.

    ``f1`` is known where there are labels; ``uncertainty`` counts the candidates that another threshold of the
    interval would decide otherwise. Both are filled in by ``judged``.
    """

    name: str
    image: Image
    picks: Picks
    labels: Picks | None = None
    probability: Image | None = None
    f1: float | None = None
    uncertainty: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """From which score a candidate counts, how sure that is, and how large a particle is, in micrograph pixels."""

    threshold: float | None
    diameter_px: float
    interval: tuple[float, float] | None = None


def judged(page: Page, rule: Rule) -> Page:
    """Return the page with its F1 and its uncertainty: without interval, the mean entropy of the scores in bits."""
    counted, f1 = page.picks.above(rule.threshold), None
    if page.labels is not None and len(page.labels):
        right, _ = match(counted.xy, counted.score, page.labels.xy, RADIUS * rule.diameter_px)
        f1 = 2 * float(right.sum()) / (len(counted) + len(page.labels))
    if rule.interval is not None:
        return replace(page, f1=f1, uncertainty=float(_close(page.picks, rule).sum()))
    p = np.clip(page.picks.score, 1e-9, 1 - 1e-9)
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return replace(page, f1=f1, uncertainty=float(entropy.mean()) if len(p) else 0.0)


def choose_pages(pages: Sequence[Page]) -> tuple[tuple[str, Page], ...]:
    """Return up to three different pages, each with why it is shown: best and worst F1, and most uncertain.

    Where there is no truth, the most uncertain and the most certain are shown.
    """
    if len(pages) == 1:
        return (("the only micrograph shown", pages[0]),)
    chosen: list[tuple[str, Page]] = []
    rest = sorted(pages, key=lambda page: page.uncertainty or 0.0)
    known = sorted((p for p in pages if p.f1 is not None), key=lambda page: page.f1 or 0.0)
    if len(known) == 1:
        chosen = [("the only one with labels", known[0])]
    elif known:
        chosen = [("best", known[-1]), ("worst", known[0])]
    for why, place in (("most uncertain", -1), ("most certain", 0)):
        rest = [page for page in rest if all(page is not other for _, other in chosen)]
        if rest and (why == "most uncertain" or len(known) < 2):
            chosen.append((why, rest[place]))
    return tuple(chosen)


def marks(page: Page, rule: Rule) -> tuple[Marks, ...]:
    """Return the circles of a page: what counts (and is labelled, or not), what is missed, what just fails to count."""
    counted, near = page.picks.above(rule.threshold), page.picks.where(_close(page.picks, rule))
    near = near.where(near.score < (-math.inf if rule.threshold is None else rule.threshold))
    almost = (Marks("just below the threshold", near.xy, "#E8E8E8", 12, 0.8, near.score),) if len(near) else ()
    if page.labels is None:
        return Marks("picked", counted.xy, plots.SKY, score=counted.score), *almost
    right, label = match(counted.xy, counted.score, page.labels.xy, RADIUS * rule.diameter_px)
    missed = np.ones(len(page.labels), bool)
    missed[label[right]] = False
    good, bad = counted.where(right), counted.where(~right)
    return (
        Marks("picked and labelled", good.xy, plots.SKY, score=good.score),
        Marks("picked, not labelled", bad.xy, plots.VERMILLION, weight=1.5, score=bad.score),
        Marks("labelled, not picked", page.labels.xy[missed], plots.YELLOW, 6),
        *almost,
    )


def _close(picks: Picks, rule: Rule) -> Bool[np.ndarray, " n"]:
    """Tell which candidates score within the interval of the threshold."""
    low, high = rule.interval or (math.inf, math.inf)
    return (picks.score >= low) & (picks.score <= high)


def at_threshold(
    pages: Sequence[Page], rule: Rule, *, most: int = 12
) -> tuple[list[tuple[float, bytes]], list[tuple[float, bytes]]]:
    """Cut out the candidates that just count, and those that just do not: scores and JPEGs, nearest first."""
    if rule.threshold is None:
        return [], []
    cut: list[tuple[float, bytes]] = []
    for page in pages:
        picks, nearness = page.picks, np.abs(page.picks.score - rule.threshold)
        nearest, counts = np.argsort(nearness, kind="stable"), picks.score >= rule.threshold
        few = np.concatenate([nearest[side[nearest]][:most] for side in (counts, ~counts)])
        pieces = plots.crops(page.image, picks.xy[few], diameter_px=rule.diameter_px)
        cut += zip(picks.score[few].tolist(), pieces, strict=True)
    threshold = rule.threshold
    cut.sort(key=lambda piece: abs(piece[0] - threshold))
    return [c for c in cut if c[0] >= threshold][:most], [c for c in cut if c[0] < threshold][:most]
