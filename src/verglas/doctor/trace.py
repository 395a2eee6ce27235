"""What the records of a training tell: whether it learned, diverged, sickened, or was harmed by unlabelled tiles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import nan, sqrt
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn

from verglas.config import STARTS
from verglas.doctor import figures
from verglas.doctor._base import Finding, RunCheck, skipped
from verglas.doctor._kinds import Kind, Seen, first
from verglas.doctor.subject import Outcome
from verglas.gates import RULES
from verglas.ranking import standard_error

WATCHED = {rule.code: rule for rule in RULES if rule.code in ("R1", "R2", "R3", "R4", "R8", "R10")}

SLOWER = "--set train.rate=0.001"


def _rule(code: str) -> Callable[[Seen], bool]:
    """Return the condition that a rule of the guard holds at the end."""
    return lambda s: s[code] > 0


def _stale(s: Seen) -> bool:
    """Tell whether the average is behind a student that has learned: behind one that has not is nowhere."""
    return s["R8"] > 1 and s.get("student_skill", 1.0) >= 0.05


KINDS: tuple[Kind, ...] = (
    Kind("fail", "LR_TOO_HIGH", lambda s: s["weight_growth"] > 10,
         "At a rate of {peak_rate:.3g} weights have grown to {weight_growth:.0f} times what they were at the start: "
         "they jump instead of settling.", SLOWER),
    Kind("fail", "LR_TOO_HIGH", lambda s: s["peak_rate"] >= 0.03 and s["exploded"] > 0,
         "The loss was {first_loss:.3g} at first and is {last_loss:.3g}, at a rate of {peak_rate:.3g}.", SLOWER),
    Kind("fail", "LR_TOO_HIGH", lambda s: s["peak_rate"] >= 0.3 and "weight_growth" not in s,
         "The rate is {peak_rate:.3g}: AdamW moves a weight by about that much at each step, more than its size.",
         SLOWER),
    Kind("fail", "DIVERGED", lambda s: s["exploded"] > 0,
         "The loss was {first_loss:.3g} at first and is {last_loss:.3g}.",
         SLOWER + " --set train.precision=float32; are there odd values in a micrograph?"),
    Kind("fail", "INPUT_INDEPENDENT", _rule("R3"),
         "Maps of different micrographs have become nearly the same (correlation {map_correlation:.2f}): the output "
         "hardly depends on what is shown.", "verglas doctor check norm_parity, then bn_mode", 50),
    Kind("fail", "TEACHER_STALE", _stale,
         "The averaged model, which teaches and is shipped, does not follow the student: AP of pixels "
         "{average_pixel_ap:.2f} against {student_pixel_ap:.2f}, norm of weights {weight_norm_ratio:.2f} times.",
         "--set train.average=0.02, or lower", 50),
    Kind("fail", "NO_SKILL", lambda s: "R1" in s or max(s["average_skill"], s["student_skill"]) < 0.05,
         "Nothing was learned: at the last validations AP of pixels is {average_pixel_ap:.2f}, best F1 "
         "{average_best_f1:.2f} where calling all particle has {average_trivial_f1:.2f}; the loss went from "
         "{first_loss:.3g} to {last_loss:.3g}.", "verglas inspect, then verglas doctor check overfit.", 300),
    Kind("fail", "NOOP_UNSUP", lambda s: s["unsupervised_zero"] > 0,
         "The loss on unlabelled tiles was exactly zero at each validation: views are identical, or nothing is kept.",
         "verglas doctor check consistency; --set algorithm.options.mask=quantile."),
    Kind("warn", "SSL_HARM", lambda s: s["last_best_ap"] < s["opening_ap"] - max(2 * s["opening_error"], 0.02),
         "Since unlabelled micrographs came in after step {opening_step:.0f}, AP on held-out labels fell from "
         "{opening_ap:.2f} to {last_ap:.2f}.", "--algorithm supervised, or --set guard.active=true."),
    Kind("info", "NORM_MISMATCH", _rule("R4"),
         "Running and batch statistics of the model in training disagree at the last validations: mean logits by "
         "{mode_gap:.2f}, their spread is {mode_sd_ratio:.2f} times the other.",
         "More steps, a larger train.batch, or --set model.norm=group.", 50),
    Kind("warn", "LR_TOO_HIGH", _rule("R10"),
         "Gradients were clipped in {clip_rate:.0%} of the last 500 steps.", SLOWER),
    Kind("info", "SSL_HARM", lambda s: s["undone"] > 0,
         "What is not labelled did harm, and the guard went back to before it taught; AP on held-out labels ended at "
         "{last_ap:.2f}."),
    Kind("info", "MISCALIBRATED", _rule("R2"),
         "Particles are ranked well (AP of pixels {average_pixel_ap:.2f}) and F1 at .5 is low ({average_f1_half:.2f} "
         "of {average_best_f1:.2f}). That is no collapse: the threshold is chosen on held-out labels.", "", 300),
)  # fmt: skip
"""The gravest first. Healthy runs on four real sets and simulated ones: weights grow 1.01 to 1.04 times (rate .1: 8, 1:
42), mean logits differ by .30 at most and their spread by .82 to 1.33 from step 100 on, clip rate at most .03."""


class Trace(RunCheck):
    """Apply the guard's rules to the records. What held for a while and no longer does is history, not a fault."""

    name = "trace"
    question = "Did the training go as it should?"
    finished = False

    def check(self, outcome: Outcome) -> Finding:
        """Return what was found."""
        told = [record for record in outcome.records if record["kind"] == "progress"]
        if not told:
            return skipped("The training has no records of steps yet.")
        validated = _last_way(outcome.watched())
        history = [_known(record["watch"]) for record in validated]
        patience, anew = outcome.data.config.guard.patience, outcome.data.config.train.start_from in STARTS
        steps = outcome.own_steps(int(told[-1]["step"]))
        last = [record for record in told if record["step"] > told[-1]["step"] - steps]
        seen = _loss(last, anew) | _validations(validated, history, patience) | _ruled(history)
        seen |= {"weight_growth": _growth(outcome)} if outcome.finished else {}
        seen |= {"undone": float(any(r["kind"] == "ruled" and r["action"] == "go back" for r in outcome.records))}

        def drawn() -> str:
            return _drawn(validated, history)

        found = first(KINDS, seen | {"steps": steps}, steps)
        if found is not None:
            return replace(found, figure=drawn)
        numbers = {key: value for key, value in seen.items() if np.isfinite(value)}
        return _fine(numbers | {"steps": steps}, history, drawn)


def _known(watch: Mapping[str, float | None]) -> dict[str, float]:
    """Return what was measured: records write what is not a number as nothing."""
    return {key: float(value) for key, value in watch.items() if value is not None}


def _last_way(validated: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what the guard went back over."""
    way: list[dict[str, Any]] = []
    for record in validated:
        while way and way[-1]["step"] >= record["step"]:
            way.pop()
        way.append(record)
    return way


def _loss(told: Sequence[Mapping[str, Any]], anew: bool) -> dict[str, float]:
    """Return the loss on labels at first and in the last tenth, and whether it exploded.

    A training that goes on from another run may start with a loss that it does not reach again on other labels.
    """
    each = [t["watch"].get("supervised") if "unsupervised" in t["watch"] else t["loss"] for t in told]
    loss = np.array([nan if value is None else value for value in each], float)
    begin, end = float(loss[0]), float(np.median(loss[-max(1, len(loss) // 10) :]))
    exploded = not np.isfinite(loss).all() or (anew and end > 2 * begin)
    return {
        "first_loss": begin, "last_loss": end, "exploded": float(exploded),
        "peak_rate": max(float(t["rate"]) for t in told),
    }  # fmt: skip


def _validations(validated: Sequence[Mapping[str, Any]], history: Sequence[Seen], patience: int) -> dict[str, float]:
    """Return the last of what was watched, and AP on held-out labels before and after unlabelled tiles came in."""
    if not history:
        return {}
    ap = _ap(validated)
    keys = (
        "average_pixel_ap", "student_pixel_ap", "average_skill", "student_skill", "average_best_f1", "average_f1_half",
        "average_trivial_f1", "mode_gap", "mode_sd_ratio", "map_correlation", "weight_norm_ratio", "clip_rate",
        "labels_seen",
    )  # fmt: skip
    seen = {key: history[-1][key] for key in keys if key in history[-1]} | {"last_ap": float(ap[-1])}
    inside = [i for i, one in enumerate(history) if "unsupervised" in one]
    if inside:
        at = inside[0] - 1
        seen["unsupervised_zero"] = float(all(history[i]["unsupervised"] == 0 for i in inside))
        if at >= 0 and len(inside) >= patience:
            start, labels = float(ap[at]), max(1.0, history[-1].get("labels_seen", 1.0))
            seen |= {"opening_step": float(validated[at]["step"]), "opening_ap": start,
                     "opening_error": standard_error(start, labels),
                     "last_best_ap": float(np.max(ap[-patience:]))}  # fmt: skip
    return seen


def _ap(validated: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, " n"]:
    return np.array([nan if record["ap"] is None else record["ap"] for record in validated], float)


def _ruled(history: Sequence[Seen]) -> dict[str, float]:
    """Return the rules that hold at the end, each with at how many of the last two validations."""
    ends = [history, history[:-1] or history]
    return {code: float(sum(map(rule.holds, ends))) for code, rule in WATCHED.items() if rule.holds(history)}


def _growth(outcome: Outcome) -> float:
    """Return the norm of the weights in the end as a multiple of that at the start."""
    return _norm(outcome.picker.network) / max(_norm(outcome.data.network()), 1e-9)


def _norm(model: nn.Module) -> float:
    return sqrt(sum(float(p.detach().float().pow(2).sum()) for p in model.parameters() if p.ndim > 1))


def _fine(seen: Mapping[str, float], history: Sequence[Seen], drawn: Callable[[], str]) -> Finding:
    """Say how it went, and which rules held only on the way; every output starts too low for a cut at .5."""
    once = [
        rule.verdict for code, rule in WATCHED.items()
        if code not in {"R2", *seen} and any(rule.holds(history[:end]) for end in range(1, len(history)))
    ]  # fmt: skip
    went = "The loss on labels went from {first_loss:.3g} to {last_loss:.3g}".format_map(seen)
    went += f", AP on held-out labels to {seen['last_ap']:.2f}." if "last_ap" in seen else "."
    if once:
        passed = f" On the way there was {', '.join(once)}, which passed."
        return Finding("info", went + passed, seen, figure=drawn)
    return Finding("ok", went, seen, figure=drawn)


def _drawn(validated: Sequence[Mapping[str, Any]], history: Sequence[Seen]) -> str:
    if not history:
        return ""
    shown = {"AP of pixels, average": "average_pixel_ap", "of the student": "student_pixel_ap"}
    curves = {name: np.array([one.get(key, nan) for one in history]) for name, key in shown.items()}
    step = np.array([record["step"] for record in validated])
    before = sum("unsupervised" not in one for one in history)
    marks = {"unlabelled in after": int(step[before - 1])} if 0 < before < len(history) else {}
    return figures.over_steps(step, {"AP of picks": _ap(validated)} | curves, marks=marks, limits=(0, 1.02))
