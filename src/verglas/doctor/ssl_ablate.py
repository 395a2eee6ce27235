"""Do the unlabelled micrographs help? The training goes on for a while with them, without, and with wrong labels."""

import threading
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from verglas import train as training
from verglas.config import RunConfig
from verglas.doctor._base import Finding, RunCheck, skipped
from verglas.doctor.subject import Outcome
from verglas.ranking import standard_error
from verglas.records import Validated

Arm = Literal["without", "as_set", "wrong"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a short training ended: AP of held-out particles."""

    without: float
    as_set: float
    wrong: float
    labels: int

    @property
    def error(self) -> float:
        """The standard error of an AP; differences are smaller, as all three see the same labels."""
        return standard_error(self.without, self.labels)


class SslAblate(RunCheck):
    """Go on from the run's weights for some steps with unlabelled tiles as set, without them, and wrongly labelled.

    All three see the same labelled tiles. Wrong labels are those the teacher gives another tile. The guard is off:
    it would hide the harm.
    """

    name = "ssl_ablate"
    question = "Do the unlabelled micrographs help, beyond what any disturbance would do?"
    slow = True

    def __init__(self, *, steps: int = 100, harm: float = 0.02) -> None:
        self.steps, self.harm = steps, harm

    def check(self, outcome: Outcome) -> Finding:
        """Return how the three differ."""
        data = outcome.data
        if not data.algorithm.strong_views:
            return skipped(f"{data.algorithm.name} learns from labels alone.")
        if data.algorithm.teacher == "picks":
            return skipped(f"{data.algorithm.name} compares itself with labels alone at its end (see the records).")
        if not data.materials.unlabelled or not data.materials.held_labels:
            return skipped("There are no unlabelled micrographs, or no held-out labels.")
        return self._compared(Ended(
            _trained(outcome, self.steps, "without"), _trained(outcome, self.steps, "as_set"),
            _trained(outcome, self.steps, "wrong"), data.materials.held_labels,
        ))  # fmt: skip

    def _compared(self, end: Ended) -> Finding:
        least = max(self.harm, end.error)
        gain, signal = end.as_set - end.without, end.as_set - end.wrong
        evidence = {
            "steps": self.steps, "held_out_labels": end.labels, "ap_without": end.without, "ap_as_set": end.as_set,
            "ap_wrong_labels": end.wrong, "standard_error": end.error,
        }  # fmt: skip
        numbers = f"AP {end.as_set:.3f} with unlabelled micrographs, {end.without:.3f} without"
        if gain < -least:
            sentence = f"Unlabelled micrographs do harm: {numbers}."
            return Finding("warn", sentence, evidence, "SSL_HARM", "--algorithm supervised, or a lower weight.")
        if signal < self.harm:
            sentence = f"{numbers}, {end.wrong:.3f} with wrong pseudo-labels: these micrographs give no signal."
            return Finding("info", sentence, evidence)
        if gain > least:
            return Finding("ok", f"Unlabelled micrographs help: {numbers}.", evidence)
        return Finding("ok", f"Unlabelled micrographs make no difference beyond the error: {numbers}.", evidence)


def _trained(outcome: Outcome, steps: int, arm: Arm) -> float:
    """Train on from the run, on the processor, and return the held-out AP at the end."""
    data = outcome.data
    trainer = training.Trainer(
        _shortened(data.config, outcome, steps), data.materials, data.collection, torch.device("cpu"), lambda _: None
    )
    if arm == "without":
        trainer.guard.returns = 2  # as after harm: they stay out
    else:
        trainer.guard.opened = 0
    if arm == "wrong":
        trainer.average.register_forward_hook(_of_another)
    *_, last = (record for record in trainer.run(threading.Event()) if isinstance(record, Validated))
    return last.ap


def _of_another(network: nn.Module, given: tuple[object, ...], logits: Float[Tensor, "b 1 p q"]) -> Tensor:
    """Give each tile the logits of the one before it; validation looks at one at a time, and is not touched."""
    return logits.roll(1, 0)


def _shortened(config: RunConfig, outcome: Outcome, steps: int) -> RunConfig:
    """Return the settings of a short training from the run's weights that nothing interferes with."""
    config = config.with_train(
        steps=steps, validate_every=steps, save_every=steps, device="cpu", start_from=str(outcome.run.folder.absolute())
    )
    return replace(config, guard=replace(config.guard, active=False))
