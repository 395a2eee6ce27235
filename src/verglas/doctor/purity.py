"""Are pseudo-labels right? Measured at each validation on labels that nobody learned from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from verglas.doctor import figures
from verglas.doctor._base import Finding, RunCheck, Verdict, skipped
from verglas.doctor.subject import Outcome
from verglas.ssl.fixmatch import PseudoLabelling

Seen = Mapping[str, float]

NEEDED = ("purity", "keep_positive", "keep_negative", "pseudo_positive_share", "held_prior", "unsupervised")


class Purity(RunCheck):
    """Ask which share of pseudo-labelled particle pixels are particle, over time, and whether they are too many or few.

    Purity is counted beyond chance, (P - π)/(1 - π): 0 for labels drawn by lot. The truth is the cores of labels, so
    a healthy purity is far from 1 where labels leave particles out and where weights are soft. Measured at the end:
    hard .43 to 1, soft .25 to .65; share of positives, over that of the labels, .7 to 1.5.
    """

    name = "purity"
    question = "Are the pseudo-labels right often enough to teach?"
    finished = False

    def __init__(
        self,
        *,
        hard: float = 0.3,
        soft: float = 0.1,
        lost: float = 0.5,
        drift: float = 2.0,
        wild: float = 4.0,
        kept: float = 0.01,
    ) -> None:
        self.hard, self.soft, self.lost, self.drift, self.wild, self.kept = hard, soft, lost, drift, wild, kept

    def check(self, outcome: Outcome) -> Finding:
        """Return whether pseudo-labels are impure, or hold another share of particles than the labels."""
        rows = [(one["step"], one["watch"]) for one in outcome.watched()]
        rows = [(step, seen) for step, seen in rows if all(seen.get(key) is not None for key in NEEDED)]
        if not rows:
            return skipped("No validation saw pseudo-labels that could be held to labels.")
        rows = [(step, seen) for step, seen in rows if _kept(seen) >= self.kept]
        if not rows:
            return skipped("The filter keeps too few pseudo-labels to tell: see the check of confidence.")
        steps, seen = zip(*rows, strict=True)
        found = self._judged(seen, hard=isinstance(outcome.data.algorithm, PseudoLabelling))
        curves = {"purity": np.array([one["purity"] for one in seen]),
                  "particles kept": np.array([one["keep_positive"] for one in seen])}  # fmt: skip
        return replace(found, figure=lambda: figures.over_steps(np.array(steps), curves, limits=(0, 1.02)))

    def _judged(self, seen: Sequence[Seen], *, hard: bool) -> Finding:
        last = seen[-1]
        beyond, before = _beyond_chance(last), max(map(_beyond_chance, seen))
        ratios = [one["pseudo_positive_share"] / max(one["held_prior"], 1e-9) for one in seen[-2:]]
        evidence = {
            "validations": len(seen), "purity_percent": 100 * last["purity"],
            "purity_beyond_chance_percent": 100 * beyond, "best_beyond_chance_percent": 100 * before,
            "particles_kept_percent": 100 * last["keep_positive"], "positives_over_prior": ratios[-1],
            "background_kept_percent": 100 * last["keep_negative"],
        }  # fmt: skip
        numbers = f"{last['purity']:.0%} of what was pseudo-labelled particle is ({last['held_prior']:.1%} by lot)"
        if beyond < (self.hard if hard else self.soft) or beyond < self.lost * before:
            falling = f", {before:.0%} beyond chance at best and {beyond:.0%} at the end"
            remedy = "More labels first, --set guard.earliest=0.5, or --algorithm supervised."
            return Finding("fail", f"Only {numbers}{falling}.", evidence, "IMPURE", remedy)
        if all(ratio > self.drift for ratio in ratios) or all(ratio < 1 / self.drift for ratio in ratios):
            verdict: Verdict = "fail" if all(ratio > self.wild for ratio in ratios) else "warn"
            sentence = f"Pseudo-labels hold {ratios[-1]:.1f} times the share of particle pixels that the labels do."
            remedy = "--set algorithm.options.mask=quantile, which keeps the proportion of the labels."
            return Finding(verdict, sentence, evidence, "PRIOR_DRIFT", remedy)
        return Finding("ok", f"{numbers.capitalize()}, and their share is that of the labels.", evidence)


def _kept(seen: Seen) -> float:
    return seen["held_prior"] * seen["keep_positive"] + (1 - seen["held_prior"]) * seen["keep_negative"]


def _beyond_chance(seen: Seen) -> float:
    return (seen["purity"] - seen["held_prior"]) / max(1 - seen["held_prior"], 1e-9)
