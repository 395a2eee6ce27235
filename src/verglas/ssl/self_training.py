"""Learn from pseudo-labels of a frozen copy of yourself, made anew in rounds (Xie et al., arXiv 1911.04252)."""

from jaxtyping import Float
from torch import Tensor

from verglas.batch import Labelled, Unlabelled
from verglas.errors import check_range
from verglas.losses import Loss
from verglas.ssl._base import Network
from verglas.ssl.fixmatch import Agreement, PseudoLabelling, on_strong_views
from verglas.ssl.thresholds import Quantile


class SelfTraining(PseudoLabelling):
    """The teacher is a snapshot of the averaged model, taken at the start of each round.

    It labels the surest ``share`` of each class in the proportion of the prior; the rest does not count.
    """

    name, teacher, strong_views = "self_training", "snapshot", 1

    def __init__(
        self,
        loss: Loss,
        *,
        rounds: int = 2,
        share: float = 0.8,
        weight: float = 1.0,
        ramp_until: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        check_range("algorithm.options", 1, 100, rounds=rounds)
        super().__init__(loss, Quantile(share, share), weight=weight, ramp_until=ramp_until, cutmix=cutmix)
        self.rounds = rounds

    def agreement(
        self,
        student: Network,
        labelled: Labelled,
        unlabelled: Unlabelled,
        target: Float[Tensor, "b 1 p q"],
        weight: Float[Tensor, "b 1 p q"],
    ) -> Agreement:
        """Return the term of the strong views."""
        return on_strong_views(student, labelled, unlabelled, target, weight)
