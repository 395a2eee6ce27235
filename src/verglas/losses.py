"""Losses of logits against targets in [0, 1]: pure functions, masked, in float32.

A masked mean divides by the number of known pixels the caller names, so a few confident pixels cannot shout.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from verglas.errors import InputError, check_range


@dataclass(frozen=True, slots=True)
class Loss:
    """A weighted sum of losses; a weight of 0 leaves its term out.

    Parameters
    ----------
    bce, focal, dice, tversky
        Weights of the terms.
    focal_alpha, focal_gamma
        Class balance and focusing of the focal loss (Lin et al., arXiv 1708.02002, eq. 5).
    pos_weight
        Factor on positive pixels in the cross-entropy and focal terms.
    tversky_fp, tversky_fn
        Costs of false positives and false negatives (Salehi et al., arXiv 1706.05721, eq. 3).
    """

    bce: float = 1.0
    focal: float = 0.0
    dice: float = 0.3
    tversky: float = 0.0
    focal_alpha: float = 0.5
    focal_gamma: float = 2.0
    pos_weight: float = 1.0
    tversky_fp: float = 0.3
    tversky_fn: float = 0.7

    def __post_init__(self) -> None:
        weights = {"bce": self.bce, "focal": self.focal, "dice": self.dice, "tversky": self.tversky}
        costs = {"tversky_fp": self.tversky_fp, "tversky_fn": self.tversky_fn}
        check_range("loss", 0, 1000, **weights, **costs, focal_gamma=self.focal_gamma)
        check_range("loss", 0.01, 0.99, focal_alpha=self.focal_alpha)
        check_range("loss", 0.001, 1000, pos_weight=self.pos_weight)
        if self.bce + self.focal + self.dice + self.tversky == 0:
            raise InputError("loss", "sum of weights", found=0, expected="a term with a weight above 0")
        if self.focal and self.focal_alpha != 0.5 and self.pos_weight != 1:
            odds = self.focal_alpha * self.pos_weight / (1 - self.focal_alpha)
            raise InputError(
                "loss", "class weighting", found=f"focal_alpha {self.focal_alpha} and pos_weight {self.pos_weight}",
                expected="one of the two",
                remedy=f"They multiply into one ratio, {odds:.3g} : 1 for positives, which neither number shows. "
                "Set focal_alpha = 0.5 or pos_weight = 1.",
            )  # fmt: skip

    def __call__(
        self,
        logits: Float[Tensor, "b 1 h w"],
        target: Float[Tensor, "b 1 h w"],
        known: Bool[Tensor, "b 1 h w"],
    ) -> Float[Tensor, ""]:
        """Return the loss over known pixels; 0, with a gradient of 0, where none is known."""
        logits, target = logits.float(), target.float()
        total = logits.new_zeros(())
        if self.bce:
            weight = 1 + (self.pos_weight - 1) * target
            total = total + self.bce * masked_mean(bce(logits, target) * weight, known)
        if self.focal:
            each = focal(logits, target, self.focal_alpha, self.focal_gamma, self.pos_weight)
            total = total + self.focal * masked_mean(each, known)
        if self.dice:
            total = total + self.dice * tversky(logits, target, known, 0.5, 0.5)
        if self.tversky:
            total = total + self.tversky * tversky(logits, target, known, self.tversky_fp, self.tversky_fn)
        return total


def bce(logits: Float[Tensor, "*s"], target: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return the cross-entropy of each pixel; the target may be soft."""
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


def bernoulli_entropy(p: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return the entropy of each probability in nats: what cross-entropy with ``p`` as target cannot go below."""
    return -torch.xlogy(p, p) - torch.xlogy(1 - p, 1 - p)


def focal(
    logits: Float[Tensor, "*s"], target: Float[Tensor, "*s"], alpha: float, gamma: float, pos_weight: float = 1.0
) -> Float[Tensor, "*s"]:
    """Return the focal loss of each pixel. It is not proper: its outputs are no probabilities (arXiv 2011.09172)."""
    if_positive, if_negative = functional.softplus(-logits), functional.softplus(logits)  # -ln p, -ln(1 - p)
    positive = alpha * pos_weight * target * torch.exp(-gamma * if_negative) * if_positive
    return positive + (1 - alpha) * (1 - target) * torch.exp(-gamma * if_positive) * if_negative


def tversky(
    logits: Float[Tensor, "*s"], target: Float[Tensor, "*s"], known: Bool[Tensor, "*s"], fp: float, fn: float
) -> Float[Tensor, ""]:
    """Return one minus the Tversky index over the whole batch; 0.5 and 0.5 make it Dice.

    Summed over the batch: per image, an empty crop would give a spike of gradient.
    """
    p, y = torch.sigmoid(logits) * known, target * known
    both = (p * y).sum()
    return 1 - (both + 0.5) / (both + fp * (p - p * y).sum() + fn * (y - p * y).sum() + 0.5)


def masked_mean(
    values: Float[Tensor, "*s"], mask: Bool[Tensor, "*s"], among: Bool[Tensor, "*s"] | None = None
) -> Float[Tensor, ""]:
    """Return the sum over ``mask`` divided by the number of pixels in ``among`` (the mask itself by default)."""
    count = (mask if among is None else among).sum().clamp(min=1)
    return torch.where(mask, values, 0).sum() / count


def non_negative_pu(
    logits: Float[Tensor, "*s"], positive: Bool[Tensor, "*s"], unlabelled: Bool[Tensor, "*s"], prior: float
) -> Float[Tensor, ""]:
    """Return the non-negative positive-unlabelled risk of the cross-entropy (Kiryo et al., arXiv 1703.00593, eq. 6).

    ``prior`` is the share of positives among the unlabelled. Where the part of the negatives falls below zero, which
    no true risk does, the gradient is that of its opposite (their algorithm 1), and the value its size.
    """
    as_positive = masked_mean(bce(logits, torch.ones_like(logits)), positive)
    as_negative = bce(logits, torch.zeros_like(logits))
    negative = masked_mean(as_negative, unlabelled) - prior * masked_mean(as_negative, positive)
    return torch.where(negative < 0, -negative, prior * as_positive + negative)


def ge_binomial(p: Float[Tensor, " n"], prior: float) -> Float[Tensor, ""]:
    """Return the cross-entropy of the number of positives, as ``p`` has it, to a binomial distribution.

    The number is taken as normal with mean Σp and variance Σp(1 − p) (Bepler et al., arXiv 1803.08207, section 2.2).
    """
    n = len(p)
    if not n:
        return p.sum()
    k = torch.arange(n + 1, device=p.device, dtype=p.dtype)
    share = torch.softmax(-((k - p.sum()) ** 2) / (2 * (p * (1 - p)).sum() + 1e-6), 0)
    expected = torch.distributions.Binomial(n, torch.tensor(prior, device=p.device, dtype=p.dtype)).log_prob(k)
    return -(share * expected).sum()
