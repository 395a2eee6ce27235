"""Whether the network begins where it can learn."""

import math

import torch
from torch import Tensor, nn

from verglas import data as loading
from verglas.batch import Labelled
from verglas.doctor._base import DataCheck, Finding, Value
from verglas.doctor.subject import Data
from verglas.losses import Loss

CONSTANTS = torch.linspace(-8, 8, 161)
"""Logits among which the best constant output is sought."""


class Init(DataCheck):
    """Take the first step's loss and gradient, without taking the step."""

    name = "init"
    question = "Does the network begin near the share of positives, with a gradient and a fitting rate?"

    def __init__(
        self, *, most_off: float = 3.0, rather_off: float = 0.75, least_gradient: float = 1e-6, most_moved: float = 1.0
    ) -> None:
        # Real and simulated sets, all norms and losses: off by .03 at most, gradient of the head .014 to 2.
        # One step at the full rate moves weights by .02 of their size; at 1.8 (rate .1) they grow eightfold.
        self.most_off, self.rather_off, self.least_gradient = most_off, rather_off, least_gradient
        self.most_moved = most_moved

    def check(self, data: Data) -> Finding:
        """Return where the outputs begin, in logits."""
        model = data.network().train()
        batch = loading.labelled_batch(data.materials.labelled, data.cropping, data.generator(self.name))
        with torch.no_grad():
            logits = model(batch.image).float()
        loss = data.alone.step(model, None, batch, None, 0.0).loss
        loss.backward()
        gradient = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in model.head.parameters() if p.grad is not None))
        prior = min(max(data.materials.prior, 0.005), 0.5)  # the network keeps within these
        wanted, mean = math.log(prior / (1 - prior)), float(logits.mean())
        numbers = {
            "mean_logit": mean, "logit_of_prior": wanted, "logit_sd": float(logits.std()), "loss": float(loss.detach()),
            "best_constant_loss": _best_constant(data.config.loss, batch), "head_gradient_norm": gradient,
            "step_over_weight": data.config.train.rate / _size_of_weights(model),
        }  # fmt: skip
        evidence: dict[str, Value] = {k: v if math.isfinite(v) else "no number" for k, v in numbers.items()}
        off = abs(mean - wanted)
        sound = all(map(math.isfinite, numbers.values()))
        if numbers["step_over_weight"] > self.most_moved:
            sentence = f"At a rate of {data.config.train.rate:g} AdamW moves each weight by about that much at a step: "
            sentence += f"{numbers['step_over_weight']:.1f} times the size of a weight."
            return Finding("fail", sentence, evidence, "LR_TOO_HIGH", "--set train.rate=0.001")
        if data.start is not None and sound and gradient >= self.least_gradient:
            whose = "the general network" if data.start.any_particle else "another run"
            sentence = f"Weights are those of {whose}; the mean logit is {mean:.2f} for {wanted:.2f}, with a gradient."
            return Finding("info", sentence, evidence)
        if not (sound and off <= self.most_off and gradient >= self.least_gradient):
            return Finding(
                "fail", f"The output begins at a mean logit of {mean:.2f}, where {wanted:.2f} is the share of "
                f"positives, with a gradient of {gradient:.2g} in the last layer: it hardly learns from there.",
                evidence, "DEAD_OUTPUT", "Start the bias of the last layer at the logit of the share of positives.",
            )  # fmt: skip
        if off > self.rather_off:
            return Finding("warn", f"The output begins {off:.1f} logits from the share of positives; the first steps "
                           "go into unlearning that.", evidence, "INIT_OFF",
                           "Start the bias of the last layer at the logit of the share of positives.")  # fmt: skip
        return Finding("ok", f"The output begins at the share of positives (mean logit {mean:.2f} for {wanted:.2f}), "
                       "with a gradient. F1 at 0.5 is 0 or trivial now, and means nothing.", evidence)  # fmt: skip


def _size_of_weights(model: nn.Module) -> float:
    """Return the root of the mean square of all weights but biases and norms."""
    weights = torch.cat([p.detach().flatten() for p in model.parameters() if p.ndim > 1])
    return float(weights.pow(2).mean().sqrt().clamp(min=1e-9))


def _best_constant(loss: Loss, batch: Labelled) -> float:
    """Return the least loss that an output without any look at the picture can have."""

    def at(logit: Tensor) -> float:
        return float(loss(torch.full_like(batch.target, float(logit)), batch.target, batch.known))

    return min(map(at, CONSTANTS))
