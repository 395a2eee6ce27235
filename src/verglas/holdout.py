"""Which labels are kept from training, to choose checkpoint and threshold by.

Whole micrographs where there are enough labelled ones; else a strip of each, so that the few there are still teach.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from verglas.types import Collection, Image, Picks

FEWEST_MICROGRAPHS = 4
"""Labelled micrographs from which on whole ones are held out."""

MOST_MICROGRAPHS = 20
"""More held-out micrographs than this would cost labels and time, and tell little more."""


@dataclass(frozen=True, slots=True)
class Area:
    """The part of a micrograph between two columns or rows, in micrograph pixels; the whole by default."""

    axis: int = 0
    low: float = -np.inf
    high: float = np.inf

    @property
    def partial(self) -> bool:
        """Whether something of the micrograph is left outside."""
        return math.isfinite(self.low) or math.isfinite(self.high)

    def holds(self, xy: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Tell which positions lie inside."""
        return (xy[:, self.axis] >= self.low) & (xy[:, self.axis] < self.high)

    def mask(self, image: Image) -> Bool[np.ndarray, "h w"]:
        """Mark the pixels inside."""
        h, w = image.data.shape
        grid = image.grid
        line = grid.x0 + np.arange(w) * grid.dx if self.axis == 0 else grid.y0 + np.arange(h) * grid.dy
        inside = (line >= self.low) & (line < self.high)
        return np.broadcast_to(inside if self.axis == 0 else inside[:, None], (h, w))


@dataclass(frozen=True, slots=True)
class Holdout:
    """The areas held out, by micrograph, and how they were chosen."""

    areas: Mapping[str, Area]
    how: str

    def inside(self, picks: Picks) -> Picks:
        """Return the picks in the held-out area of their micrograph."""
        return picks.where(self.areas[picks.micrograph].holds(picks.xy))


def plan(collection: Collection, share: float, generator: np.random.Generator) -> Holdout:
    """Hold out the validation micrographs of the data's own split, else about ``share`` of the labels."""
    if collection.split is not None and collection.split.validation:
        names = tuple(sorted(generator.permutation(collection.split.validation)[:MOST_MICROGRAPHS].tolist()))
        return Holdout(dict.fromkeys(names, Area()), f"{len(names)} validation micrographs of the data set")
    names = tuple(sorted(training_names(collection)))
    bearing = tuple(name for name in names if len(collection.picks[name]))
    if len(bearing) >= FEWEST_MICROGRAPHS:
        empty = tuple(name for name in names if name not in bearing)
        held = min(max(1, round(share * len(bearing))), len(bearing) - 1, MOST_MICROGRAPHS)
        chosen = generator.permutation(bearing)[:held].tolist()
        chosen += generator.permutation(empty)[: min(round(share * len(empty)), MOST_MICROGRAPHS)].tolist()
        return Holdout(dict.fromkeys(sorted(chosen), Area()), f"{len(chosen)} of {len(names)} labelled micrographs")
    several = [name for name in bearing if len(collection.picks[name]) > 1]
    areas = {name: _strip(collection.picks[name], share, generator) for name in several}
    labels = sum(int(area.holds(collection.picks[name].xy).sum()) for name, area in areas.items())
    of = "one labelled micrograph" if len(areas) == 1 else f"each of {len(areas)} labelled micrographs"
    return Holdout(areas, f"a strip of {of} ({labels} labels)" if areas else "nothing: too few labels to spare one")


def training_names(collection: Collection) -> tuple[str, ...]:
    """Return the labelled micrographs that the data's own split does not reserve for validation or test."""
    split = collection.split
    reserved = {*split.validation, *split.test} if split else set()
    return tuple(name for name in collection.picks if name not in reserved)


def _strip(picks: Picks, share: float, generator: np.random.Generator) -> Area:
    """Return a strip along one side, drawn by lot, that holds ``share`` of the labels."""
    axis, far = divmod(int(generator.integers(4)), 2)
    border = float(np.quantile(picks.xy[:, axis], 1 - share if far else share))
    return Area(axis, border, np.inf) if far else Area(axis, -np.inf, border)
