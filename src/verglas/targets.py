"""Labels on a grid: which pixels are core of a particle, and which say anything at all."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree

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
        self, picks: Picks, image: Image, *, diameter_px: float, complete: bool = True
    ) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
        """Return ``(target, known)`` on the grid of ``image``.

        A pixel is known where it is valid and either core or, with complete labels, beyond every ring: with
        partial labels nobody looked at the rest. Where rings overlap cores, the core wins.
        """
        distance = distance_to_nearest(picks.xy, image.grid, image.valid.shape)
        core = distance <= self.core * diameter_px / 2
        known = core | (distance > self.ring * diameter_px / 2) if complete else core
        return core, known & image.valid


def distance_to_nearest(xy: Float[np.ndarray, "n 2"], grid: Grid, shape: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Return for each pixel the distance to the nearest position, in micrograph pixels; infinite without any."""
    h, w = shape
    if len(xy) == 0:
        return np.full(shape, np.inf)
    columns, rows = np.meshgrid(np.arange(w, dtype=float), np.arange(h, dtype=float))
    pixels = grid.to_micrograph(np.stack([columns.ravel(), rows.ravel()], axis=1))
    return cKDTree(xy).query(pixels)[0].reshape(shape)
