"""Learn from some clicked particles: what was not clicked is unlabelled, not background."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from verglas.batch import Labelled, Unlabelled
from verglas.errors import check_choice, check_range
from verglas.losses import Loss, bce, ge_binomial, masked_mean, non_negative_pu
from verglas.ssl._base import Algorithm, Network, Step
from verglas.ssl.thresholds import MEMORY

RISKS = ("weighted", "nnpu", "ge_binomial")


class PositiveUnlabelled(Algorithm):
    """Risks that need only positives and unlabelled pixels.

    ``weighted``: the loss of the labels with unlabelled pixels as background, and positives weighted so that all of
    them together count ``balance`` times the unlabelled. Where any particle may have been clicked, what tells clicks
    from the rest ranks particles, too, and the weight keeps their scores from vanishing (Lee & Liu, ICML 2003; Elkan
    & Noto, KDD 2008). The others take the share ``prior`` of core pixels among the unlabelled. ``nnpu``: the
    non-negative risk (Kiryo et al., arXiv 1703.00593, eq. 6). ``ge_binomial``: likelihood of the positives, and,
    ``slack`` times, the number of positives among unlabelled places held to a binomial distribution (Bepler et al.,
    arXiv 1803.08207, section 2.2); places are ``pitch`` logits apart, because neighbours are not independent. Where
    labels are complete there are no unlabelled pixels, and all are the loss of the labels.
    """

    name, partial = "pu", True
    clicked: Tensor

    def __init__(
        self,
        loss: Loss,
        *,
        risk: Literal["weighted", "nnpu", "ge_binomial"] = "weighted",
        balance: float = 0.5,
        prior: float = 0.1,
        slack: float = 1.0,
        pitch: int = 12,
    ) -> None:
        super().__init__(loss)
        check_choice("algorithm.options", "risk", risk, RISKS)
        check_range("algorithm.options", 0.01, 100, balance=balance)
        check_range("algorithm.options", 0.001, 0.9, prior=prior)
        check_range("algorithm.options", 0, 1000, slack=slack)
        check_range("algorithm.options", 1, 256, pitch=pitch)
        self.risk, self.balance, self.prior, self.slack, self.pitch = risk, balance, prior, slack, pitch
        self.register_buffer("clicked", torch.zeros(()))

    def pseudo_label(self, belief: Float[Tensor, "*s"]) -> None:
        """Make none."""

    def step(
        self,
        student: Network,
        teacher: Network | None,
        labelled: Labelled,
        unlabelled: Unlabelled | None,
        progress: float,
    ) -> Step:
        """Return the risk of tiles where something was not looked at, and the loss of the labels of the others."""
        logits, unseen = student(labelled.image).float(), labelled.unseen
        partial = unseen.flatten(1).any(1)[:, None, None, None]
        learn = self.loss(logits, labelled.target, labelled.known & ~partial)
        risk = self._risk(logits, labelled.known & (labelled.target > 0.5) & partial, unseen)
        return Step(learn + risk, {"supervised": learn.detach(), "risk": risk.detach()})

    def _risk(
        self, logits: Float[Tensor, "b 1 p q"], positive: Bool[Tensor, "b 1 p q"], unseen: Bool[Tensor, "b 1 p q"]
    ) -> Float[Tensor, ""]:
        if self.risk == "weighted":
            return self._weighted(logits, positive, unseen)
        if self.risk == "nnpu":
            return non_negative_pu(logits, positive, unseen, self.prior)
        places = torch.zeros_like(unseen)
        places[..., self.pitch // 2 :: self.pitch, self.pitch // 2 :: self.pitch] = True
        likely = masked_mean(bce(logits, torch.ones_like(logits)), positive)
        return likely + self.slack * ge_binomial(logits[places & unseen].sigmoid(), self.prior)

    def _weighted(
        self, logits: Float[Tensor, "b 1 p q"], positive: Bool[Tensor, "b 1 p q"], unseen: Bool[Tensor, "b 1 p q"]
    ) -> Float[Tensor, ""]:
        """Return the loss of clicks against the rest; batches differ in clicks, so their share is a running mean."""
        some = positive | unseen
        share = positive.sum() / some.sum().clamp(min=1)
        self.clicked.copy_(torch.lerp(share, self.clicked, MEMORY if self.clicked else 0.0))
        weight = (self.balance * (1 - self.clicked) / self.clicked.clamp(min=1e-6)).clamp(1.0, 1000.0)
        return replace(self.loss, pos_weight=float(weight))(logits, positive.float(), some)
