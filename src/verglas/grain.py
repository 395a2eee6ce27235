"""How coarse the grain of a micrograph is, place by place: carbon and thick ice stand out from ice with particles.

A network that never saw carbon ranks its grain above the particles. Where no labelled micrograph shows any, no label
says what it is, but it can be told from all that they show: differences between neighbouring pixels hold next to
nothing of a particle, and on carbon they are twice as large.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from verglas.types import Image

CELLS, WINDOW = 4, 8
"""Cells to a diameter, and cells along the window that grain is averaged over."""

LEAST_VALID = 0.05
"""Share of a window that must be valid, or it says nothing."""


def grain(image: Image, diameter_px: float) -> Float[np.ndarray, "r c"]:
    """Return the root mean square difference of neighbours around each cell, in medians over the micrograph.

    The diameter is in pixels of the image. Cells are quarters of a diameter, windows two diameters. 0 where nothing is
    valid.
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
    middle = np.median(level[enough]) if enough.any() else 0.0
    return level / middle if middle else np.zeros_like(level)


def known_grain(image: Image, diameter_px: float, limit: float | None) -> Image:
    """Return the picture with the cells marked invalid whose grain is above a limit."""
    if limit is None:
        return image
    side, (h, w) = _side(diameter_px), image.data.shape
    known = grain(image, diameter_px) <= limit
    return replace(image, valid=image.valid & known.repeat(side, 0).repeat(side, 1)[:h, :w])


def _side(diameter_px: float) -> int:
    return max(1, round(diameter_px / CELLS))


def _summed(array: Float[np.ndarray, "p q"], side: int, shape: tuple[int, int]) -> Float[np.ndarray, "r c"]:
    """Return the sum over each cell of a picture of this shape; the last ones may be cut."""
    h, w = (-(-length // side) * side for length in shape)
    whole = np.zeros((h, w), np.float32)
    whole[: array.shape[0], : array.shape[1]] = array
    return np.add.reduceat(np.add.reduceat(whole, np.arange(0, w, side), axis=1), np.arange(0, h, side), axis=0)
