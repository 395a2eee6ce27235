"""Whether the network can learn anything by heart: what cannot, learns nothing else."""

import math
from dataclasses import dataclass, replace

import torch

from verglas import data as loading
from verglas.batch import Labelled
from verglas.doctor._base import DataCheck, Finding, Value, skipped
from verglas.doctor._probes import neutral, smaller
from verglas.doctor.subject import Data
from verglas.model import UNet
from verglas.ranking import average_precision

CROPS, SIDE = 2, 96
LOOK_EVERY, WARM_UP = 25, 10

HIGH_RATE = 0.01
"""What is tried where the rate of the settings is too low for so few steps."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of learning by heart: AP of pixels in training mode and as it would be picked."""

    steps: int
    losses: list[float]
    ap: float
    ap_as_picked: float


class Overfit(DataCheck):
    """Train on two crops around labels, always the same, with loss and rate of the settings."""

    name = "overfit"
    question = "Can the network learn two crops by heart?"
    slow = True

    def __init__(self, *, least_ap: float = 0.9, enough_ap: float = 0.98, steps: int = 200) -> None:
        # Real and simulated sets: AP .98 after 25 to 75 steps at rates of 3e-5 to .1, with every loss and norm. With
        # targets the wrong way round in the loss: .02 to the end.
        self.least_ap, self.enough_ap, self.steps = least_ap, enough_ap, steps

    def check(self, data: Data) -> Finding:
        """Return the AP of pixels on the crops that were learned."""
        if not data.collection.complete:
            return skipped("Labels leave particles out: nothing is known to be background, so nothing can be learned "
                           "by heart.")  # fmt: skip
        how = smaller(neutral(data.cropping), SIDE, data.config.model.multiple, CROPS)
        how = replace(how, centred=1.0)
        batch = loading.labelled_batch(data.materials.labelled, how, data.generator(self.name))
        if not (batch.target.bool() & batch.known).any():
            return skipped("No particle lies in the known part of the crops.")
        rate = data.config.train.rate
        learned = self._learned(data, batch, rate)
        slow = learned.ap < self.least_ap and rate < HIGH_RATE
        if slow:
            learned = self._learned(data, batch, HIGH_RATE)
        evidence: dict[str, Value] = {
            "rate": HIGH_RATE if slow else rate, "steps": learned.steps, "pixel_ap": learned.ap,
            "pixel_ap_with_running_statistics": learned.ap_as_picked,
            "first_loss": _number(learned.losses[0]), "last_loss": _number(learned.losses[-1]),
        }  # fmt: skip
        by_heart = f"{CROPS} crops by heart in {learned.steps} steps (AP {learned.ap:.2f})"
        if learned.ap < self.least_ap:
            return Finding(
                "fail", f"After {learned.steps} steps on the same {CROPS} crops their pixels are ranked with an AP of "
                f"{learned.ap:.2f} only: the network does not learn even these.", evidence,
                "OVERFIT_FAILS", "Look at loss and rate first: --set train.rate=0.001, and the loss as it comes.",
            )  # fmt: skip
        if slow:
            return Finding("info", f"The network learns {by_heart} at a rate of {HIGH_RATE}, and not at {rate:g}: it "
                           "needs many steps, or a higher rate.", evidence)  # fmt: skip
        if learned.ap_as_picked < self.least_ap:
            return Finding("info", f"The network learns {by_heart}; with running statistics in place of the "
                           f"batch's (BN_STATS) it scores {learned.ap_as_picked:.2f} so far.", evidence)  # fmt: skip
        return Finding("ok", f"The network learns {by_heart}.", evidence)

    def _learned(self, data: Data, batch: Labelled, rate: float) -> Learned:
        settings, algorithm, model = data.config.train, data.alone, data.drawn()
        optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=settings.weight_decay)
        losses, ap = [], 0.0
        for step in range(1, self.steps + 1):
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, step / WARM_UP)
            optimiser.zero_grad()
            loss = algorithm.step(model.train(), None, batch, None, 0.0).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm or math.inf)
            optimiser.step()
            losses.append(float(loss.detach()))
            if step % LOOK_EVERY == 0:
                ap = _ap(model, batch)
                if ap >= self.enough_ap:
                    break
        return Learned(len(losses), losses, ap, _ap(model.eval(), batch))


def _ap(model: UNet, batch: Labelled) -> float:
    """Return the AP of known pixels; 0 where outputs are no numbers."""
    with torch.no_grad():
        logits = model(batch.image).float()[batch.known]
    target = batch.target[batch.known] > 0.5
    if not bool(logits.isfinite().all()):
        return 0.0
    return average_precision(target.numpy(), logits.double().numpy(), int(target.sum()))


def _number(value: float) -> Value:
    return value if math.isfinite(value) else "no number"
