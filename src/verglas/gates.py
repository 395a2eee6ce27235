"""The guard: when unlabelled micrographs may teach, and what to do when a training sickens.

Rules are data over the quantities of ``monitor``; the guard applies them at every validation. Unlabelled tiles are
let in once the model has skill. When they do harm, the training goes back to the state in which they came in and
tries once more with half their weight; when that harms too it goes back again and ends on labels alone, as the
supervised training would have ended. A student that begins anew after labels alone have taught to the end is judged at
its own end, and the one before it is shipped where that was better.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, nan, sqrt
from typing import Any, Literal

from verglas.errors import check_range
from verglas.ranking import standard_error

Action = Literal["say", "go back", "renew teacher", "lower rate", "lower weight"]
Seen = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """When unlabelled micrographs may teach.

    They come in at the first validation from ``earliest`` (share of the steps) on at which the skill in pixels,
    (AP − π)/(1 − π), reaches ``skill``; after ``latest`` they do not come in any more. They do harm where the AP
    of held-out particles stays below that at the start by ``harm``, or by two standard errors if that is more, for
    ``patience`` validations. Without ``active`` they come in at ``earliest`` and nothing is undone. A student that
    begins anew does so at the end of the steps, and does harm by ``harm`` alone.

    Where labels leave particles out there are a few held-out clicks to tell by. Skill is then 2·AUC − 1, ``skill``
    counts as reached within a standard error of it, and a student does harm by two standard errors, if that is more.
    """

    active: bool = True
    earliest: float = 0.3
    latest: float = 0.6
    skill: float = 0.2
    harm: float = 0.02
    patience: int = 2

    def __post_init__(self) -> None:
        check_range("guard", 0, 1, earliest=self.earliest, skill=self.skill, harm=self.harm)
        check_range("guard", self.earliest, 1, latest=self.latest)
        check_range("guard", 1, 1000, patience=self.patience)


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on what was seen that holds for ``evals`` validations in a row, its name, cause and remedy.

    ``early`` rules are applied from the first validation on, the others once unlabelled tiles may come in.
    """

    code: str
    verdict: str
    condition: Callable[[Seen], bool]
    evals: int
    action: Action
    remedy: str
    early: bool = False

    def holds(self, history: Sequence[Seen]) -> bool:
        """Tell whether the condition held at each of the last validations; not if something was not measured."""
        last = history[-self.evals :]
        return len(last) == self.evals and all(map(self._met, last))

    def _met(self, seen: Seen) -> bool:
        try:
            return self.condition(seen)
        except KeyError:
            return False


def _outside(value: float, low: float, high: float) -> bool:
    return isfinite(value) and not low <= value <= high


def _error(seen: Seen) -> float:
    """Return the standard error of the student's AP, as far as the number of held-out labels tells."""
    ap = seen["student_pixel_ap"]
    return standard_error(ap, seen.get("labels_seen", inf))


def _mute(seen: Seen) -> bool:
    """Tell whether the average believes the same of every pixel, though the student has learned for certain."""
    even = seen["belief_sd"] < 0.05 * sqrt(seen["prior"] * (1 - seen["prior"]))
    return even and seen["student_pixel_ap"] > 2 * _error(seen)


EARLIEST, ENOUGH = 300, 20
"""Steps before which every output is low, and held-out labels below which a flat precision says nothing: a tenth of
fewer is less than two particles. Where neither is known, it is taken to suffice."""


def _settled(seen: Seen) -> bool:
    """Tell whether the training is old enough to be judged by how high its outputs are."""
    return seen.get("step", inf) >= EARLIEST


RULES: tuple[Rule, ...] = (
    Rule("R1", "NO_SKILL", lambda s: s["average_skill"] < 0.05 and s["average_best_f1"] < 1.1 * s["average_trivial_f1"],
         3, "go back", "Look at the labels with verglas inspect: are they where the particles are?"),
    Rule("R2", "MISCALIBRATED",
         lambda s: s["average_skill"] >= 0.2 and s["average_f1_half"] < 0.5 * s["average_best_f1"] and _settled(s), 1,
         "say",
         "The ranking is sound; the threshold of the operating point corrects for it. Do not cut at 0.5."),
    Rule("R3", "INPUT_INDEPENDENT", lambda s: s["map_correlation"] > 0.5 or s["map_variance_between"] < 0.5,
         2, "go back", "The output hardly depends on the micrograph: a fault of normalisation, or a dead network.",
         early=True),
    Rule("R4", "NORM_MISMATCH", lambda s: abs(s["mode_gap"]) > 0.5 or _outside(s["mode_sd_ratio"], 0.5, 2),
         2, "say", "Running and batch statistics disagree: more steps, a larger batch, or model.norm = 'group'.",
         early=True),
    Rule("R5", "PRIOR_DRIFT", lambda s: _outside(s["pseudo_positive_share"] / max(s["held_prior"], 1e-9), 0.5, 2),
         2, "lower weight", "Pseudo-labels have another share of particles than the labels: mask = 'quantile'."),
    Rule("R6", "KEEP_ASYMMETRY", lambda s: _outside(s["keep_positive"] / max(s["keep_negative"], 1e-9), 0.5, 2),
         1, "say", "The mask keeps one class and drops the other: mask = 'quantile', or soft_teacher without one."),
    Rule("R8", "TEACHER_STALE",
         lambda s: s["average_pixel_ap"] < s["student_pixel_ap"] - max(0.1, 2 * _error(s))
         or _outside(s["weight_norm_ratio"], 0.8, 1.25)
         or _mute(s), 1, "renew teacher",
         "A lower train.average lets the teacher follow faster."),
    Rule("R9", "NOOP_UNSUP", lambda s: s["unsupervised"] == 0, 1, "say",
         "The unlabelled term is exactly zero: views are identical, or nothing is kept."),
    Rule("R10", "LR_TOO_HIGH", lambda s: s["clip_rate"] > 0.5 and s["clipped_steps"] >= 500, 1, "lower rate",
         "Gradients are clipped most of the time: lower train.rate."),
    Rule("R11", "PU_CEILING",
         lambda s: s["average_skill"] >= 0.2 and s["centre_belief"] < 0.6 and _settled(s)
         and abs(s["precision_early"] - s["precision_late"]) < 0.1 and s.get("labels_seen", inf) >= ENOUGH, 1, "say",
         "Even labelled particles are believed in by less than 0.6: labels leave particles out. "
         "Give --labels-are partial."),
)  # fmt: skip
"""What is watched for (thresholds of SIMULATED calibrations: see the method page). R7, harm, needs memory."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a rule found, and what the trainer is to do."""

    code: str
    verdict: str
    action: Action
    sentence: str


@dataclass(slots=True)
class Guard:
    """The memory of a training: whether unlabelled tiles are in, since when, and what was seen since."""

    settings: GuardSettings
    steps: int
    opened: int | None = None
    ap_at_opening: float = nan
    returns: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def closed(self) -> bool:
        """Whether unlabelled tiles have done harm twice, and stay out."""
        return self.returns > 1

    def opens(self, step: int, ap: float, seen: Seen, *, at_end: bool = False) -> bool:
        """Let unlabelled tiles in at this step, if it is time and the model has skill; tell whether.

        It is time between ``earliest`` and ``latest``, or ``at_end`` once the training on labels is over.
        """
        early, late = self.settings.earliest * self.steps, self.settings.latest * self.steps
        due = step >= self.steps if at_end else early <= step <= late
        skill = seen.get("average_skill", nan) + seen.get("average_skill_error", 0.0)
        able = not self.settings.active or skill >= self.settings.skill
        if self.opened is not None or self.closed or not due or not able:
            return False
        self.begin(step, ap, self.steps)
        return True

    def progress(self, step: int) -> float | None:
        """Return how much of the stage of unlabelled tiles is over, from 0 to 1; None outside it."""
        return None if self.opened is None else (step - self.opened) / max(1, self.steps - self.opened)

    def judge(self, ap: float, labels: int, seen: Seen, *, early: bool = False) -> list[Ruling]:
        """Apply every rule to the latest validation and return what to do; a verdict is given once a stage.

        While it is ``early`` only those rules count that can tell a fault at once.
        """
        self.history.append(dict(seen) | {"ap": ap, "labels": labels, "early": early})
        later = [one for one in self.history if not one["early"]]
        found = [
            Ruling(r.code, r.verdict, r.action, r.remedy) for r in RULES if r.holds(self.history if r.early else later)
        ]
        if self._harm():
            sentence = f"AP {ap:.3f} on held-out labels, {self.ap_at_opening:.3f} when unlabelled tiles came in"
            found.append(Ruling("R7", "SSL_HARM", "go back", sentence))
        fresh = [ruling for ruling in found if ruling.code not in self.said]
        self.said += [ruling.code for ruling in fresh]
        return [self._tempered(ruling) for ruling in fresh]

    def begin(self, step: int, ap: float, until: int) -> None:
        """Watch a new stage from this step to ``until``; ``ap`` is that of the state it is held to."""
        self.opened, self.ap_at_opening, self.steps, self.history, self.said = step, ap, until, [], []

    def outdone(self, ap: float, clicks: float = inf) -> Ruling | None:
        """Judge a student that began anew and has learned all it will: harm, if the one before was better by ``harm``.

        Both are held to the same labels, so their difference errs less than either; not so where these are a few
        ``clicks`` among particles that were not clicked.
        """
        margin = max(self.settings.harm, 2 * standard_error(self.ap_at_opening, clicks))
        if not self.settings.active or not ap < self.ap_at_opening - margin:
            return None
        sentence = f"AP {ap:.3f} on held-out labels, {self.ap_at_opening:.3f} before this student"
        return Ruling("R7", "SSL_HARM", "go back", sentence)

    def go_back(self) -> int:
        """Close the stage after harm, for good the second time; return the step to go back to."""
        assert self.opened is not None, "only an open stage can end"
        step, self.opened, self.history, self.said = self.opened, None, [], []
        self.returns += 1
        return step

    def state(self) -> dict[str, Any]:
        """Return the memory in plain types."""
        return {name: getattr(self, name) for name in ("opened", "ap_at_opening", "returns", "history", "said")}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        for name, value in state.items():
            setattr(self, name, value)

    def _harm(self) -> bool:
        """Rule R7: held-out AP below that at the opening, beyond its error, several times in a row (SCIENCE)."""
        last = self.history[-self.settings.patience :]
        if self.opened is None or len(last) < self.settings.patience:
            return False
        start = self.ap_at_opening
        margin = max(2 * standard_error(start, last[-1]["labels"]), self.settings.harm)
        return all(one["ap"] < start - margin for one in last)

    def _tempered(self, ruling: Ruling) -> Ruling:
        """Only say it outside the stage: supervised training is not interfered with."""
        idle = not self.settings.active or self.opened is None
        return Ruling(ruling.code, ruling.verdict, "say", ruling.sentence) if idle else ruling
