"""How a probability becomes a pseudo-label: the target of a pixel, and how much the pixel counts.

The masks of the literature and of the failure reports, each a module whose buffers are its running quantities.
``settle`` looks at a batch of beliefs first; ``forward`` then labels any belief without changing anything.
"""

from abc import ABC, abstractmethod
from math import inf

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from verglas.errors import check_range

MEMORY = 0.99
"""What a running quantity keeps at each step."""

BINS, REACH = 4000, 16.0
"""Bins of the histogram of beliefs, over logits from −``REACH`` to ``REACH``: sure beliefs differ there only."""

Labels = tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]]


class Mask(nn.Module, ABC):
    """A rule that labels beliefs."""

    def settle(
        self, belief: Float[Tensor, "*s"], valid: Bool[Tensor, "*s"], prior: Float[Tensor, ""], progress: float
    ) -> None:
        """Take a batch of beliefs into account; ``prior`` is the share of positive pixels among the labels'."""

    @abstractmethod
    def forward(self, belief: Float[Tensor, "*s"]) -> Labels:
        """Return targets, 0 or 1, and weights from 0 to 1."""


class Fixed(Mask):
    """Keep where max(p, 1 − p) reaches a threshold (FixMatch, arXiv 2001.07685, eq. 4); 0.5 keeps everything."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        check_range("algorithm.options", 0, 1, threshold=threshold)
        self.threshold = threshold

    def forward(self, belief: Float[Tensor, "*s"]) -> Labels:
        """Label by the likelier class."""
        return (belief >= 0.5).float(), (confidence(belief) >= self.threshold).float()


class ByClass(Mask):
    """Keep p ≥ ``positive`` as particle and p ≤ ``negative`` as background."""

    def __init__(self, positive: float, negative: float) -> None:
        super().__init__()
        check_range("algorithm.options", 0, 1, positive=positive)
        check_range("algorithm.options", 0, positive, negative=negative)
        self.positive, self.negative = positive, negative

    def forward(self, belief: Float[Tensor, "*s"]) -> Labels:
        """Label by the nearer bound."""
        target = belief >= self.positive
        return target.float(), (target | (belief <= self.negative)).float()


class Quantile(Mask):
    """Keep the ``share`` of surest pixels of each class, in the proportion of the prior.

    With Q the quantiles of the beliefs met so far and π the prior, a pixel is positive from Q(1 − π) on, and kept
    from Q(1 − share·π) on or up to Q(share·(1 − π)): kept pixels are a share of all, and π of them positive, whatever
    the scale of the beliefs. The share rises from ``first`` over the first half of the stage. Where the beliefs
    are constant nothing is kept.
    """

    histogram: Tensor
    bounds: Tensor

    def __init__(self, share: float, first: float) -> None:
        super().__init__()
        check_range("algorithm.options", 0.01, 1, share=share)
        check_range("algorithm.options", 0.01, share, first_share=first)
        self.share, self.first = share, first
        self.register_buffer("histogram", torch.zeros(BINS))
        self.register_buffer("bounds", torch.tensor([-inf, 0.0, inf]))  # kept up to, positive from, kept from

    def settle(
        self, belief: Float[Tensor, "*s"], valid: Bool[Tensor, "*s"], prior: Float[Tensor, ""], progress: float
    ) -> None:
        """Add the beliefs to the histogram and read the bounds off it."""
        bins = ((_logit(belief[valid]) / REACH + 1) / 2 * BINS).long().clamp(0, BINS - 1)
        self.histogram.mul_(MEMORY).add_(torch.bincount(bins, minlength=BINS))
        share = self.first + (self.share - self.first) * min(1.0, 2 * progress)
        wanted = torch.stack([share * (1 - prior), 1 - prior, 1 - share * prior, (1 - prior) / 2, 1 - prior / 2])
        *bounds, low, high = (2 * quantiles(self.histogram, wanted) - 1) * REACH
        apart = high - low > 2 * REACH / BINS  # the medians of both classes: one bin holds constant beliefs
        off = torch.tensor([-inf, 0.0, inf], device=belief.device)
        self.bounds.copy_(torch.where(apart, torch.stack(bounds), off))

    def forward(self, belief: Float[Tensor, "*s"]) -> Labels:
        """Label by the bounds."""
        low, middle, high = self.bounds
        logit = _logit(belief)
        return (logit >= middle).float(), ((logit >= high) | (logit <= low)).float()


def _logit(belief: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    return torch.logit(belief).clamp(-REACH, REACH)


class Weighted(Mask):
    """No mask: every pixel counts by its confidence max(p, 1 − p) (the soft weights of failure report B)."""

    def forward(self, belief: Float[Tensor, "*s"]) -> Labels:
        """Label by the likelier class."""
        return (belief >= 0.5).float(), confidence(belief)


class Free(Mask):
    """Thresholds that follow the beliefs (FreeMatch, arXiv 2205.07246, eqs. 5 to 8).

    A class is kept from the mean confidence on, times its mean belief over that of the likelier class.
    """

    mean_confidence: Tensor
    mean_belief: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean_confidence", torch.tensor(0.5))
        self.register_buffer("mean_belief", torch.tensor(0.5))

    def settle(
        self, belief: Float[Tensor, "*s"], valid: Bool[Tensor, "*s"], prior: Float[Tensor, ""], progress: float
    ) -> None:
        """Move both means."""
        if valid.any():
            self.mean_confidence.lerp_(confidence(belief[valid]).mean(), 1 - MEMORY)
            self.mean_belief.lerp_(belief[valid].mean(), 1 - MEMORY)

    def forward(self, belief: Float[Tensor, "*s"]) -> Labels:
        """Label by the likelier class, keep by that class's threshold."""
        shares = torch.stack([1 - self.mean_belief, self.mean_belief])
        negative, positive = self.mean_confidence * shares / shares.max()
        target = belief >= 0.5
        return target.float(), torch.where(target, belief >= positive, 1 - belief >= negative).float()


class Soft(Mask):
    """Weights that fall off as a Gaussian below the mean confidence of a class (SoftMatch, arXiv 2301.10921, eq. 5)."""

    mean: Tensor
    variance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((2,), 0.5))
        self.register_buffer("variance", torch.full((2,), 0.25))

    def settle(
        self, belief: Float[Tensor, "*s"], valid: Bool[Tensor, "*s"], prior: Float[Tensor, ""], progress: float
    ) -> None:
        """Move mean and variance of the confidence in each class."""
        for index, chosen in enumerate((valid & (belief < 0.5), valid & (belief >= 0.5))):
            if chosen.any():
                sure = confidence(belief[chosen])
                self.variance[index].lerp_(((sure - self.mean[index]) ** 2).mean(), 1 - MEMORY)
                self.mean[index].lerp_(sure.mean(), 1 - MEMORY)

    def forward(self, belief: Float[Tensor, "*s"]) -> Labels:
        """Label by the likelier class."""
        target = belief >= 0.5
        mean, variance = (torch.where(target, pair[1], pair[0]) for pair in (self.mean, self.variance))
        short = (confidence(belief) - mean).clamp(max=0)
        return target.float(), torch.exp(-2 * short**2 / variance.clamp(min=1e-6))


def confidence(belief: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return max(p, 1 − p)."""
    return torch.maximum(belief, 1 - belief)


def quantiles(histogram: Float[Tensor, " k"], wanted: Float[Tensor, " q"]) -> Float[Tensor, " q"]:
    """Return quantiles of values in [0, 1] counted in equal bins, linear within a bin."""
    below = torch.cat([histogram.new_zeros(1), histogram.cumsum(0)])
    place = wanted.clamp(0, 1) * below[-1]
    index = torch.searchsorted(below, place).clamp(1, len(histogram))
    inside = (place - below[index - 1]) / (below[index] - below[index - 1]).clamp(min=1e-12)
    return (index - 1 + inside.clamp(0, 1)) / len(histogram)
