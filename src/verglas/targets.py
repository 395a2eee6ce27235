"""Labels on a grid: which pixels are core of a particle, and which say anything at all."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from verglas.errors import check_range
from verglas.types import Grid, Image, Picks


@dataclass(frozen=True, slots=True)
class Disc:
    """What is drawn at a label: a positive core and around it a ring that is ignored.

    Both radii are in particle radii. ``core`` 1, ``ring`` 1 is the full disc of the failure reports.
    """

    core: float = 0.4
    ring: float = 0.6

    def __post_init__(self) -> None:
        check_range("target", 0.01, 2, core=self.core)
        check_range("target", 0, 4, ring=self.ring)

    def draw(
        self, picks: Picks, image: Image, *, diameter_px: float
    ) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
        """Return ``(target, known)`` on the grid of ``image``.

        A pixel is known where it is valid and either core or beyond every ring. Where rings overlap cores, the core
        wins.
        """
        core_px, ring_px = self.core * diameter_px / 2, self.ring * diameter_px / 2
        distance = distance_to_nearest(picks.xy, image.grid, image.valid.shape, within=max(core_px, ring_px))
        core = distance <= core_px
        known = core | (distance > ring_px)
        return core, known & image.valid

    def draw_scores(
        self, picks: Picks, image: Image, *, diameter_px: float
    ) -> tuple[Float[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
        """Return ``(belief, known)``: as ``draw``, but a core has the score of its pick, or of the best one there."""
        core, known = self.draw(picks, image, diameter_px=diameter_px)
        belief = np.zeros(core.shape, np.float32)
        radius, (h, w) = self.core * diameter_px / 2, core.shape
        x, y = image.grid.x0 + np.arange(w) * image.grid.dx, image.grid.y0 + np.arange(h) * image.grid.dy
        for (cx, cy), score in zip(picks.xy.tolist(), picks.score.tolist(), strict=True):
            rows, columns = _span(y, cy, radius), _span(x, cx, radius)
            inside = np.hypot(x[columns] - cx, (y[rows] - cy)[:, None]) <= radius
            np.maximum(belief[rows, columns], np.where(inside, score, 0), out=belief[rows, columns])
        return belief, known


def distance_to_nearest(
    xy: Float[np.ndarray, "n 2"], grid: Grid, shape: tuple[int, int], *, within: float
) -> Float[np.ndarray, "h w"]:
    """Return for each pixel the distance to the nearest position, in micrograph pixels; infinite beyond ``within``."""
    h, w = shape
    nearest = np.full(shape, np.inf)
    x, y = grid.x0 + np.arange(w) * grid.dx, grid.y0 + np.arange(h) * grid.dy
    for cx, cy in xy.tolist():
        rows, columns = _span(y, cy, within), _span(x, cx, within)
        window = nearest[rows, columns]
        np.minimum(window, np.hypot(x[columns] - cx, (y[rows] - cy)[:, None]), out=window)
    return np.where(nearest <= within, nearest, np.inf)


def away_from_border(image: Image, shape: tuple[int, int], margin_px: float) -> Bool[np.ndarray, "h w"]:
    """Mark the pixels that keep a margin from the border of a micrograph of this shape; both in its own pixels."""
    if not margin_px:
        return np.ones(image.data.shape, bool)
    row, column = np.indices(image.data.shape)
    at = np.stack([column, row], axis=-1).reshape(-1, 2).astype(float)
    return (distance_to_border(image.grid.to_micrograph(at), shape) >= margin_px).reshape(image.data.shape)


def distance_to_border(xy: Float[np.ndarray, "n 2"], shape: tuple[int, int]) -> Float[np.ndarray, " n"]:
    """Return how far positions are from the outline of a micrograph, half a pixel outside the outermost centres."""
    height, width = shape
    return (np.minimum(xy, np.array((width, height)) - 1.0 - xy) + 0.5).min(axis=1, initial=np.inf)


def _span(line: Float[np.ndarray, " n"], centre: float, reach: float) -> slice:
    """Return which of the rising values lie within ``reach`` of ``centre``."""
    return slice(int(np.searchsorted(line, centre - reach)), int(np.searchsorted(line, centre + reach, side="right")))
