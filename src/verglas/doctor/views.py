"""Whether the views of a tile and its masks show the same place."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from torch import Tensor

from verglas import data as loading
from verglas.data import Cropping, Stored
from verglas.doctor._base import DataCheck, Finding, Value
from verglas.doctor._match import Match, compared
from verglas.doctor._probes import LOUD, neutral, smaller, spots
from verglas.doctor.subject import Data
from verglas.types import Grid, Image

CROPS, SIDE = 6, 192
PLANES = ("target", "known", "unseen", "held", "valid")
FEATURE_PX = 4.0
"""Spots are about 4 times this across: small enough that a shift of 4 px shows, large enough to survive resampling."""


class Views(DataCheck):
    """Cut pictures of masks along with the masks: each mask must arrive where its picture does.

    Half of many crops lies beyond the micrograph, so what is made of that is judged, too. Only where grey values lie
    on either side of the middle of a crop counts, not how large they are.
    """

    name = "views"
    question = "Do all views of a tile, its labels and its masks show the same place?"

    # Any data, stem 1 to 3, with and without CutMix: overlap .97 to .99, plain .98 to 1. A shift of 2 px gives .70, of
    # 4 px .5; a picture mirrored beyond the border .6; a turn .2; a weak view with loud grey values 0 to .1 plain.
    def __init__(self, *, least_iou: float = 0.85, most_px: float = 1.0, least_plain: float = 0.9) -> None:
        self.least_iou, self.most_px, self.least_plain = least_iou, most_px, least_plain

    def check(self, data: Data) -> Finding:
        """Return how well views and masks fit."""
        how = smaller(neutral(data.cropping, overhang=0.5), SIDE, data.config.model.stem, CROPS)
        probes = _probes(data, how.size)
        found = {plane: self._labelled(data, how, probes[plane], plane) for plane in PLANES[:3]}
        found["weak"], found["strong"], plain = self._unlabelled(data, how, probes["valid"])
        at_labels = _at_labels(data)
        evidence: dict[str, Value] = {f"{name}_iou": match.iou for name, match in found.items()}
        evidence |= {"worst_displacement_px": max(match.shift_px for match in found.values()),
                     "turned": ", ".join(name for name, match in found.items() if match.turned) or "none",
                     "weak_plain": plain, "target_at_labels": at_labels}  # fmt: skip
        for code, sentence, remedy in self._faults(found, plain, at_labels):
            return Finding("fail", sentence, evidence, code, remedy)
        worst = min(match.iou for match in found.values())
        return Finding("ok", f"Views, labels and masks of a tile show the same place (overlap {worst:.2f}).", evidence)

    def _faults(self, found: dict[str, Match], plain: float, at_labels: float) -> Iterator[tuple[str, str, str]]:
        off = {name: self._how(match) for name, match in found.items() if self._off(match)}
        if found["target"].opposite >= self.least_iou and "target" in off:
            yield ("INVERTED", "The target is 1 where there is no particle, and 0 where there is one.",
                   "Particles are 1 in the target: turn the class around where targets are made.")  # fmt: skip
        if plain < self.least_plain:
            yield ("PL_PATH_MISALIGNED", "The weak view, which the teacher labels, has changed grey values: "
                   f"only {plain:.0%} of it is the plain picture.",
                   "Give the teacher the tile as it was cut, before any change of grey values.")  # fmt: skip
        if "weak" in off and "strong" not in off:
            yield ("PL_PATH_MISALIGNED", f"The teacher is shown another place in the weak view ({off['weak']}).",
                   "Give the teacher the tile as it was cut: one geometry for all views.")  # fmt: skip
        if off:
            each = "; ".join(f"{name} {how}" for name, how in off.items())
            yield ("VIEWS_MISALIGNED", f"Pictures and masks of one tile show different places: {each}.",
                   "Transform picture, target, known and valid masks once, together, and fill all with 0 beyond the "
                   "micrograph.")  # fmt: skip
        if at_labels < self.least_iou:
            yield ("VIEWS_MISALIGNED", f"Only {at_labels:.0%} of the labels lie in the target drawn for them.",
                   "Draw targets on the grid of the prepared picture.")  # fmt: skip

    def _off(self, match: Match) -> bool:
        return match.iou < self.least_iou or match.shift_px > self.most_px or match.turned

    def _how(self, match: Match) -> str:
        moved = "turned or mirrored" if match.turned else f"displaced by {match.shift_px:.0f} px"
        return f"overlaps by {match.iou:.2f}" + (f", {moved}" if match.turned or match.shift_px else "")

    def _labelled(self, data: Data, how: Cropping, probe: Stored, plane: str) -> Match:
        batch = loading.labelled_batch([probe], how, data.generator(self.name))
        mask: Tensor = getattr(batch, plane)
        return compared(batch.image, mask > 0.5, how.stem, 0.5 if plane == "target" else 1.0)

    def _unlabelled(self, data: Data, how: Cropping, probe: Stored) -> tuple[Match, Match, float]:
        """Return how weak and strong views fit what is known of them, and how much of the weak one is unchanged."""
        wants = data.algorithm
        asked = max(1, wants.strong_views), wants.cutmix
        weak, strong = [], None
        for photometry in (how.photometry, LOUD):
            batch = loading.unlabelled_batch(
                [probe], replace(how, photometry=photometry), *asked, data.generator(self.name)
            )
            weak.append(compared(batch.weak, batch.valid, how.stem, 1.0))
            seen = batch.seen(batch.valid).flatten(0, 1)
            strong = strong or compared(batch.strong.flatten(0, 1), seen, how.stem, 1.0)
        assert strong is not None
        plain = weak[1].correlation / weak[0].correlation if weak[0].correlation > 0.2 else 1.0
        return weak[0], strong, plain


def _probes(data: Data, size: int) -> dict[str, Stored]:
    """Write for each mask a micrograph that is its picture; all bear the same masks."""
    shape = int(1.2 * size), int(1.5 * size)
    masks = [spots(shape, FEATURE_PX, seed) for seed in range(len(PLANES))]
    folder, grid = data.scratch / "views", Grid()
    return {
        plane: Stored.write(folder, plane, Image(mask.astype(np.float32), grid, masks[-1]), masks[:-1])
        for plane, mask in zip(PLANES, masks, strict=True)
    }


def _at_labels(data: Data) -> float:
    """Return the share of labels at which the target is set, within a pixel, where the micrograph is valid."""
    hits = total = 0
    for stored in data.materials.labelled:
        masks, (h, w) = stored.masks(), stored.shape
        for x, y in stored.centres:
            row, column = round(y), round(x)
            if 0 <= row < h and 0 <= column < w and masks[-1, row, column]:
                around = masks[0, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                hits, total = hits + int(around.any()), total + 1
    return hits / total if total else 1.0
