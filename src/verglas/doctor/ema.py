"""Whether the running average of the weights, which teaches and is shipped, follows the student."""

import math

import torch
from torch import Tensor, nn

from verglas import train as training
from verglas.doctor._base import DataCheck, Finding, Value
from verglas.doctor.subject import Data

STEPS = 6
MOST_STEPS = 20_000
"""Updates that are tried at most; a residual still there is carried on at its last rate."""


class Ema(DataCheck):
    """Apply the update of the average to a batch norm of one channel: weight, statistics, and a count of batches."""

    name = "ema"
    question = "Does the averaged model follow the student, statistics included?"

    def __init__(self, *, most_residual: float = 0.1) -> None:
        # Healthy: the initial weights are gone after the first update, whatever the span.
        self.most_residual = most_residual

    def check(self, data: Data) -> Finding:
        """Return what is left of the initial weights when they matter, and how fast the average follows."""
        settings = data.config.train
        span = settings.average * settings.steps
        first = max(1, round(data.config.guard.earliest * settings.steps))
        use = first if data.algorithm.teacher == "average" else settings.steps
        weights, buffers = _residual(first, span)
        at_end, _ = _residual(settings.steps, span)
        apart, counted = _apart(span)
        evidence: dict[str, Value] = {
            "span_steps": span, "first_use_step": use, "residual_at_first_use": _number(weights),
            "residual_at_end": _number(at_end), "buffers_residual_at_first_use": _number(buffers),
            "buffers_apart_from_weights": _number(apart), "half_life_steps": _half_life(settings.steps, span),
        }  # fmt: skip
        left = weights if data.algorithm.teacher == "average" else at_end
        if not -0.01 <= left <= 1.01:
            return Finding("fail", "The averaged weights fade or become no numbers, whatever the student is.",
                           evidence, "TEACHER_DEAD", "Move the average in place, as train.update_average does: "
                           "a·average + (1 − a)·student.")  # fmt: skip
        if left > self.most_residual:
            what = "is never updated" if left > 0.999 else f"is {left:.0%} initial weights at step {use}, its first use"
            return Finding("fail", f"The averaged model {what}.", evidence,
                           "TEACHER_STALE", "--set train.average=0.02, with a factor that begins at 0.")  # fmt: skip
        if not (apart < 0.01 and counted):
            what = "count of batches does not" if apart < 0.01 else "batch statistics do not move alike"
            return Finding("fail", f"The averaged model follows the student's weights, but its {what}.", evidence,
                           "TEACHER_BUFFERS", "Average floating-point buffers with the weights and copy counts, or "
                           "--set model.norm=group.")  # fmt: skip
        return Finding("ok", f"The averaged model forgets its beginning (residual {left:.2f} at step {use}) and "
                       "follows weights and statistics alike.", evidence)  # fmt: skip


def _pair() -> tuple[nn.BatchNorm1d, nn.BatchNorm1d]:
    """Return average and student, all of whose floating-point state is 1."""
    average, student = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    for module in (average, student):
        _set(module, 1.0)
    return average, student


def _set(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(value)


def _read(module: nn.Module, name: str) -> float:
    tensor: Tensor = module.state_dict()[name]
    return float(tensor.reshape(-1)[0])


def _residual(steps: int, span: float) -> tuple[float, float]:
    """Return how much of the initial weight and running mean is left after so many updates to a constant student."""
    average, student = _pair()
    _set(student, 2.0)
    before = left = buffers = 1.0
    for step in range(min(steps, MOST_STEPS)):
        training.update_average(average, student, step, span)
        before, left = left, 2 - _read(average, "weight")
        buffers = 2 - _read(average, "running_mean")
        if not math.isfinite(left) or max(abs(left), abs(buffers)) < 1e-4:
            break
    if steps > MOST_STEPS and 0 < left < before:
        left *= math.exp(max(-50.0, (steps - MOST_STEPS) * math.log(left / before)))
    return left, buffers


def _apart(span: float) -> tuple[float, bool]:
    """Return how far averaged statistics move from averaged weights that were the same, and whether counts follow."""
    average, student = _pair()
    worst = 0.0
    for step in range(STEPS):
        _set(student, float(step + 2))
        training.update_average(average, student, step, span)
        found = [_read(average, name) for name in ("weight", "running_mean", "running_var")]
        worst = max(worst, *(abs(one - found[0]) for one in found))
    return worst, _read(average, "num_batches_tracked") == STEPS + 1


def _half_life(steps: int, span: float) -> float:
    """Return how many late steps it takes the average to come half-way to a new student."""
    average, student = _pair()
    _set(student, 2.0)
    training.update_average(average, student, steps, span)
    kept = 2 - _read(average, "weight")
    return math.log(0.5) / math.log(kept) if 0 < kept < 1 else 0.0


def _number(value: float) -> Value:
    return value if math.isfinite(value) else "no number"
