"""Do the labels fit the micrographs? Measured before anything is trained, because a flipped y trains quietly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import ndimage
from scipy.spatial import cKDTree

from verglas.targets import distance_to_nearest
from verglas.types import Collection, Image, Picks

MOST_COVERED = 0.75
"""Share of a micrograph that labels may cover before the diameter is doubted."""


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """What was measured, and what is wrong with it."""

    numbers: Mapping[str, Any]
    warnings: tuple[str, ...]


def label_facts(collection: Collection, images: Mapping[str, Image]) -> LabelFacts:
    """Count labels, their coverage and distances, and compare their contrast as given with flipped and swapped.

    Contrast is the mean grey value at the labels of a band-passed picture, in standard errors of what random
    positions would give; particles are dark, so good labels have a large negative one.
    """
    shown = {name: collection.picks[name] for name in images if name in collection.picks}
    labels = [picks for picks in collection.picks.values() if len(picks)]
    nearest = [cKDTree(p.xy).query(p.xy, k=2)[0][:, 1] / collection.diameter_px for p in labels if len(p) > 1]
    covered = [_covered(picks, images[name], collection.diameter_px) for name, picks in shown.items()]
    contrast = _pooled_contrast(collection, images, shown) if shown else {}
    numbers = {
        "micrographs": len(collection.micrographs),
        "labelled": len(collection.picks),
        "labels": sum(map(len, collection.picks.values())),
        "diameter_px": collection.diameter_px,
        "largest_share_covered": max(covered, default=0.0),
        "median_nearest_neighbour_diameters": float(np.median(np.concatenate(nearest))) if nearest else None,
        **{f"contrast_{way}": value for way, value in contrast.items()},
    }
    return LabelFacts(numbers, tuple(_warnings(numbers, contrast)))


def _pooled_contrast(
    collection: Collection, images: Mapping[str, Image], labels: Mapping[str, Picks]
) -> dict[str, float]:
    """Return the contrast of the labels as given and as the usual mistakes would have them, over all micrographs."""
    pooled: dict[str, float] = {}
    micrographs = collection.by_name()
    bearing = {name: picks for name, picks in labels.items() if len(picks)}
    for name, picks in bearing.items():
        band = _band(images[name], collection.diameter_px)
        for way, xy in _turned(picks.xy, micrographs[name].shape).items():
            pooled[way] = pooled.get(way, 0.0) + _contrast(band, images[name].grid.from_micrograph(xy))
    return {way: total / len(bearing) ** 0.5 for way, total in pooled.items()}


def _turned(xy: Float[np.ndarray, "n 2"], shape: tuple[int, int]) -> dict[str, Float[np.ndarray, "n 2"]]:
    """Return the positions as given and as the usual mistakes would have them."""
    h, w = shape
    x, y = xy.T
    ways = {
        "as_given": (x, y), "y_flipped": (x, h - 1 - y), "x_flipped": (w - 1 - x, y),
        "rotated_180": (w - 1 - x, h - 1 - y), "x_y_swapped": (y, x),
    }  # fmt: skip
    return {way: np.column_stack(turned) for way, turned in ways.items()}


def _band(image: Image, diameter_px: float) -> Float[np.ndarray, "h w"]:
    """Return what is left between Gaussians of D/4 and 3 D/4."""
    unit = diameter_px / image.grid.dx
    return ndimage.gaussian_filter(image.data, unit / 4) - ndimage.gaussian_filter(image.data, 0.75 * unit)


def _contrast(band: Float[np.ndarray, "h w"], at: Float[np.ndarray, "n 2"]) -> float:
    """Return the z score of the mean grey value at the positions (column, row)."""
    column, row = np.rint(at).astype(int).T
    h, w = band.shape
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    values = band[row[inside], column[inside]]
    return float((values.mean() - band.mean()) / band.std() * np.sqrt(len(values))) if len(values) else 0.0


def _covered(picks: Picks, image: Image, diameter_px: float) -> float:
    """Return the share of the micrograph inside a particle's disc around some label."""
    return float(
        np.isfinite(distance_to_nearest(picks.xy, image.grid, image.data.shape, within=diameter_px / 2)).mean()
    )


def _warnings(numbers: Mapping[str, Any], contrast: Mapping[str, float]) -> list[str]:
    sentences = []
    if numbers["largest_share_covered"] > MOST_COVERED:
        sentences.append(
            f"The labels cover {numbers['largest_share_covered']:.0%} of a micrograph. Give the diameter in pixels of "
            "the micrograph on disk, not of a shrunken copy."
        )
    best = max(contrast, key=lambda way: abs(contrast[way]), default="as_given")
    given = abs(contrast.get("as_given", 0.0))
    if best != "as_given" and abs(contrast[best]) >= 6 and abs(contrast[best]) > 2 * given:
        sentences.append(
            f"The labels fit the micrographs better {best.replace('_', ' ')} (contrast {contrast[best]:.1f}) than as "
            f"given ({contrast['as_given']:.1f}). Check the pictures, and how the labels were exported."
        )
    elif contrast and given < 4:
        sentences.append(
            f"The labels hardly differ from random positions (contrast {contrast['as_given']:.1f}). Check the "
            "pictures: wrong micrographs, wrong scale, or particles too faint to tell."
        )
    return sentences
