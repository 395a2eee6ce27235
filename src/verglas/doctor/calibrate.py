"""Whether beliefs can be taken at their word, and whether the threshold in use is a good one."""

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit

from verglas import matching, monitor
from verglas.doctor import figures
from verglas.doctor._base import Finding, RunCheck, skipped
from verglas.doctor._kinds import Kind, first
from verglas.doctor.subject import Outcome
from verglas.ranking import Ranked, precision_recall_curve

BINS = 10
MOST_PIXELS = 50_000
"""Pixels that temperature and bias are fitted to; neighbours tell the same."""

CUT_ANEW = (
    "verglas pick --threshold {best_threshold:.3g}; what scores below {least_score:g} is kept only by a run with a "
    "lower search.least_score."
)
"""What to do about a bad threshold."""


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """What the threshold in use reaches on held-out labels, and what another one could."""

    ranked: Ranked
    threshold: float
    f1: float
    best_f1: float
    best_threshold: float

    def bad(self, share: float) -> bool:
        """Tell whether F1 is below ``share`` of the best by more than two standard errors of the latter."""
        error = sqrt(self.best_f1 * (1 - self.best_f1) / max(1.0, float(self.ranked.labels.sum())))
        return self.best_f1 - self.f1 > max((1 - share) * self.best_f1, 2 * error)

    def curve(self) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Return each distinct score, falling, and F1 of the candidates that reach it."""
        right, labels = self.ranked.right, int(self.ranked.labels.sum())
        precision, recall, score = precision_recall_curve(right, self.ranked.score, labels)
        return score, 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def cut(outcome: Outcome) -> Cut:
    """Search the held-out areas anew with the run as it is, and match what is found with the labels there.

    Candidates of any score are wanted: where outputs lie far too low, those that the run keeps are few or none.
    """
    materials, micrographs = outcome.data.materials, outcome.data.collection.by_name()
    maps = {one.name: one.found for one in outcome.looked}
    found = {n: outcome.picker.find(micrographs[n], maps[n], least_score=0.0) for n in materials.truth}
    held = {name: materials.holdout.inside(picks) for name, picks in found.items()}
    ranked = matching.Pool.of(held, materials.truth).by_micrograph(outcome.data.collection.diameter_px / 2)
    threshold = outcome.run.operating_point().threshold
    made = Cut(ranked, threshold, ranked.whole(threshold)["f1"], 0.0, threshold)
    score, f1 = made.curve()
    best = int(np.argmax(f1)) if len(f1) else None
    return made if best is None else Cut(ranked, threshold, made.f1, float(f1[best]), float(score[best]))


def fitted(target: Bool[np.ndarray, " n"], belief: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Return temperature T and bias b with which sigmoid(z/T + b) fits best, by cross-entropy."""
    every = -(-len(target) // MOST_PIXELS)
    y, z = target[::every].astype(float), monitor.logits(belief[::every])

    def loss(x: Float[np.ndarray, "2"]) -> tuple[float, Float[np.ndarray, "2"]]:
        a = x[0] * z + x[1]
        off = expit(a) - y
        return float(np.mean(np.logaddexp(0, a) - y * a)), np.array([np.mean(off * z), np.mean(off)])

    sharpness, bias = minimize(loss, np.array([1.0, 0.0]), jac=True, bounds=((0.05, 20), (-20, 20))).x
    return float(1 / sharpness), float(bias)


def binned(
    target: Bool[np.ndarray, " n"], belief: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return mean belief, share of particles and number of pixels of each bin that is not empty."""
    at = np.minimum((belief * BINS).astype(int), BINS - 1)
    count = np.bincount(at, minlength=BINS).astype(float)
    some = count > 0
    mean, share = (np.bincount(at, v.astype(float), BINS)[some] / count[some] for v in (belief, target))
    return mean, share, count[some]


class Calibrate(RunCheck):
    """Reliability of beliefs, and F1 over thresholds. Only a bad threshold is a fault: ranking needs no calibration.

    ``well_cut`` is the share of the best F1 that the threshold in use must reach (healthy real and simulated runs:
    .92 to 1.00) and ``skill`` that of the pixels, without which there is nothing to cut (.38 to .95). Beliefs are said
    to be off from a calibration error of ``error`` (.01 to .07) or a ``shift`` of their logits (.1 to 1.3) on.
    """

    name = "calibrate"
    question = "Do beliefs come true as often as they say, and is the threshold in use a good one?"

    def __init__(self, *, well_cut: float = 0.8, skill: float = 0.2, error: float = 0.1, shift: float = 2.0) -> None:
        self.well_cut, self.skill, self.error, self.shift = well_cut, skill, error, shift

    def check(self, outcome: Outcome) -> Finding:
        """Return what was found."""
        if not outcome.data.collection.complete:
            return skipped("Labels leave particles out, so nobody knows how often a belief comes true.")
        target, belief = outcome.held_out()
        if not (target.any() and (~target).any()):
            return skipped("No held-out labels: nothing to hold beliefs to.")
        if not np.isfinite(belief).all():
            return skipped("The output is not a number.")
        made, (mean, share, count) = cut(outcome), binned(target, belief)
        temperature, bias = fitted(target, belief)
        low, high = outcome.run.operating_point().interval
        seen = {
            "pick_f1": made.f1, "best_pick_f1": made.best_f1, "threshold": made.threshold,
            "best_threshold": made.best_threshold, "threshold_low": low, "threshold_high": high,
            "least_score": outcome.data.config.search.least_score,
            "held_out_labels": float(made.ranked.labels.sum()), "skill": monitor.pixel_figures(target, belief)["skill"],
            "calibration_error": float(np.sum(count * np.abs(mean - share)) / count.sum()), "temperature": temperature,
            "bias": bias, "shift_logits": -bias * temperature, "mean_belief": float(belief.mean()),
            "particle_share": float(target.mean()), "badly_cut": float(made.bad(self.well_cut)),
        }  # fmt: skip
        found = first(self._kinds(), seen, outcome.steps)
        assert found is not None, "the last kind always holds"
        if found.verdict != "warn":
            return replace(found, figure=lambda: figures.reliability(mean, share, count))
        score, f1 = made.curve()
        return replace(found, figure=lambda: figures.sweep(score, f1, chosen=made.threshold, interval=(low, high)))

    def _kinds(self) -> tuple[Kind, ...]:
        cuts = (
            "The threshold in use, {threshold:.2f} (95 % interval {threshold_low:.2f} to {threshold_high:.2f}), gives "
            "picks on held-out labels F1 {pick_f1:.2f}; the best one, {best_threshold:.2g}, would give "
            "{best_pick_f1:.2f}. "
        )
        off = (
            "Beliefs are off by {calibration_error:.2f} on average; {shift_logits:+.1f} is the logit of an even chance."
        )
        return (
            Kind("info", "", lambda s: s["skill"] < self.skill, "Pixels are ranked too poorly (skill {skill:.2f}) for "
                 "beliefs or thresholds to mean anything."),
            Kind("warn", "MISCALIBRATED", lambda s: s["badly_cut"] > 0, cuts + "Particles are ranked, but cut wrongly.",
                 CUT_ANEW),
            Kind("info", "MISCALIBRATED",
                 lambda s: s["calibration_error"] > self.error or abs(s["shift_logits"]) > self.shift,
                 cuts + off + " The threshold allows for it; do not read beliefs as chances."),
            Kind("ok", "", lambda _: True, cuts + off),
        )  # fmt: skip
