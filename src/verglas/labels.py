"""Do the labels fit the micrographs? Measured before anything is trained, because a flipped y trains quietly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from jaxtyping import Float
from scipy import ndimage
from scipy.spatial import cKDTree

from verglas.targets import distance_to_border, distance_to_nearest
from verglas.types import Collection, Image, Picks

MOST_COVERED = 0.75
"""Share of a micrograph that labels may cover before the diameter is doubted."""

REACH = 1.25
"""How far labels are shifted, in diameters, to see whether they fit better elsewhere."""

SPARSER, FEWEST_EXPECTED, FEWEST_OF_CLICKS = 10, 6.0, 4.0
"""A margin holds less than one in ten of the labels to be expected there, and where none is, six are expected, or four
clicks. Labels spread evenly up to the border then rarely seem to keep one, or one of a pixel where they are very many.

Of 200 draws of 30 labels of three micrographs that are not for testing, four find the margin of cryoppp_10059 and of
cryoppp_10947 always and none on bgal_10017, where it is a few pixels; on klh, where labels come up to the border, they
seem to keep one in two of the 200. Six would find those margins never and in one draw of five.
"""

Ways = Callable[[Float[np.ndarray, "n 2"], tuple[int, int]], Mapping[str, Float[np.ndarray, "n 2"]]]
"""Other places that labels of a micrograph of this shape could be meant to have, by name."""


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """What was measured, and what is wrong with it."""

    numbers: Mapping[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shift:
    """A shift in diameters, the contrast there, and the larger one of those without it and with its opposite.

    Hollow particles have a large contrast all around, opposite shifts alike; labels beside their particles do not.
    """

    x: float
    y: float
    z: float
    rival_z: float

    @property
    def length(self) -> float:
        """Return how far it is."""
        return float(np.hypot(self.x, self.y))

    def clear(self, *, farthest: float = 0.25, least_z: float = 6.0, better: float = 1.5) -> bool:
        """Tell whether the labels lie beside the particles: farther than good labels do, and fitting much worse."""
        return self.length > farthest and abs(self.z) >= max(least_z, better * self.rival_z)


def margin_px(collection: Collection) -> float:
    """Return how wide a margin along the border labels keep free, a diameter at most; 0 where they keep none.

    Particles whose box would leave the micrograph are often not labelled: they are neither to be picked nor to be
    learned as background. Of clicks, the one nearest to the border lies farther in than the nearest that could have
    been, by the mean gap between them: on cryoppp_10947, whose margin is 34.5 px, the median margin of 30 clicks is
    42.5 px with that gap and 34.0 without (200 draws on micrographs that are not for testing).
    """
    micrographs, distances, area, border = collection.by_name(), [np.zeros(0)], 0.0, 0.0
    for name, picks in collection.picks.items():
        h, w = micrographs[name].shape
        area, border = area + h * w, border + 2 * (h + w)
        distances.append(distance_to_border(picks.xy, (h, w)))
    nearest = np.sort(np.concatenate(distances))
    for_each_px = len(nearest) * border / max(area, 1.0)
    lacking = for_each_px * nearest.clip(0, collection.diameter_px) - SPARSER * np.arange(len(nearest))
    if lacking.max(initial=0.0) < (FEWEST_EXPECTED if collection.complete else FEWEST_OF_CLICKS):
        return 0.0
    gap = 0.0 if collection.complete else 1 / for_each_px
    return float(np.clip(nearest[lacking.argmax()] - gap, 0, collection.diameter_px))


def label_facts(collection: Collection, images: Mapping[str, Image]) -> LabelFacts:
    """Count labels, their coverage and distances, and compare their contrast as given with flipped and swapped.

    Contrast is that of ``contrasts`` without a shift; particles are dark, so good labels have a large negative one.
    """
    shown = {name: collection.picks[name] for name in images if name in collection.picks}
    nearest = np.concatenate([np.zeros(0), *(nearest_neighbours(picks.xy) for picks in collection.picks.values())])
    covered = [covered_share(picks, images[name], collection.diameter_px) for name, picks in shown.items()]
    contrast = {way: unshifted(found) for way, found in pooled_contrasts(collection, images).items()}
    numbers = {
        "micrographs": len(collection.micrographs),
        "labelled": len(collection.picks),
        "labels": sum(map(len, collection.picks.values())),
        "diameter_px": collection.diameter_px,
        "largest_share_covered": max(covered, default=0.0),
        "median_nearest_neighbour_diameters": float(np.median(nearest / collection.diameter_px))
        if len(nearest)
        else None,
        **{f"contrast_{way}": value for way, value in contrast.items()},
    }
    return LabelFacts(numbers, tuple(_warnings(numbers, contrast)))


def turned(xy: Float[np.ndarray, "n 2"], shape: tuple[int, int]) -> dict[str, Float[np.ndarray, "n 2"]]:
    """Return the positions as given and as the usual mistakes would have them."""
    h, w = shape
    x, y = xy.T
    ways = {
        "as_given": (x, y), "y_flipped": (x, h - 1 - y), "x_flipped": (w - 1 - x, y),
        "rotated_180": (w - 1 - x, h - 1 - y), "x_y_swapped": (y, x),
    }  # fmt: skip
    return {way: np.column_stack(places) for way, places in ways.items()}


def banded(image: Image, diameter_px: float) -> Float[np.ndarray, "h w"]:
    """Return what is left between Gaussians of D/4 and 3 D/4, in local standard deviations.

    The local scale keeps carbon and ice from drowning particles: one real micrograph with carbon goes from z 3.8 to 6.
    """
    unit = diameter_px / image.grid.dx
    narrow, wide = (ndimage.gaussian_filter(image.data, share * unit, truncate=3) for share in (0.25, 0.75))
    band = np.where(image.valid, narrow - wide, 0)
    local = ndimage.uniform_filter(band**2, max(3, round(5 * unit)))
    return np.asarray(band / np.sqrt(local + 0.02 * local.mean() + 1e-12), np.float32)


def contrasts(
    band: Float[np.ndarray, "h w"], at: Float[np.ndarray, "n 2"], unit: float, reach: int
) -> Float[np.ndarray, "s s"] | None:
    """Return the mean of the band at positions (column, row), for all shifts of up to ``reach`` pixels each way.

    It is counted in standard deviations of what shifts of more than 1.5 ``unit`` (a diameter in pixels) give, so
    crowded labels and coloured noise are accounted for. None where no position lies inside, or nothing is so far.
    """
    h, w = band.shape
    column, row = np.rint(at).astype(int).T
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    y, x = (np.minimum(np.arange(side), side - np.arange(side)) for side in (h, w))
    far = np.hypot(y[:, None], x) > 1.5 * unit
    if not inside.any() or not far.any():
        return None
    points = np.zeros(band.shape, np.float32)
    np.add.at(points, (row[inside], column[inside]), 1)
    sums = scipy.fft.irfft2(scipy.fft.rfft2(band) * np.conj(scipy.fft.rfft2(points)), band.shape)
    around = np.arange(-reach, reach + 1)
    near = sums[np.ix_(around % h, around % w)]
    return np.asarray((near - sums[far].mean()) / max(sums[far].std(), 1e-12), float)


def pooled_contrasts(
    collection: Collection, images: Mapping[str, Image], ways: Ways = turned
) -> dict[str, Float[np.ndarray, "s s"]]:
    """Return the contrasts of the labels in each of the ways, over all micrographs that show labels."""
    d, shapes = collection.diameter_px, {m.name: m.shape for m in collection.micrographs}
    labels = {name: picks for name, picks in collection.picks.items() if name in images and len(picks)}
    reach = min((round(REACH * d / images[name].grid.dx) for name in labels), default=0)
    maps: dict[str, list[np.ndarray]] = {}
    for name, picks in labels.items():
        band, grid = banded(images[name], d), images[name].grid
        for way, xy in ways(picks.xy, shapes[name]).items():
            found = contrasts(band, grid.from_micrograph(xy), d / grid.dx, reach)
            maps.setdefault(way, []).extend([] if found is None else [found])
    return {way: np.sum(found, axis=0) / len(found) ** 0.5 for way, found in maps.items() if found}


def as_given(xy: Float[np.ndarray, "n 2"], shape: tuple[int, int]) -> dict[str, Float[np.ndarray, "n 2"]]:
    """Return the positions as they are."""
    return {"as_given": xy}


def strongest(contrast: Float[np.ndarray, "s s"]) -> Shift:
    """Return the shift with the largest contrast, either sign."""
    row, column = np.unravel_index(np.abs(contrast).argmax(), contrast.shape)
    half, unit = len(contrast) // 2, REACH / max(1, len(contrast) // 2)
    here, opposite = contrast[row, column], contrast[2 * half - row, 2 * half - column]
    x, y = (column - half) * unit, (row - half) * unit
    return Shift(float(x), float(y), float(here), max(abs(unshifted(contrast)), abs(float(opposite))))


def unshifted(contrast: Float[np.ndarray, "s s"]) -> float:
    """Return what a map of contrasts holds for no shift."""
    return float(contrast[len(contrast) // 2, len(contrast) // 2])


def nearest_neighbours(xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    """Return the distance of each position to the nearest other one; nothing for a single one."""
    return np.asarray(cKDTree(xy).query(xy, k=2)[0][:, 1]) if len(xy) > 1 else np.zeros(0)


def covered_share(picks: Picks, image: Image, diameter_px: float) -> float:
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
