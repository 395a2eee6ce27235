"""How much learning the budget holds, and why more data do not mean larger gradients."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verglas import data as loading
from verglas.batch import Labelled
from verglas.doctor._base import DataCheck, Finding, Value
from verglas.doctor._probes import smaller
from verglas.doctor.subject import Data

CROPS, SIDE = 16, 64
SIZES = (1, 4, 16)


class GradScale(DataCheck):
    """Average the first gradient over 1, 4 and 16 crops: E|g|² = |μ|² + tr(Σ)/N falls with N."""

    name = "gradscale"
    question = "How many steps and crops does the budget hold, and how do gradients depend on the data?"
    slow = True

    def check(self, data: Data) -> Finding:
        """Return the numbers; there is nothing here that could be a fault."""
        c = data.config
        how = smaller(data.cropping, SIDE, c.model.multiple, CROPS)
        batch = loading.labelled_batch(data.materials.labelled, how, data.generator(self.name))
        norms = _norms(data, batch)
        labels = sum(len(stored.centres) for stored in data.materials.labelled)
        area = sum(math.prod(stored.shape) for stored in data.materials.labelled)
        shown = c.train.steps * c.train.batch
        evidence: dict[str, Value] = {
            "steps": c.train.steps, "crops_per_step": c.train.batch, "labels": labels,
            "labelled_area_shown_times": shown * c.train.crop**2 / max(1, area),
            "crops_per_label": shown / max(1, labels), "sum_of_rates": _sum_of_rates(data),
            **{f"gradient_norm_of_{n}_crops": norm for n, norm in zip(SIZES, norms, strict=True)},
        }  # fmt: skip
        trend = f"{norms[0]:.2g} for one crop, {norms[-1]:.2g} for {SIZES[-1]}"
        return Finding("info", f"{c.train.steps} steps of {c.train.batch} crops show the labelled area "
                       f"{evidence['labelled_area_shown_times']:.0f} times. The gradient's norm is {trend}: more data "
                       "average it, and what moves the weights is the number of steps.", evidence)  # fmt: skip


def _norms(data: Data, batch: Labelled) -> list[float]:
    """Return the root mean square norm of gradients averaged over so many crops, batch statistics left alone."""
    model, algorithm = data.network().eval(), data.alone
    each = []
    for i in range(CROPS):
        model.zero_grad()
        one = Labelled(*(getattr(batch, part)[i : i + 1] for part in ("image", "target", "known", "unseen")))
        algorithm.step(model, None, one, None, 0.0).loss.backward()
        each.append(_flat([p.grad for p in model.parameters() if p.grad is not None]))
    gradients = torch.stack(each)
    return [float(gradients.unflatten(0, (-1, n)).mean(1).pow(2).sum(1).mean().sqrt()) for n in SIZES]


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def _sum_of_rates(data: Data) -> float:
    """Return the sum of the rates of all steps: about how far Adam can move a weight."""
    s = data.config.train
    warm = [min(1.0, (step + 1) / max(1.0, s.warmup * s.steps)) for step in range(s.steps)]
    turned = [0.5 * (1 + math.cos(math.pi * step / s.steps)) for step in range(s.steps)]
    fallen = [s.last_rate + (1 - s.last_rate) * part for part in turned]
    return s.rate * sum(map(math.prod, zip(warm, fallen, strict=True)))
