"""Whether the labels lie on particles, or would after a flip, a shift or in other pixels."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float

from verglas import labels
from verglas.doctor._base import DataCheck, Finding, skipped
from verglas.doctor.subject import Data

TURNED = {
    "y_flipped": ("FLIP_Y", "with y flipped"), "x_flipped": ("FLIP_X", "with x flipped"),
    "rotated_180": ("ROT180", "turned by 180 degrees"), "x_y_swapped": ("SWAP_XY", "with x and y swapped"),
}  # fmt: skip
FACTORS = (0.25, 0.5, 2.0, 4.0)
"""Binning of the copy that labels may have been made on."""

Contrast = Float[np.ndarray, "s s"]


class Registration(DataCheck):
    """Compare the contrast of the labels as given with that in other places, as ``labels.contrasts`` measures it.

    Good labels reach |z| 6 to 62 on one real micrograph (27 labels of the largest particle, 190 of the faintest) and
    other places at most a third of it. Labels of other micrographs (four real sets, 1300 cases of 10 to 400 labels)
    reach 3.4 at most in the best of all flips and scales, so 4 suffices for another place where the one given is none.
    The best shift is within .06 D of good labels, .24 D for those of a coarse set, there at most 1.2 times better.
    """

    name = "registration"
    question = "Do the labels lie on particles, and would they fit better elsewhere?"

    def __init__(
        self, *, least_z: float = 6.0, better: float = 2.0, farthest: float = 0.25, better_shifted: float = 1.5,
        unrelated_z: float = 3.0, least_elsewhere: float = 4.0, enough: int = 100,
    ) -> None:  # fmt: skip
        self.least_z, self.better = least_z, better
        self.farthest, self.better_shifted = farthest, better_shifted
        self.unrelated_z, self.least_elsewhere, self.enough = unrelated_z, least_elsewhere, enough

    def check(self, data: Data) -> Finding:
        """Return the place that fits best, if it is not where the labels are."""
        shown = {name: image for name, image in data.images.items() if len(data.collection.picks.get(name, ()))}
        maps = labels.pooled_contrasts(data.collection, shown)
        if "as_given" not in maps:
            return skipped("No labelled micrograph can be compared with its labels.")
        given = labels.unshifted(maps["as_given"])
        if abs(given) < self.least_z:
            maps |= labels.pooled_contrasts(data.collection, shown, _scaled)
        count = sum(len(data.collection.picks[name]) for name in shown)
        shift, d = labels.strongest(maps["as_given"]), data.collection.diameter_px
        evidence = {
            "labels": count, "micrographs": len(shown), **{f"z_{way}": labels.unshifted(z) for way, z in maps.items()},
            "z_shifted": shift.z, "shift_x_px": shift.x * d, "shift_y_px": shift.y * d, "shift_diameters": shift.length,
        }  # fmt: skip
        places = sorted(self._places(shift, d, maps), key=lambda found: found[0])
        if places:
            _, code, sentence, remedy = places[-1]
            return Finding("fail", sentence, evidence, code, remedy)
        return self._as_given(given, count, evidence)

    def _as_given(self, given: float, count: int, evidence: Mapping[str, float]) -> Finding:
        """Return what can be said where no other place is better."""
        told = f"The contrast of {count} labels is {given:.1f} standard deviations of random places"
        if abs(given) >= self.unrelated_z:
            return Finding("ok", f"{told}, and no flip, shift or other scale fits better.", evidence)
        if count < self.enough:
            return Finding("info", f"{told}: too few labels to tell whether they fit.", evidence)
        remedy = "Look with verglas inspect: are these the labels of these micrographs, in pixels of these files?"
        sentence = f"{told}, and they fit nowhere else either. Labels of other micrographs and, where particles are "
        sentence += "faint, coordinates in other pixels look like that: nothing measured here tells them apart."
        return Finding("warn", sentence, evidence, "UNRELATED", remedy)

    def _places(
        self, shift: labels.Shift, diameter_px: float, maps: Mapping[str, Contrast]
    ) -> Iterator[tuple[float, str, str, str]]:
        """Yield each place that is clearly better than the one given: contrast, code, sentence, remedy."""
        given = abs(labels.unshifted(maps["as_given"]))
        least = self.least_z if given >= self.unrelated_z else self.least_elsewhere
        for way in maps.keys() - {"as_given"}:
            z = abs(labels.unshifted(maps[way]))
            if z >= max(least, self.better * given):
                code, how, remedy = _told(way)
                yield z, code, f"The labels fit the micrographs {how} (contrast {z:.1f}, as given {given:.1f}).", remedy
        if shift.clear(farthest=self.farthest, least_z=self.least_z, better=self.better_shifted):
            z, by = abs(shift.z), f"({shift.x * diameter_px:+.1f}, {shift.y * diameter_px:+.1f})"
            sentence = f"The particles lie {by} px, {shift.length:.2f} diameters, from the labels"
            remedy = f"Add {by} to all labels, or export the centres of boxes instead of corners."
            yield z, "LABEL_SHIFT", f"{sentence} (contrast {z:.1f} there, {given:.1f} as given).", remedy


def _told(way: str) -> tuple[str, str, str]:
    """Return code, words and remedy of a place that is no shift."""
    if way in TURNED:
        code, how = TURNED[way]
        return code, how, "Export the labels anew with the axes of the micrographs (--cs-y for cryoSPARC)."
    remedy = f"Give the coordinates in pixels of the micrographs on disk: multiply them by {way}."
    return "LABEL_SCALE", f"with all coordinates times {way}", remedy


def _scaled(xy: Float[np.ndarray, "n 2"], shape: tuple[int, int]) -> dict[str, Float[np.ndarray, "n 2"]]:
    """Return the positions times each factor that leaves most of them inside."""
    side = shape[::-1]
    return {f"{f:g}": xy * f for f in FACTORS if np.all((xy * f >= 0) & (xy * f < side), axis=1).mean() > 0.9}
