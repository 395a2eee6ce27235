"""Agree with the running average of yourself (Tarvainen & Valpola, arXiv 1703.01780)."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from verglas.batch import Labelled, Unlabelled
from verglas.errors import check_choice
from verglas.losses import Loss, bce, bernoulli_entropy, masked_mean
from verglas.ssl._base import Consistent, Network, Step, belief_of, together

WEIGHTS = {"mse": 10.0, "kl": 1.0}
"""Weight of the term unless one is given: a squared difference of probabilities is that much smaller."""


class MeanTeacher(Consistent):
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

    def pseudo_label(self, belief: Float[Tensor, "*s"]) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]]:
        """Return the belief itself, everywhere."""
        return belief, belief.new_ones(belief.shape)

    def step(
        self,
        student: Network,
        teacher: Network | None,
        labelled: Labelled,
        unlabelled: Unlabelled | None,
        progress: float,
    ) -> Step:
        """Return the loss on labels and the disagreement on strong views."""
        if unlabelled is None:
            return self.labels_only(student, labelled)
        belief = unlabelled.seen(belief_of(teacher, unlabelled.weak))
        logits, views = together(student, labelled, unlabelled.strong)
        if self.consistency == "mse":
            apart = (views.sigmoid() - belief) ** 2
        else:
            apart = bce(views, belief) - bernoulli_entropy(belief)
        agree = masked_mean(apart, unlabelled.seen(unlabelled.valid))
        return self.total(self.supervised(logits, labelled), agree, progress)
