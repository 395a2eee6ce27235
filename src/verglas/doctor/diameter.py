"""Whether the diameter is that of the particles in the pictures."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft
from jaxtyping import Float
from scipy import ndimage

from verglas import labels as labelling
from verglas.doctor._base import DataCheck, Finding, skipped
from verglas.doctor.subject import Data
from verglas.types import Image

REACH_PX = 64
"""Radius up to which particles are averaged, on the prepared picture: 2.7 diameters as a rule."""

ELSEWHERE = 40
"""Places between the labels that tell how much averages vary by chance."""

NEIGHBOURS = 1.4
"""A bright ring is compared with the mean at radii this many times smaller and larger."""


@dataclass(frozen=True, slots=True)
class Ring:
    """A maximum of the averaged particle's grey value against its own: where, how high, in standard deviations."""

    radius_px: float
    height: float
    z: float
    sharpness_z: float


class Diameter(DataCheck):
    """Find the bright ring that underfocus leaves around a particle, in the average over labels.

    It lies at .42 to .58 of the diameter: four real sets, and simulated ones of five shapes, 70 to 300 Å and 0.3 to
    4 µm underfocus. A diameter stated twice too large puts it at .12 to .29, twice too small at .83 to 1.2. Particles
    too faint for a ring of z 6 (one micrograph of the faintest real set), or without one, are not judged.
    """

    name = "diameter"
    question = "Is the diameter that of the particles in the pictures?"

    def __init__(
        self, *, least_z: float = 6.0, narrow: float = 0.3, wide: float = 0.8, far_narrow: float = 0.2,
        far_wide: float = 1.1,
    ) -> None:  # fmt: skip
        self.least_z, self.narrow, self.wide = least_z, narrow, wide
        self.far_narrow, self.far_wide = far_narrow, far_wide

    def check(self, data: Data) -> Finding:
        """Return how the ring's radius compares with the diameter."""
        stated, labels = data.collection.diameter_px, data.collection.picks
        shown = [(image, labels[name].xy) for name, image in data.images.items() if len(labels.get(name, ()))]
        contrast = labelling.pooled_contrasts(data.collection, data.images, labelling.as_given)
        if any(labelling.strongest(one).clear() for one in contrast.values()):
            return skipped("The labels lie beside the particles (see registration), which spoils their average.")
        averaged = [found for image, xy in shown if (found := _averaged(image, xy)) is not None]
        if not averaged:
            return skipped("No labelled micrograph is large enough to average particles on.")
        rings = list(_rings(*_pooled(averaged)))
        best = max(rings, key=lambda ring: ring.sharpness_z, default=None)
        if best is None or best.sharpness_z < self.least_z:
            return Finding("info", f"The pictures do not tell whether {stated:g} px is right: no ring shows around the "
                           "averaged particle.", {"diameter_px": stated})  # fmt: skip
        working = data.recipe.working_diameter_px
        alike = [ring.radius_px for ring in rings if ring.height >= 0.6 * best.height and ring.z >= 4]
        inner = best.radius_px < self.narrow * working  # a rod has a ring at its waist, and one at its ends
        edge = max([best.radius_px, *(alike if inner else [])]) / working
        likely = 2 * edge * stated
        evidence = {
            "diameter_px": stated, "ring_radius_diameters": edge, "ring_z": best.sharpness_z,
            "likely_diameter_px": likely, "micrographs": len(averaged),
        }  # fmt: skip
        if self.narrow <= edge <= self.wide:
            return Finding("ok", f"The ring around the averaged particle suggests {likely:.0f} px, which agrees "
                           f"with a diameter of {stated:g} px.", evidence)  # fmt: skip
        sentence = f"The ring around the averaged particle suggests {likely:.0f} px, not a diameter of {stated:g} px."
        remedy = f"Look with verglas inspect, and give --diameter-px {likely:.0f} if the particle fills that."
        if self.far_narrow <= edge <= self.far_wide:
            return Finding("warn", sentence, evidence, "DIAMETER_DOUBTFUL", remedy)
        return Finding("fail", sentence, evidence, "LABEL_SCALE", remedy)


Profiles = tuple[Float[np.ndarray, " r"], Float[np.ndarray, "k r"]]
"""Sum over labels of the mean grey value by distance, in pixels; and the same around other places."""


def _averaged(image: Image, xy: Float[np.ndarray, "n 2"]) -> tuple[int, Profiles] | None:
    """Return the number of labels and the profiles around them; None where no place is far from all labels' own."""
    h, w = image.data.shape
    column, row = np.rint(image.grid.from_micrograph(xy)).astype(int).T
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    points = np.zeros((h, w), np.float32)
    np.add.at(points, (row[inside], column[inside]), 1)
    sums = scipy.fft.irfft2(scipy.fft.rfft2(_evened(image)) * np.conj(scipy.fft.rfft2(points)), (h, w))
    away = min(1.1 * REACH_PX, 0.35 * min(h, w))
    y, x = (np.minimum(np.arange(side), side - np.arange(side)) for side in (h, w))
    far = np.argwhere(np.hypot(y[:, None], x) > away)
    chosen = np.random.default_rng(0).choice(len(far), ELSEWHERE)
    elsewhere = np.stack([_profile(sums, place) for place in far[chosen]])
    return (int(inside.sum()), (_profile(sums, np.zeros(2, int)), elsewhere)) if inside.any() else None


def _evened(image: Image) -> Float[np.ndarray, "h w"]:
    """Return the picture in local standard deviations, so that carbon does not drown particles."""
    plain = np.where(image.valid, image.data, 0)
    local = ndimage.uniform_filter(plain**2, 2 * REACH_PX)
    return np.asarray(plain / np.sqrt(local + 0.02 * local.mean() + 1e-12), np.float32)


def _profile(sums: Float[np.ndarray, "h w"], centre: np.ndarray) -> Float[np.ndarray, " r"]:
    """Return means over rings of one pixel around a place; the picture is continued periodically."""
    around = np.arange(-REACH_PX, REACH_PX + 1)
    (h, w), (row, column) = sums.shape, centre
    patch = sums[np.ix_((row + around) % h, (column + around) % w)]
    radius = np.rint(np.hypot(around[:, None], around)).astype(int)
    near = radius <= REACH_PX
    return np.asarray(np.bincount(radius[near], patch[near]) / np.bincount(radius[near]))


def _pooled(averaged: list[tuple[int, Profiles]]) -> Profiles:
    """Return the profiles over all labels, against what other places have."""
    labels = sum(count for count, _ in averaged)
    at, elsewhere = (np.sum([profiles[i] for _, profiles in averaged], axis=0) / labels for i in (0, 1))
    level = elsewhere.mean(0)
    return at - level, elsewhere - level


def _rings(at: Float[np.ndarray, " r"], elsewhere: Float[np.ndarray, "k r"]) -> Iterator[Ring]:
    """Yield the maxima outside the particle's darkest radius (brightest, if it is bright)."""
    darkest = int(np.abs(at).argmax())
    smooth, others = (ndimage.convolve1d(p, [0.25, 0.5, 0.25], axis=-1, mode="nearest") for p in (at, elsewhere))
    bright = smooth * -np.sign(at[darkest])
    sharp, spread = _above_neighbours(bright), _above_neighbours(others).std(0)
    for r in range(darkest + 1, len(at) - 1):
        if bright[r] > 0 and bright[r - 1] <= bright[r] > bright[r + 1]:
            yield Ring(r, bright[r], bright[r] / others[:, r].std(), sharp[r] / spread[r])


def _above_neighbours(profiles: Float[np.ndarray, "*n r"]) -> Float[np.ndarray, "*n r"]:
    """Return by how much each radius is above the mean of those inside and outside it."""
    radii = np.arange(profiles.shape[-1])
    inner = np.minimum(np.rint(radii / NEIGHBOURS), radii - 1).clip(0).astype(int)
    outer = np.maximum(np.rint(radii * NEIGHBOURS), radii + 1).clip(None, radii[-1]).astype(int)
    return np.asarray(profiles - (profiles[..., inner] + profiles[..., outer]) / 2)
