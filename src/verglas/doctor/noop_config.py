"""Whether settings do nothing, or add up to something that none of them shows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from verglas import losses
from verglas.doctor._base import DataCheck, Finding, Value
from verglas.doctor.subject import Data
from verglas.errors import InputError
from verglas.materials import unlabelled_names
from verglas.ssl import Algorithm
from verglas.ssl._base import Consistent
from verglas.ssl.fixmatch import FixMatch, PseudoLabelling
from verglas.ssl.pu import PositiveUnlabelled
from verglas.ssl.thresholds import ByClass, Fixed, Mask, Quantile

READ = {
    "fixmatch": ("mask", {"quantile": {"share"}, "fixed": {"threshold"}, "class": {"positive", "negative"}}),
    "pu": ("risk", {"ge_binomial": {"slack", "pitch"}}),
}
"""By algorithm, the option that decides which others are read, and which these are."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A way in which a filter does nothing of its own: when, and what then holds."""

    holds: Callable[[Mask | None], bool]
    sentence: str


def _fixed(mask: Mask | None) -> bool:
    return isinstance(mask, Fixed) and mask.threshold <= 0.5


def _touching(mask: Mask | None) -> bool:
    return isinstance(mask, ByClass) and mask.positive == mask.negative


def _mirrored(mask: Mask | None) -> bool:
    """Within rounding: 1 - .95 is not .05."""
    return isinstance(mask, ByClass) and abs(mask.positive + mask.negative - 1) < 1e-6


def _whole(mask: Mask | None) -> bool:
    return isinstance(mask, Quantile) and mask.share == 1


IDENTITIES = (
    Identity(_fixed, "max(p, 1 - p) = .5 + |p - .5| is never below .5: every pixel is kept"),
    Identity(_touching, "p >= t or p <= t always holds: every pixel is kept"),
    Identity(_mirrored, "p >= t or p <= 1 - t is max(p, 1 - p) >= t: one fixed threshold, none by class"),
    Identity(_whole, "the surest share of 1 of each class is every pixel"),
)


class NoopConfig(DataCheck):
    """Look for filters that keep everything, unlabelled micrographs that never come in, options that nothing reads."""

    name = "noop_config"
    question = "Does every setting do what it says?"

    def check(self, data: Data) -> Finding:
        """Return the first setting that does nothing, with the odds and the constant output that the loss asks for."""
        evidence, algorithm = _evidence(data), data.algorithm
        for code, sentence, remedy, more in _found(data, algorithm):
            return Finding("warn", sentence, {**evidence, **more}, code, remedy)
        weighs = f"The loss weighs a positive pixel {evidence['odds_of_positives']:.3g} : 1 against a negative one"
        best = f"; of constant outputs it likes {evidence['best_constant']:.2f} best" if "prior" in evidence else ""
        return Finding("ok", f"Every setting of {algorithm.name} is in use. {weighs}{best}.", evidence)


Noop = tuple[str, str, str, Mapping[str, Value]]
"""Code, sentence, remedy, and what else is evidence."""


def _found(data: Data, algorithm: Algorithm) -> Iterator[Noop]:
    if algorithm.strong_views and data.config.algorithm.name != "auto":  # else nobody asked for it
        wanted = "unlabelled micrographs" if data.collection.complete else "to pick what was clicked on"
        for sentence, remedy in _inactive(data, algorithm):
            yield "UNSUP_INACTIVE", f"{algorithm.name} wants {wanted}, but {sentence}.", remedy, {}
    said = data.config.algorithm.options.get("mask") == "none"  # who asks for no filter knows that there is none
    mask = algorithm.mask if isinstance(algorithm, PseudoLabelling) and not said else None
    for identity in IDENTITIES:
        if identity.holds(mask):
            threshold = mask.positive if isinstance(mask, ByClass) else 0.5
            more: dict[str, Value] = {"identity": identity.sentence, "effective_threshold": threshold}
            remedy = "share=0.8" if isinstance(mask, Quantile) else "mask=quantile"
            remedy = f"--set algorithm.options.{remedy}"
            yield "THRESHOLD_NOOP", f"The filter of pseudo-labels does nothing: {identity.sentence}.", remedy, more
    unread = sorted(_unread(data, algorithm))
    if unread:
        yield "OPTION_UNUSED", f"{', '.join(unread)}: set, but not read with these settings.", \
            f"Remove {', '.join(unread)}, or set what reads it.", {"unused": ", ".join(unread)}  # fmt: skip


def _inactive(data: Data, algorithm: Algorithm) -> Iterator[tuple[str, str]]:
    """Yield why unlabelled micrographs, or those that clicks leave unlabelled in part, never teach, and what helps."""
    guard, train = data.config.guard, data.config.train
    opening = [*range(train.validate_every, train.steps, train.validate_every)]

    def in_time(step: int) -> bool:
        return guard.earliest * train.steps <= step <= guard.latest * train.steps

    if data.collection.complete and not unlabelled_names(data.collection):
        yield "there are none", "Give micrographs without labels, too, or --algorithm supervised."
    elif data.collection.complete and isinstance(algorithm, Consistent) and algorithm.weight == 0:
        yield "their weight is 0", "--set algorithm.options.weight=1"
    elif algorithm.teacher != "picks" and not any(map(in_time, opening)):
        when = f"from {guard.earliest:g} to {guard.latest:g} of {train.steps} steps, of which none is validated"
        yield (
            f"they may come in {when} (every {train.validate_every})",
            "--set train.validate_every=20, or more --steps.",
        )
    elif guard.active and not data.holdout.areas:
        yield "too few labels are held out to tell when to let them in", "Label more, or --set guard.active=false."


def _unread(data: Data, algorithm: Algorithm) -> Iterator[str]:
    options, loss = data.config.algorithm.options, data.config.loss
    if isinstance(algorithm, FixMatch | PositiveUnlabelled):
        chooser, read = READ[algorithm.name]
        chosen = options.get(chooser, {"mask": "quantile", "risk": "nnpu"}[chooser])
        others = set[str]().union(*read.values()) - read.get(chosen, set())
        yield from (f"algorithm.options.{name}" for name in others & options.keys())
    if algorithm.teacher == "picks" and not data.collection.complete:  # labels are all that its student learns from
        yield from (f"algorithm.options.{name}" for name in ("weight", "ramp_until", "cutmix") if name in options)
    plain = losses.Loss()
    reads = {
        "focal_alpha": loss.focal, "focal_gamma": loss.focal, "pos_weight": loss.focal + loss.bce,
        "tversky_fp": loss.tversky, "tversky_fn": loss.tversky,
    }  # fmt: skip
    yield from (
        f"loss.{key}" for key, weight in reads.items() if not weight and getattr(loss, key) != getattr(plain, key)
    )


def _evidence(data: Data) -> dict[str, Value]:
    loss = data.config.loss
    balance = loss.focal_alpha / (1 - loss.focal_alpha) if loss.focal else 1.0
    seen: dict[str, Value] = {"odds_of_positives": balance * loss.pos_weight}
    try:
        prior = data.materials.prior
    except InputError:
        return seen
    if data.collection.complete:
        seen |= {"prior": prior, "best_constant": best_constant(loss, prior), "trivial_f1": 2 * prior / (1 + prior)}
    return seen


def best_constant(loss: losses.Loss, prior: float, pixels: int = 4000) -> float:
    """Return the probability that has the least loss where it is given to every pixel."""
    target = (torch.arange(pixels) < round(prior * pixels)).float()[None, None, None]
    logits = torch.linspace(-8, 8, 321)
    values = [float(loss(torch.full_like(target, float(x)), target, torch.ones_like(target) > 0)) for x in logits]
    return float(logits[int(torch.tensor(values).argmin())].sigmoid())
