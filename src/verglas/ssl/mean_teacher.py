"""Agree with the running average of yourself (Tarvainen & Valpola, arXiv 1703.01780)."""

from abc import ABC, abstractmethod
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from verglas.batch import Labelled, Unlabelled
from verglas.errors import check_choice
from verglas.losses import Loss, bce, bernoulli_entropy, masked_mean
from verglas.ssl._base import Consistent, Network, Terms, belief_of, together

WEIGHTS = {"mse": 10.0, "kl": 1.0}
"""Weight of the term unless one is given: a squared difference of probabilities is that much smaller."""


class SoftTargets(Consistent, ABC):
    """What algorithms share whose targets are the teacher's probabilities, everywhere."""

    def pseudo_label(self, belief: Float[Tensor, "*s"]) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]] | None:
        """Return the belief itself, everywhere."""
        return belief, belief.new_ones(belief.shape)

    def terms(
        self, student: Network, teacher: Network | None, labelled: Labelled, unlabelled: Unlabelled, progress: float
    ) -> Terms:
        """Return what the student says of strong views, held to the teacher's beliefs."""
        known = unlabelled.belief
        belief = unlabelled.seen(belief_of(teacher, unlabelled.weak) if known is None else known)
        logits, views = together(student, labelled, unlabelled.strong)
        return logits, self.apart(views, belief, unlabelled.seen(unlabelled.valid)), {}

    @abstractmethod
    def apart(
        self, views: Float[Tensor, "v b 1 p q"], belief: Float[Tensor, "v b 1 p q"], valid: Bool[Tensor, "v b 1 p q"]
    ) -> Float[Tensor, ""]:
        """Return how far logits of the views are from the beliefs."""


class MeanTeacher(SoftTargets):
    """Every valid pixel counts, the teacher's probability is the target.

    ``consistency``: mean squared difference of probabilities, or mean Kullback-Leibler divergence in nats.
    """

    name, teacher, strong_views = "mean_teacher", "average", 1

    def __init__(
        self,
        loss: Loss,
        *,
        consistency: Literal["mse", "kl"] = "mse",
        weight: float | None = None,
        ramp_until: float = 0.3,
        cutmix: float = 0.0,
    ) -> None:
        check_choice("algorithm.options", "consistency", consistency, tuple(WEIGHTS))
        weight = WEIGHTS[consistency] if weight is None else weight
        super().__init__(loss, weight=weight, ramp_until=ramp_until, cutmix=cutmix)
        self.consistency = consistency

    def apart(
        self, views: Float[Tensor, "v b 1 p q"], belief: Float[Tensor, "v b 1 p q"], valid: Bool[Tensor, "v b 1 p q"]
    ) -> Float[Tensor, ""]:
        """Return the mean difference or divergence."""
        if self.consistency == "mse":
            return masked_mean((views.sigmoid() - belief) ** 2, valid)
        return masked_mean(bce(views, belief) - bernoulli_entropy(belief), valid)
