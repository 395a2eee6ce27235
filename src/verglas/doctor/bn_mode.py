"""Whether the running statistics of batch normalisation fit the weights, and the pictures they are used on."""

import copy
from collections.abc import Mapping
from math import sqrt

import numpy as np
from jaxtyping import Float

from verglas import model as network
from verglas import monitor, predict, train
from verglas.doctor import figures
from verglas.doctor._base import Finding, RunCheck, skipped
from verglas.doctor.subject import Looked, Outcome
from verglas.model import UNet
from verglas.ranking import average_precision

Maps = Mapping[str, Float[np.ndarray, "p q"]]
NOTHING = 0.001
"""Spread of logits that is none: a constant output has no statistics to be wrong."""

REMEDY = "--set model.norm=group has no statistics to lose; else train again."


class BnMode(RunCheck):
    """Compare the shipped network as it is with the same under batch statistics, and with statistics measured anew.

    They are compared on the labelled micrographs, on which the shipped statistics were measured: elsewhere carbon and
    ice move those of a single micrograph (mean logit by up to .55, spread by .68 to 1.2, on healthy real runs).

    ``gap`` bounds the difference of mean logits, ``spread`` the ratio of their spreads either way. Measured: shipped
    against anew .00 and 1.00 exactly, batch at most .15 and .79 to 1.05; lost statistics .5 to 14 or .01 to .5.
    ``ap`` is by how much the AP of pixels may stay below that of the training's own validation.
    """

    name = "bn_mode"
    question = "Do the statistics of batch normalisation fit the weights?"

    def __init__(self, *, gap: float = 0.5, spread: float = 1.7, ap: float = 0.1) -> None:
        self.gap, self.spread, self.ap = gap, spread, ap

    def check(self, outcome: Outcome) -> Finding:
        """Return what was found."""
        shipped = outcome.picker.network
        if not network.batch_norms(shipped):
            return skipped("The network has no batch normalisation.")
        materials, precision = outcome.data.materials, outcome.picker.precision
        names = {stored.name for stored in materials.labelled}
        looked = [one for one in outcome.looked if one.name in names or one.held.any()]
        anew = train.recalibrated(shipped, materials.labelled, precision)
        models = {"batch": _by_batch(shipped), "anew": anew}
        maps = {"running": {one.name: one.found.data for one in looked}}
        for mode, model in models.items():
            each = {one.name: predict.probability(model, one.image, precision=precision) for one in looked}
            maps[mode] = {name: found.data for name, found in each.items()}
        if not all(np.isfinite(found).all() for each in maps.values() for found in each.values()):
            return skipped("The output is not a number.")
        evidence = {f"{mode}_pixel_ap": ap for mode, each in maps.items() if (ap := _ap(looked, each)) is not None}
        for mode in models:
            gap, ratio = _apart(maps["running"], maps[mode], names)
            evidence |= {f"{mode}_mean_gap_logits": gap, f"{mode}_sd_ratio": ratio}
        return self._judged(evidence, _promised(outcome), maps, min(names))

    def _judged(self, seen: dict[str, float], promised: float | None, maps: Mapping[str, Maps], name: str) -> Finding:
        batch, anew = self._differs(seen, "batch"), self._differs(seen, "anew")
        told = (
            "Spread of logits is {batch_sd_ratio:.2f} of that with batch statistics and {anew_sd_ratio:.2f} of that "
            "with statistics measured anew; the mean lies {batch_mean_gap_logits:+.2f} and {anew_mean_gap_logits:+.2f} "
            "off."
        ).format_map(seen)
        if promised is not None:
            seen = seen | {"validated_pixel_ap": promised}
        if not (batch or anew):
            return Finding("ok", f"Running statistics fit. {told}", seen)

        def drawn() -> str:
            return figures.maps([(mode, maps[mode][name]) for mode in maps])

        reached = max(
            (value for key, value in seen.items() if key in ("batch_pixel_ap", "anew_pixel_ap")), default=None
        )
        if promised is not None and reached is not None and reached < promised - self.ap:
            lost = f"Even so pixels reach AP {reached:.2f} at best, {promised:.2f} when it was validated: it is shown "
            cure = "One recipe must prepare every picture: verglas doctor check norm_parity."
            return Finding("fail", f"{told} {lost}other pictures now.", seen, "NORM_MISMATCH", cure, drawn)
        how = "Measuring them anew heals it." if anew else "Measuring them anew, as training does, changes nothing."
        return Finding(
            "fail", f"Running statistics do not fit the weights. {told} {how}", seen, "BN_STATS", REMEDY, drawn
        )

    def _differs(self, seen: Mapping[str, float], mode: str) -> bool:
        gap, ratio = seen[f"{mode}_mean_gap_logits"], seen[f"{mode}_sd_ratio"]
        return abs(gap) > self.gap or not 1 / self.spread <= ratio <= self.spread


def _by_batch(model: UNet) -> UNet:
    model = copy.deepcopy(model)
    for norm in network.batch_norms(model):
        norm.train()
    return model


def _apart(running: Maps, other: Maps, names: set[str]) -> tuple[float, float]:
    """Return how far mean logits lie apart on these micrographs, and the ratio of the spreads within them."""
    pairs = [(monitor.logits(running[name]), monitor.logits(other[name])) for name in running if name in names]
    gap = float(np.mean([b.mean() - a.mean() for a, b in pairs]))
    a, b = (sqrt(float(np.mean([pair[i].var() for pair in pairs]))) for i in (0, 1))
    return gap, (a + NOTHING) / (b + NOTHING)


def _ap(looked: list[Looked], maps: Maps) -> float | None:
    """Return the AP of held-out pixels, of the two micrographs that validations measured; None without negatives."""
    some = [one for one in looked if (one.held & one.target).any() and (one.held & ~one.target).any()][:2]
    if not some:
        return None
    target = np.concatenate([one.target[one.held] for one in some])
    return average_precision(target, np.concatenate([maps[one.name][one.held] for one in some]), int(target.sum()))


def _promised(outcome: Outcome) -> float | None:
    """Return the AP of pixels at the validation whose state was shipped."""
    best = outcome.run.facts()["best_step"]
    found = [record["watch"].get("average_pixel_ap") for record in outcome.watched() if record["step"] == best]
    return found[-1] if found else None
