"""What the outputs are worth: collapsed, inverted, blind to the input, or only cut at the wrong score."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

import numpy as np
from jaxtyping import Bool, Float

from verglas import baselines, monitor
from verglas.doctor import figures
from verglas.doctor._base import Finding, RunCheck, skipped
from verglas.doctor._kinds import Kind, Seen, first
from verglas.doctor.calibrate import CUT_ANEW, cut
from verglas.doctor.subject import Looked, Outcome
from verglas.gates import RULES
from verglas.matching import Pool
from verglas.materials import kept

ALIKE = next(rule for rule in RULES if rule.code == "R3").condition

CONSTANT = 0.01
"""Spread of logits below which the output is one number (lost batch statistics leave .03 or more; healthy: .6 to 3)."""


def _alike(s: Seen) -> bool:
    """Tell whether maps of different micrographs are alike; of one micrograph nobody knows."""
    return "map_correlation" in s and ALIKE(s)


def _no_skill(s: Seen) -> bool:
    """Tell whether ranking is that of chance; a few lucky pixels do not save it (lost statistics: AUC .34 to .54)."""
    chance = s["best_f1"] < 1.1 * s["trivial_f1"]  # first: it is not known of partial labels
    return s["skill"] < 0.05 and (s["auc"] < 0.55 or chance)


_RIGHT = "Particles are told from background (pixel AP {pixel_ap:.2f}, guessing has {prior:.2f})"
_BLIND = "The output does not tell particles from background"
_COLLAPSED = (
    _BLIND + ": AP {pixel_ap:.2f}, guessing has {prior:.2f}; F1 {best_f1:.2f} at best, {trivial_f1:.2f} by calling all "
    "particle. F1 at .5 is {f1_half:.2f}, which tells nothing: a constant output has 0 if it lies below .5, and "
    "{trivial_f1:.2f} if above. This is a collapse, and no threshold helps."
)
_LOOK = "verglas inspect: are the labels on the particles? Then verglas doctor check overfit."

KINDS: tuple[Kind, ...] = (
    Kind("fail", "DIVERGED", lambda s: s["finite"] == 0, "The output is not a number.", "--set train.rate=0.001"),
    Kind("fail", "INVERTED", lambda s: s["auc"] < 0.4 and s["inverted_skill"] >= 0.03 and not _alike(s),
         "The output is lower on particles than elsewhere (AUC {auc:.2f}, guessing has .50): they were learned as "
         "background.", "Look at the labels with verglas inspect; in the targets particles are 1.", 50),
    Kind("fail", "INPUT_INDEPENDENT", lambda s: s["logit_sd"] >= CONSTANT and _alike(s),
         "Maps of different micrographs are nearly the same (correlation {map_correlation:.2f}, share of variance "
         "between micrographs {map_variance_between:.2f}): the output hardly depends on what is shown. This is a "
         "collapse, and no threshold helps.", "verglas doctor check norm_parity, then bn_mode", 50),
    Kind("fail", "NO_SKILL", lambda s: s["logit_sd"] < CONSTANT and s["pixel_ap"] >= 0, _COLLAPSED, _LOOK, 50),
    Kind("fail", "NO_SKILL", _no_skill, _COLLAPSED, _LOOK, 300),
    Kind("fail", "NO_SKILL", lambda s: "pixel_ap" not in s and s["auc"] < 0.55,
         _BLIND + ": held-out clicks rank no higher than places that nobody looked at (AUC {auc:.2f}, guessing has "
         ".50).", _LOOK, 300),
    Kind("warn", "MISCALIBRATED", lambda s: s["skill"] >= 0.2 and s["badly_cut"] > 0,
         _RIGHT + ", but the threshold in use, {threshold:.2f}, gives F1 {pick_f1:.2f} where {best_threshold:.2g} "
         "would give {best_pick_f1:.2f}. This is a matter of the threshold, no collapse.",
         CUT_ANEW, 300),
    Kind("warn", "BELOW_BLOBS", lambda s: s["pick_ap"] < s["blob_ap"] - 2 * s["ap_error"],
         "Picks are worse than those of a filter for dark blobs, which learns nothing: AP {pick_ap:.2f} against "
         "{blob_ap:.2f}.", "More steps (--steps) or more labels; is --diameter-px right?", 300),
    Kind("info", "MISCALIBRATED", lambda s: s["skill"] >= 0.2 and s["f1_half"] < 0.5 * s["best_f1"],
         _RIGHT + ". F1 of pixels is {f1_half:.2f} at .5 and {best_f1:.2f} at best, but it is picks that are cut: the "
         "threshold in use, {threshold:.2f}, gives them F1 {pick_f1:.2f} of {best_pick_f1:.2f} possible. No collapse.",
         "", 300),
    Kind("ok", "", lambda s: s["pick_ap"] >= 0,
         _RIGHT + "; AP of picks is {pick_ap:.2f} (dark blobs: {blob_ap:.2f}), and F1 of picks {pick_f1:.2f} at the "
         "threshold in use."),
    Kind("ok", "", lambda s: s["auc"] > 0,
         "Held-out clicks rank above places that nobody looked at: AUC {auc:.2f} (guessing has .50)."),
)  # fmt: skip
"""The gravest first. Healthy runs on four real sets and simulated ones: AUC .83 to .999, map correlation to .08,
variance between .95 to 1.02, skill .38 to .95, picks' AP .20 to .72 above dark blobs (.01 where those reach .98).
Turned round, the skill of inverted ones is .05 to .95, that of lost batch statistics at most .02."""


class Outputs(RunCheck):
    """Judge ranking apart from calibration, and both against pickers that learn nothing.

    ``well_cut`` is the share of the best F1 that the threshold in use must reach.
    """

    name = "outputs"
    question = "Does the output tell particles from background, and is it cut at a good score?"

    def __init__(self, *, well_cut: float = 0.8) -> None:
        self.well_cut = well_cut

    def check(self, outcome: Outcome) -> Finding:
        """Return what was found."""
        steps = outcome.steps
        found = first(KINDS, self._measured(outcome), steps)
        if found is None:
            return skipped("No held-out labels: nothing to hold outputs to.")
        return replace(found, figure=lambda: _drawn(found.code, outcome))

    def _measured(self, outcome: Outcome) -> dict[str, float]:
        looked = outcome.looked
        if not all(np.isfinite(one.found.data).all() for one in looked):
            return {"finite": 0.0}
        believed = np.concatenate([one.found.data[one.found.valid] for one in looked])
        seen = _pixels(outcome) | monitor.across([one.found.data for one in looked])
        seen |= {
            "logit_sd": float(monitor.logits(believed).std()), "same_peak_share": _same_peak(looked),
            "above_half_px_per_micrograph": float(np.mean([(one.found.data > 0.5).sum() for one in looked])),
        }  # fmt: skip
        return seen | (self._picks(outcome) if "pixel_ap" in seen else {})

    def _picks(self, outcome: Outcome) -> dict[str, float]:
        """Return figures of the run's picks and of dark blobs, in the held-out areas."""
        made = cut(outcome)
        ap, blobs, labels = made.ranked.whole(None)["ap"], _blob_ap(outcome), float(made.ranked.labels.sum())
        error = sqrt((ap * (1 - ap) + blobs * (1 - blobs)) / max(1.0, labels))
        return {
            "pick_ap": ap, "blob_ap": blobs, "ap_error": error, "pick_f1": made.f1, "best_pick_f1": made.best_f1,
            "threshold": made.threshold, "best_threshold": made.best_threshold,
            "least_score": outcome.data.config.search.least_score,
            "badly_cut": float(made.bad(self.well_cut)), "held_out_labels": labels,
        }  # fmt: skip


def _pixels(outcome: Outcome) -> dict[str, float]:
    """Return pixel figures on held-out labels; where labels are partial, of clicks against unseen places."""
    target, belief = outcome.held_out()
    if not target.any():
        return {}
    if (~target).any():
        auc, turned = monitor.auc(belief[target], belief[~target]), monitor.pixel_figures(target, 1 - belief)["skill"]
        more = {"prior": float(target.mean()), "auc": auc, "inverted_skill": turned}
        return monitor.pixel_figures(target, belief) | more
    auc = monitor.auc(belief, _unseen(outcome))
    return {"auc": auc, "skill": 2 * auc - 1, "inverted_skill": 1 - 2 * auc}


def _unseen(outcome: Outcome) -> Float[np.ndarray, " n"]:
    """Return beliefs where nobody looked, on micrographs with held-out clicks."""
    clicked = [one for one in outcome.looked if one.held.any()]
    parts = [one.found.data[monitor.elsewhere(one.unseen, one.target, one.found.valid)] for one in clicked]
    return np.concatenate([np.zeros(0), *parts])


def _blob_ap(outcome: Outcome) -> float:
    data = outcome.data
    diameter, images = data.collection.diameter_px, {one.name: one.image for one in outcome.looked}
    micrographs, truth, inside = data.collection.by_name(), data.materials.truth, data.holdout.inside
    blobs = {n: baselines.blob_baseline(images[n], micrographs[n], diameter_px=diameter) for n in truth}
    held = {name: inside(kept(data.collection, data.config, picks)) for name, picks in blobs.items()}
    return Pool.of(held, truth).by_micrograph(diameter / 2).whole(None)["ap"]


def _same_peak(looked: Sequence[Looked]) -> float:
    """Return the share of maps whose highest place is one and the same, on a grid of 16 by 16."""
    places: Counter[tuple[int, ...]] = Counter()
    for one in looked:
        at = np.unravel_index(int(np.argmax(one.found.data)), one.found.data.shape)
        places[tuple(int(16 * i / n) for i, n in zip(at, one.found.data.shape, strict=True))] += 1
    return max(places.values()) / len(looked)


def _drawn(code: str, outcome: Outcome) -> str:
    """Draw the maps themselves where they are alike, else the logits of both classes."""
    if code == "DIVERGED":
        return ""
    if code == "INPUT_INDEPENDENT":
        return figures.maps([(f"micrograph {i}", one.found.data) for i, one in enumerate(outcome.looked[:4], 1)])
    target, belief = _classes(outcome)
    return figures.logits(target, belief, threshold=outcome.run.operating_point().threshold)


def _classes(outcome: Outcome) -> tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return held-out pixels with both classes; unseen places stand for background where that is not known."""
    target, belief = outcome.held_out()
    other = np.zeros(0) if (~target).any() else _unseen(outcome)
    return np.concatenate([target, np.zeros(len(other), bool)]), np.concatenate([belief, other])
