"""Do the labels leave particles out? Then the surest picks are on labels no more often than others: a ceiling."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from verglas.doctor._base import Finding, RunCheck, Verdict, skipped
from verglas.doctor.subject import Outcome
from verglas.holdout import Area
from verglas.matching import match
from verglas.monitor import auc
from verglas.ssl.pu import PositiveUnlabelled
from verglas.types import Picks

REACH = 0.3
"""Diameters within which a pick is on a label: farther off chance is high where particles crowd."""

ENOUGH = 150
"""Held-out labels that suffice; where there are fewer, the labels that taught are looked at as well."""


@dataclass(frozen=True, slots=True, eq=False)
class Surest:
    """Picks on labelled areas, best first, and how many diameters off their label they are (infinite: on none)."""

    off: Float[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    labels: int

    def right(self, first: float, last: float, within: float = REACH) -> Bool[np.ndarray, " k"]:
        """Return which picks are right between two ranks, counted in numbers of labels."""
        return self.off[int(first * self.labels) : int(last * self.labels)] <= within

    def separation(self) -> float:
        """Return the chance that of as many picks as labels one on a label scores more than one on none."""
        right, score = self.right(0, 1), self.score[: self.labels]
        return auc(score[right], score[~right]) if right.any() and not right.all() else 1.0


class Pu(RunCheck):
    """Ask whether the surest picks are on labels; with partial labels, whether the prior is believable.

    Where each particle was labelled with one chance c, nothing tells those that were: a pick is on a label with
    chance c, however sure it is (Elkan & Noto 2008). Where labels are complete the surest picks nearly all are.
    Measured after 200 and 400 steps with all labels, and with 60 % of them removed (10017, 10059, 10947, simulated):
    precision of the surest .74 to 1 and .25 to .55, separation .66 to .95 and .47 to .58. A network that has learned
    too little (40 steps) or only where discs are looks alike in both, but its picks are off: .15 D holds .33 to .67 of
    what .3 D holds, not .78 (the faintest set) to .9.
    """

    name = "pu"
    question = "Do the labels leave particles out?"

    def __init__(
        self,
        *,
        ceiling: float = 0.65,
        separation: float = 0.64,
        tight: float = 0.72,
        earliest: int = 200,
        drift: float = 2.7,
        skill: float = 0.7,
    ) -> None:
        self.ceiling, self.separation, self.tight = ceiling, separation, tight
        self.earliest, self.drift, self.skill = earliest, drift, skill

    def check(self, outcome: Outcome) -> Finding:
        """Return whether precision has a ceiling, or, of partial labels, whether the prior fits the picks."""
        if not outcome.data.collection.complete:
            return self._prior(outcome)
        if outcome.steps < self.earliest:
            return skipped(f"Before step {self.earliest} a network that knows little looks the same.")
        seen = surest(outcome)
        if len(seen.right(0, 0.5)) < 10:
            return skipped(f"{seen.labels} labels and {len(seen.score)} picks near them are too few to tell.")
        return self._ceiling(seen, belief_at_labels(outcome))

    def _ceiling(self, seen: Surest, belief: float) -> Finding:
        top, rest = seen.right(0, 0.5), seen.right(0.5, 1)
        share, apart = float(top.mean()), seen.separation()
        tight = float(seen.right(0, 0.5, REACH / 2).sum() / max(1, top.sum()))
        evidence = {
            "labels": seen.labels, "surest_picks": len(top), "precision_of_surest_percent": 100 * share,
            "precision_of_next_percent": 100 * float(rest.mean()) if len(rest) else 0.0,
            "separation_percent": 100 * apart, "within_half_the_reach_percent": 100 * tight,
            "mean_belief_at_labels": belief,
        }  # fmt: skip
        if share > self.ceiling or apart > self.separation or tight < self.tight:
            return Finding(
                "ok", f"Of the {len(top)} surest picks {share:.0%} are on labels: no sign of a ceiling.", evidence
            )
        sentence = (
            f"Only {share:.0%} of the {len(top)} surest picks are on labels, and those that are score no higher than "
            f"those that are not. It looks as if about {1 - share:.0%} of the particles were not labelled."
        )
        remedy = "--labels-are partial, or label every particle of these micrographs."
        return Finding("fail", sentence, evidence | {"completeness_percent": 100 * share}, "PU_CEILING", remedy)

    def _prior(self, outcome: Outcome) -> Finding:
        algorithm = outcome.data.algorithm
        if not isinstance(algorithm, PositiveUnlabelled) or algorithm.risk == "weighted":
            return skipped("Labels are partial, and the algorithm takes no prior.")
        labelled, rest = beliefs(outcome)
        if not len(labelled) or not len(rest) or auc(labelled, rest) < self.skill:
            return skipped("Labels are partial, and the network does not yet tell them from the rest.")
        found = share_alike(labelled, rest)
        ratio = algorithm.prior / max(found, 1e-6)
        evidence = {"prior": algorithm.prior, "share_like_labels": found, "ratio": ratio}
        sentence = f"The prior is {algorithm.prior:.3g}; at most {found:.3g} of the rest looks like labelled particles."
        if 1 / self.drift <= ratio <= self.drift:
            return Finding("ok", sentence, evidence)
        remedy = f"--set algorithm.options.prior={max(found, 0.001):.2g}."
        # A default far off is worth a word only: ranking hardly suffers (klh: 8 of 9 labels found at 8 times too much).
        chosen: Verdict = "warn" if "prior" in outcome.data.config.algorithm.options else "info"
        return Finding(chosen, sentence, evidence, "PRIOR_DRIFT", remedy)


def surest(outcome: Outcome) -> Surest:
    """Return the picks on held-out areas, or on all that is labelled where those hold few labels."""
    collection, held = outcome.data.collection, outcome.data.holdout
    areas = dict(held.areas)
    if sum(len(held.inside(collection.picks[name])) for name in areas) < ENOUGH:
        areas = dict.fromkeys(collection.picks, Area())
    off, score, labels = [np.zeros(0)], [np.zeros(0)], 0
    for picks in picked(outcome):
        if picks.micrograph in areas:
            area, truth = areas[picks.micrograph], collection.picks[picks.micrograph]
            inside, truth = picks.where(area.holds(picks.xy)), truth.where(area.holds(truth.xy))
            right, label = match(inside.xy, inside.score, truth.xy, REACH * collection.diameter_px)
            distance = np.full(len(inside), np.inf)
            distance[right] = np.hypot(*(inside.xy[right] - truth.xy[label[right]]).T) / collection.diameter_px
            off.append(distance)
            score.append(inside.score)
            labels += len(truth)
    order = np.argsort(-np.concatenate(score), kind="stable")
    return Surest(np.concatenate(off)[order], np.concatenate(score)[order], labels)


def picked(outcome: Outcome) -> Iterator[Picks]:
    """Yield all candidates on each labelled micrograph that is looked at."""
    collection = outcome.data.collection
    micrographs = collection.by_name()
    for one in outcome.looked:
        if one.name in collection.picks:
            yield outcome.picker.find(micrographs[one.name], one.found)


def belief_at_labels(outcome: Outcome) -> float:
    """Return the mean belief on the cores of labels that taught: the chance to be labelled, if calibrated."""
    beliefs = [one.found.data[one.target & (one.teaches | one.held)] for one in outcome.looked]
    return float(np.concatenate(beliefs).mean())


def beliefs(outcome: Outcome) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Return the beliefs on cores of labels, and away from every label on the same micrographs."""
    collection, disc = outcome.data.collection, outcome.data.config.target
    labelled, rest = [np.zeros(0)], [np.zeros(0)]
    for one in outcome.looked:
        if one.target.any():
            core, sure = disc.draw(collection.picks[one.name], one.found, diameter_px=collection.diameter_px)
            labelled.append(one.found.data[core & sure])
            rest.append(one.found.data[sure & ~core])
    return np.concatenate(labelled), np.concatenate(rest)


def share_alike(particles: Float[np.ndarray, " n"], rest: Float[np.ndarray, " m"]) -> float:
    """Return which share of the rest is particle at most, whatever the scale of beliefs: inf P(rest > t)/P(f > t).

    Quantiles of the particles from .3 to .8 serve as t: above there are too few. Measured with .1 and .4 for a prior
    (10059, simulated): prior over this share .66 and 2.2, 3.1 and 19.
    """
    bounds = np.quantile(particles, (0.3, 0.5, 0.7, 0.8))
    return float(min((rest >= bound).mean() / (particles >= bound).mean() for bound in bounds))
