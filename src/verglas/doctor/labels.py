"""Whether there are labels, and whether they cover a believable share of the micrographs."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

from verglas import labels as measuring
from verglas.doctor._base import DataCheck, Finding
from verglas.doctor._kinds import Kind, first
from verglas.doctor.subject import Data
from verglas.holdout import training_names
from verglas.types import Picks

SAME = 0.1
"""Labels that are nearer than this many diameters are one."""


class Labels(DataCheck):
    """Count labels and compare their discs with the area there is, and their distances with the diameter.

    On real sets discs sum to .19 to .78 of a micrograph and cover .18 to .63, the median distance is .64 to 1.2
    diameters and no two labels are nearer than .3.
    """

    name = "labels"
    question = "Are there labels, and is what they cover believable?"

    def __init__(
        self, *, most_summed: float = 0.91, nearest: float = 0.5, most_covered: float = 0.7, outside: float = 0.01,
        duplicated: float = 0.02, fewest_px: float = 4.0, enough: int = 20,
    ) -> None:  # fmt: skip
        in_px = "Give --diameter-px, and the coordinates, in pixels of the micrograph on disk, not of a shrunken copy."
        self.kinds = (
            Kind("fail", "LABELS_EMPTY", lambda s: s["labels"] == 0,
                 "There is no label on {micrographs:.0f} labelled micrographs.",
                 "Check that label files have the names of their micrographs and hold positions (verglas inspect)."),
            Kind("fail", "LABELS_OUTSIDE", lambda s: s["outside_share"] > outside,
                 "{outside_share:.0%} of the labels lie outside their micrograph.", in_px),
            Kind("fail", "LABEL_SCALE", lambda s: s["disc_sum_share"] > most_summed,
                 "Discs of {diameter_px:.4g} px at {labels:.0f} labels sum to {disc_sum_share:.0%} of the micrographs: "
                 f"more than the {most_summed:.0%} that discs without overlap can fill.", in_px),
            Kind("fail", "LABEL_SCALE", lambda s: s["labels"] >= enough and s["median_neighbour_diameters"] < nearest,
                 "Half of the labels are within {median_neighbour_diameters:.2f} diameters of another one, though "
                 "particles do not overlap.", in_px),
            Kind("fail", "LABEL_SCALE", lambda s: s["diameter_px"] < fewest_px,
                 "A particle of {diameter_px:.4g} px is too small to be seen.", in_px),
            Kind("warn", "LABELS_DUPLICATED", lambda s: s["duplicated_share"] > duplicated,
                 f"{{duplicated_share:.0%}} of the labels have another one within {SAME} diameters.",
                 "Remove the second labels: were two label files merged?"),
            Kind("warn", "LABELS_DENSE", lambda s: s["covered_share"] > most_covered,
                 "The labels cover {covered_share:.0%} of the micrographs, which leaves little background to learn.",
                 f"Is the diameter that of the particle, not of its box? {in_px}"),
            Kind("ok", "", lambda s: s["labels"] > 0,
                 "{labels:.0f} labels on {micrographs:.0f} micrographs; discs of {diameter_px:.4g} px sum to "
                 "{disc_sum_share:.0%} of the area."),
        )  # fmt: skip

    def check(self, data: Data) -> Finding:
        """Return what is wrong with number, places and size."""
        found = first(self.kinds, _measured(data), 0)
        assert found is not None, "there are labels, or there are none"
        return found


def _measured(data: Data) -> dict[str, float]:
    collection, d = data.collection, data.collection.diameter_px
    picks = [collection.picks[name] for name in training_names(collection)]
    numbers = [len(p) for p in picks]
    seen = {"micrographs": float(len(picks)), "labels": float(sum(numbers)), "diameter_px": d}
    if not seen["labels"]:
        return seen
    shapes = {m.name: m.shape for m in collection.micrographs}
    bearing = [p for p in picks if len(p)]
    area = sum(math.prod(shapes[p.micrograph]) for p in bearing)
    shown = [(p, data.images[p.micrograph]) for p in bearing if p.micrograph in data.images]
    covered = [measuring.covered_share(p, image, d) for p, image in shown]
    summed = seen["labels"] * math.pi * d**2 / 4 / area
    single = [_single(p.xy, SAME * d) for p in bearing]
    away = np.concatenate([np.zeros(0), *(measuring.nearest_neighbours(xy) for xy in single)]) / d
    return seen | {
        "labels_per_micrograph_least": float(min(numbers)), "labels_per_micrograph_median": float(np.median(numbers)),
        "labels_per_micrograph_most": float(max(numbers)), "disc_sum_share": summed,
        "covered_share": float(np.mean(covered)) if covered else math.nan,
        "covered_share_if_random": 1 - math.exp(-summed),
        "median_neighbour_diameters": float(np.median(away)) if len(away) else math.nan,
        "duplicated_share": 1 - sum(map(len, single)) / seen["labels"], "outside_share": _outside(bearing, shapes),
    }  # fmt: skip


def _outside(picks: Sequence[Picks], shapes: dict[str, tuple[int, int]]) -> float:
    """Return the share of labels outside their micrograph."""
    inside = [np.all((p.xy >= -0.5) & (p.xy <= np.array(shapes[p.micrograph])[::-1] - 0.5), axis=1) for p in picks]
    return float(1 - np.concatenate(inside).mean())


def _single(xy: Float[np.ndarray, "n 2"], within: float) -> Float[np.ndarray, "m 2"]:
    """Return the positions without the second of each two that are one."""
    pairs = cKDTree(xy).query_pairs(within, output_type="ndarray")
    keep = np.ones(len(xy), bool)
    keep[pairs[:, 1]] = False
    return xy[keep]
