"""Learn strong views with hard pseudo-labels where the teacher is sure (Sohn et al., arXiv 2001.07685)."""

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from verglas.batch import Labelled, Unlabelled
from verglas.errors import check_choice
from verglas.losses import Loss, bce
from verglas.ssl._base import Consistent, Network, Terms, belief_of, together
from verglas.ssl.thresholds import MEMORY, ByClass, Fixed, Free, Mask, Quantile, Soft, Weighted

MaskName = Literal["quantile", "fixed", "class", "none", "weighted", "free", "soft"]
MASKS: tuple[str, ...] = get_args(MaskName)
"""Ways to decide which pseudo-labels count."""

Agreement = tuple[Float[Tensor, "a 1 p q"], Float[Tensor, ""]]


class PseudoLabelling(Consistent, ABC):
    """What algorithms with hard pseudo-labels share: the mask, and the loss it weighs."""

    prior: Tensor

    def __init__(self, loss: Loss, mask: Mask, *, weight: float, ramp_until: float, cutmix: float) -> None:
        super().__init__(loss, weight=weight, ramp_until=ramp_until, cutmix=cutmix)
        self.mask = mask
        self.register_buffer("prior", torch.tensor(float("nan")))

    def pseudo_label(self, belief: Float[Tensor, "*s"]) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]]:
        """Return the mask's label and weight of each pixel."""
        return self.mask(belief)

    def terms(
        self, student: Network, teacher: Network | None, labelled: Labelled, unlabelled: Unlabelled, progress: float
    ) -> Terms:
        """Return what the student says of the views, held to the pseudo-labels that the mask keeps."""
        belief = belief_of(teacher, unlabelled.weak)
        share = (labelled.target * labelled.known).sum() / labelled.known.sum().clamp(min=1)
        self.prior.copy_(torch.where(self.prior.isnan(), share, torch.lerp(share, self.prior, MEMORY)))
        self.mask.settle(belief, unlabelled.valid, self.prior, progress)
        target, weight = self.mask(belief)
        weight = weight * unlabelled.valid
        logits, agree = self.agreement(student, labelled, unlabelled, target, weight)
        return logits, agree, kept(target, weight, unlabelled.valid)

    @abstractmethod
    def agreement(
        self,
        student: Network,
        labelled: Labelled,
        unlabelled: Unlabelled,
        target: Float[Tensor, "b 1 p q"],
        weight: Float[Tensor, "b 1 p q"],
    ) -> Agreement:
        """Return the logits of labelled tiles, and the term of the pseudo-labels, whose weight is 0 where not valid."""


class FixMatch(PseudoLabelling):
    """``mask`` decides which pixels count; the sum is divided by all valid pixels, not by the kept ones.

    ``quantile``: the surest ``share`` of each class, tied to the prior · ``fixed``: max(p, 1 − p) ≥ ``threshold`` ·
    ``class``: p ≥ ``positive`` or p ≤ ``negative`` · ``none``: all pixels · ``weighted``: all, by max(p, 1 − p) ·
    ``free``: FreeMatch · ``soft``: SoftMatch.
    """

    name, teacher, strong_views = "fixmatch", "average", 1

    def __init__(
        self,
        loss: Loss,
        *,
        mask: MaskName = "quantile",
        share: float = 0.8,
        threshold: float = 0.95,
        positive: float = 0.6,
        negative: float = 0.05,
        weight: float = 1.0,
        ramp_until: float = 0.3,
        cutmix: float = 0.0,
    ) -> None:
        check_choice("algorithm.options", "mask", mask, MASKS)
        made = {
            "quantile": lambda: Quantile(share, min(share, 0.2)), "fixed": lambda: Fixed(threshold),
            "class": lambda: ByClass(positive, negative), "none": lambda: Fixed(0.5), "weighted": Weighted,
            "free": Free, "soft": Soft,
        }[mask]()  # fmt: skip
        super().__init__(loss, made, weight=weight, ramp_until=ramp_until, cutmix=cutmix)

    def agreement(
        self,
        student: Network,
        labelled: Labelled,
        unlabelled: Unlabelled,
        target: Float[Tensor, "b 1 p q"],
        weight: Float[Tensor, "b 1 p q"],
    ) -> Agreement:
        """Return the term of the strong views."""
        seen = unlabelled.seen
        logits, views = together(student, labelled, unlabelled.strong)
        return logits, disagreement(views, seen(target), seen(weight), seen(unlabelled.valid))


def disagreement(
    logits: Float[Tensor, "*s"], target: Float[Tensor, "*s"], weight: Float[Tensor, "*s"], valid: Bool[Tensor, "*s"]
) -> Float[Tensor, ""]:
    """Return the weighted cross-entropy over all valid pixels: few sure pixels must not shout."""
    return (bce(logits, target) * weight).sum() / valid.sum().clamp(min=1)


def kept(
    target: Float[Tensor, "*s"], weight: Float[Tensor, "*s"], valid: Bool[Tensor, "*s"]
) -> dict[str, Float[Tensor, ""]]:
    """Return which share of the valid pixels counts, and which share of those is positive."""
    total = weight.sum()
    return {"kept": total / valid.sum().clamp(min=1), "kept_positive": (target * weight).sum() / total.clamp(min=1e-6)}
