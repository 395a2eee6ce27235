"""What a confidence threshold keeps of particles and of background, and what the run's own mask does."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from verglas.doctor import figures
from verglas.doctor._base import Finding, RunCheck, Value, skipped
from verglas.doctor.subject import Outcome
from verglas.losses import Loss
from verglas.ssl import Algorithm
from verglas.ssl.fixmatch import FixMatch, PseudoLabelling

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SHARE = 0.8
"""Share of each class that the recommended thresholds keep."""

Flags = Bool[np.ndarray, " n"]
Beliefs = Float[np.ndarray, " n"]


class Confidence(RunCheck):
    """Ask what confidence thresholds would keep on held-out pixels, and what the run's own mask keeps there.

    A mask with running quantities is judged by the last validation at which unlabelled tiles taught.
    """

    name = "confidence"
    question = "Does the confidence filter keep both classes alike?"

    def __init__(self, *, least_kept: float = 0.01, least_ratio: float = 0.5, most_ratio: float = 2.0) -> None:
        self.least_kept, self.least_ratio, self.most_ratio = least_kept, least_ratio, most_ratio

    def check(self, outcome: Outcome) -> Finding:
        """Return the table of thresholds, and whether the run's mask is inert or lopsided."""
        target, belief = outcome.held_out()
        if not target.any() or target.all():
            return skipped("There are no held-out pixels of both classes.")
        config, algorithm = outcome.data.config, outcome.data.algorithm
        evidence = table(target, belief) | recommended(target, belief) | posteriors(config.loss)
        kept = own_mask(algorithm, target, belief, outcome)
        if kept is None:
            made = algorithm.pseudo_label(torch.zeros(1)) is not None
            why = "its filter never came to work" if made else "it uses no filter; the table is what one would do"
            found = Finding("info", f"{algorithm.name}: {why}. {_said(evidence)}", evidence)
        else:
            own = {f"own_{key}_percent": 100 * value for key, value in kept.items()}
            found = self._judged(kept, evidence | own, algorithm)
        return replace(found, figure=lambda: drawn(target, belief))

    def _judged(self, kept: Mapping[str, float], evidence: Mapping[str, Value], algorithm: Algorithm) -> Finding:
        positive, negative, share = kept["keep_positive"], kept["keep_negative"], kept["kept"]
        remedy = _remedy(algorithm, evidence)
        numbers = f"{positive:.1%} of particle pixels and {negative:.1%} of background ({share:.1%} in all)"
        least = min(share, kept["kept_as_particle"], kept["kept_as_background"])
        if least < self.least_kept:
            lost = {share: "next to nothing", kept["kept_as_particle"]: "no particles"}.get(least, "no background")
            sentence = f"The run's own confidence filter keeps {lost}: {numbers}."
            return Finding("fail", sentence, evidence, "THRESHOLD_INERT", remedy)
        if not self.least_ratio <= positive / max(negative, 1e-9) <= self.most_ratio:
            sentence = f"The run's own confidence filter favours one class: it keeps {numbers}."
            return Finding("warn", sentence, evidence, "KEEP_ASYMMETRY", remedy)
        return Finding("ok", f"The run's own confidence filter keeps {numbers}.", evidence)


def table(target: Flags, belief: Beliefs) -> dict[str, Value]:
    """Return for thresholds of max(p, 1 − p) what is kept, of each true and each predicted class."""
    out: dict[str, Value] = {}
    for threshold in THRESHOLDS:
        kept, positive = np.maximum(belief, 1 - belief) >= threshold, belief >= 0.5
        row = {
            "kept": kept.mean(), "particle_share_of_kept": _share(target, kept),
            "particle_kept": _share(kept, target), "background_kept": _share(kept, ~target),
            "particle_purity": _share(target, kept & positive), "background_purity": _share(~target, kept & ~positive),
        }  # fmt: skip
        out |= {f"at_{threshold:g}_{key}_percent": 100 * float(v) for key, v in row.items() if v is not None}
    return out


def drawn(target: Flags, belief: Beliefs) -> str:
    """Draw which share of either class the thresholds keep."""
    kept = np.maximum(belief, 1 - belief) >= np.array(THRESHOLDS)[:, None]
    return figures.keep_rates(np.array(THRESHOLDS), kept[:, target].mean(axis=1), kept[:, ~target].mean(axis=1))


def recommended(target: Flags, belief: Beliefs, share: float = SHARE) -> dict[str, Value]:
    """Return the thresholds that keep a share of each class in the proportion of the held-out labels."""
    prior = target.mean()
    high, low = np.quantile(belief, [1 - share * prior, share * (1 - prior)])
    return {"recommended_positive_from": float(high), "recommended_negative_up_to": float(low)}


def posteriors(loss: Loss) -> dict[str, Value]:
    """Return what an output means where it was learned with the focal loss, which bends probabilities.

    Exact for a focal loss alone (arXiv 2011.09172): at its minimum the derivatives of both classes cancel.
    """
    if not loss.focal:
        return {}
    p = np.array([1 - t for t in reversed(THRESHOLDS[1:])] + list(THRESHOLDS))
    return {
        f"posterior_at_{value:.2f}_percent": 100 * float(eta) for value, eta in zip(p, posterior(p, loss), strict=True)
    }


def posterior(p: Float[np.ndarray, " n"], loss: Loss) -> Float[np.ndarray, " n"]:
    """Return the chance of a particle at which the focal loss is least for an output of ``p``."""
    gamma, alpha = loss.focal_gamma, loss.focal_alpha
    rising = gamma * (1 - p) ** (gamma - 1) * np.log(p) - (1 - p) ** gamma / p
    falling = -gamma * p ** (gamma - 1) * np.log(1 - p) + p**gamma / (1 - p)
    return (1 - alpha) * falling / (-alpha * loss.pos_weight * rising + (1 - alpha) * falling)


def own_mask(algorithm: Algorithm, target: Flags, belief: Beliefs, outcome: Outcome) -> dict[str, float] | None:
    """Return what the run's mask keeps: as it is if it has no memory, else as the last validation saw it."""
    made = algorithm.pseudo_label(torch.from_numpy(belief))
    if made is None:
        return None
    if isinstance(algorithm, PseudoLabelling) and any(True for _ in algorithm.mask.buffers()):
        watched = [one["watch"] for one in outcome.watched() if "unsupervised" in one["watch"]]
        return _recorded(watched[-1]) if watched else None
    label, weight = (part.numpy() for part in made)
    prior, particle = target.mean(), float((label * weight).mean())
    return {
        "keep_positive": float(weight[target].mean()), "keep_negative": float(weight[~target].mean()),
        "kept": float(weight.mean()), "kept_as_particle": particle / prior,
        "kept_as_background": (float(weight.mean()) - particle) / (1 - prior),
    }  # fmt: skip


def _recorded(seen: Mapping[str, float]) -> dict[str, float]:
    """Return the same from a validation; nothing is kept where it could not be measured."""
    keys = "keep_positive", "keep_negative", "pseudo_positive_share"
    positive, negative, particle = (seen.get(key) or 0.0 for key in keys)
    prior = seen.get("held_prior") or seen["prior"]
    kept = prior * positive + (1 - prior) * negative
    return {
        "keep_positive": positive, "keep_negative": negative, "kept": kept,
        "kept_as_particle": kept * particle / prior, "kept_as_background": kept * (1 - particle) / (1 - prior),
    }  # fmt: skip


def _remedy(algorithm: Algorithm, evidence: Mapping[str, Value]) -> str:
    if not isinstance(algorithm, FixMatch):
        return "--algorithm soft_teacher, which needs no filter, or more steps before unlabelled micrographs come in."
    by_class = "--set algorithm.options.mask=class --set algorithm.options.positive={recommended_positive_from:.2f} "
    by_class += "--set algorithm.options.negative={recommended_negative_up_to:.2f}"
    return f"--set algorithm.options.mask=quantile, or {by_class.format(**evidence)}."


def _said(evidence: Mapping[str, Value]) -> str:
    particle, background = (evidence[f"at_0.95_{kind}_kept_percent"] for kind in ("particle", "background"))
    return f"A threshold of .95 would keep {particle:.0f} % of particle pixels and {background:.0f} % of background."


def _share(of: Flags, among: Flags) -> float | None:
    return float(of[among].mean()) if among.any() else None
