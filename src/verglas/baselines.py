"""What others must beat: a picker without training, and pickers that look at nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_laplace

from verglas.matching import Pool
from verglas.pick import find
from verglas.ranking import generator
from verglas.targets import distance_to_nearest
from verglas.types import Grid, Image, Micrograph, Picks

PITCHES = tuple(tenth / 10 for tenth in range(5, 16))
"""Pitches, in diameters, of the square grids that are tried: no closer than picks may be."""


def blob_baseline(image: Image, micrograph: Micrograph, *, diameter_px: float) -> Picks:
    """Pick dark blobs with a Laplacian of Gaussian: the picker without training that others must beat.

    The scale is σ = R/√2, at which a disc of radius R answers most. The answer z, in robust standard deviations,
    is scored z/(1 + z).
    """
    sigma = diameter_px / np.sqrt(8)
    level = np.median(image.data[image.valid]) if image.valid.any() else 0.0
    flat = np.where(image.valid, image.data - level, 0.0)
    answer = gaussian_laplace(flat.astype(np.float64), (sigma / image.grid.dy, sigma / image.grid.dx))
    spread = 1.4826 * np.median(np.abs(answer - np.median(answer)))
    z = np.maximum(answer, 0) / spread if spread > 0 else np.zeros_like(answer)
    blobs = find(Image(z / (1 + z), image.grid, image.valid), micrograph, diameter_px=diameter_px, score_radius=0.0)
    return Picks(blobs.micrograph, blobs.xy, blobs.score, "dark blobs")


def chance(
    truth: Mapping[str, Picks],
    shapes: Mapping[str, tuple[int, int]],
    *,
    diameter_px: float,
    shares: Sequence[float],
    seed: int,
) -> dict[str, Any]:
    """Return what as many random picks as labels, the best square grid, and calling every pixel positive reach.

    ``shares`` are the radii of the matching, in diameters.
    """
    rng, names = generator(seed, "baselines"), sorted(truth)
    random = [{k: _thrown(k, shapes[k], len(truth[k]), rng) for k in names} for _ in range(10)]
    grids = [{k: _lattice(k, shapes[k], pitch * diameter_px) for k in names} for pitch in PITCHES]

    def reached(places: Mapping[str, Picks], share: float) -> tuple[float, float]:
        figures = Pool.of(places, truth).by_micrograph(share * diameter_px).whole(None)
        return figures["f1"], figures["ap"]

    of_random = {f: np.mean([reached(places, f) for places in random], axis=0).tolist() for f in shares}
    of_grid = {f: max(reached(places, f) for places in grids) for f in shares}
    prior = _covered_share(truth, shapes, diameter_px)
    return {
        "random": {f"{f:g}": {"f1": f1, "ap": ap} for f, (f1, ap) in of_random.items()},
        "grid": {f"{f:g}": {"f1": f1, "ap": ap} for f, (f1, ap) in of_grid.items()},
        "all_positive": {"pixel_f1": 2 * prior / (1 + prior), "prior": prior},
    }


def _thrown(name: str, shape: tuple[int, int], count: int, rng: np.random.Generator) -> Picks:
    return Picks(name, rng.random((count, 2)) * shape[::-1] - 0.5, rng.random(count))


def _lattice(name: str, shape: tuple[int, int], pitch: float) -> Picks:
    y, x = (np.arange(pitch / 2, length, pitch) - 0.5 for length in shape)
    xy = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return Picks(name, xy, np.ones(len(xy)))


def _covered_share(truth: Mapping[str, Picks], shapes: Mapping[str, tuple[int, int]], diameter_px: float) -> float:
    """Return the share of all micrographs inside discs of one diameter around the labels."""
    grid = Grid(dx=diameter_px / 8, dy=diameter_px / 8)  # fine enough for the share of many discs
    inside = []
    for name, labels in truth.items():
        size = int(shapes[name][0] / grid.dy), int(shapes[name][1] / grid.dx)
        inside.append(np.isfinite(distance_to_nearest(labels.xy, grid, size, within=diameter_px / 2)).ravel())
    return float(np.mean(np.concatenate(inside)))
