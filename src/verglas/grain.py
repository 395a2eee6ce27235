"""How coarse the grain of a micrograph is, place by place: carbon stands out from ice with particles.

A network that never saw carbon ranks its grain above the particles. Where no labelled micrograph shows any, no label
says what it is, but it can be told from all that they show: differences between neighbouring pixels hold little of a
particle and much of carbon.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from verglas.types import Image

CELLS, WINDOW = 4, 9
"""Cells to a diameter, and cells along the window that grain is averaged over."""

LEAST_VALID = 0.05
"""Share of a window that must be valid, or it says nothing."""

FINE, COARSE = 0.1, 0.995
"""Shares of the area. Grain is counted in that which so little is finer than, as carbon may cover all else; and the
coarsest grain of an area is that which so much is finer than, as single places may be anything."""

LEAST_CELLS = 1000
"""A smaller labelled area, about eight diameters square, does not tell how grain varies."""


def grain(image: Image, diameter_px: float) -> Float[np.ndarray, "r c"]:
    """Return the root mean square difference of neighbours around each cell, in that of the finest tenth of all.

    The diameter is in pixels of the image. Cells are quarters of a diameter, windows a little over two. 0 where nothing
    is valid.
    """
    side, valid = _side(diameter_px), image.valid.astype(np.float32)
    steps = np.diff(image.data, axis=1), np.diff(image.data, axis=0)
    known = valid[:, 1:] * valid[:, :-1], valid[1:] * valid[:-1]
    counted = known, [step * step * both for step, both in zip(steps, known, strict=True)]
    pairs, squares = (
        ndimage.uniform_filter(sum(_summed(each, side, image.data.shape) for each in some), WINDOW, mode="constant")
        for some in counted
    )
    enough = pairs > LEAST_VALID * 2 * side**2
    level = np.sqrt(np.where(enough, squares / np.maximum(pairs, 1e-6), 0))
    fine = np.quantile(level[enough], FINE) if enough.any() else 0.0
    return level / fine if fine else np.zeros_like(level)


def coarsest(image: Image, diameter_px: float, where: Bool[np.ndarray, "h w"]) -> float | None:
    """Return the coarsest grain of that part of a picture, but for half a percent of it; None where it is too small."""
    side = _side(diameter_px)
    inside = _summed(where.astype(np.float32), side, where.shape) > side**2 / 2
    level = grain(image, diameter_px)[inside]
    return float(np.quantile(level, COARSE)) if len(level) >= LEAST_CELLS else None


def coarser(image: Image, diameter_px: float, limit: float | None) -> Bool[np.ndarray, "h w"]:
    """Mark the pixels of the cells whose grain is above a limit."""
    if limit is None:
        return np.zeros(image.data.shape, bool)
    side, (h, w) = _side(diameter_px), image.data.shape
    return (grain(image, diameter_px) > limit).repeat(side, 0).repeat(side, 1)[:h, :w]


def _side(diameter_px: float) -> int:
    return max(1, round(diameter_px / CELLS))


def _summed(array: Float[np.ndarray, "p q"], side: int, shape: tuple[int, int]) -> Float[np.ndarray, "r c"]:
    """Return the sum over each cell of a picture of this shape; the last ones may be cut."""
    h, w = (-(-length // side) * side for length in shape)
    whole = np.zeros((h, w), np.float32)
    whole[: array.shape[0], : array.shape[1]] = array
    return np.add.reduceat(np.add.reduceat(whole, np.arange(0, w, side), axis=1), np.arange(0, h, side), axis=0)
