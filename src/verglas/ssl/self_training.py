"""Learn from pseudo-labels of a frozen copy of yourself, made anew in rounds (Xie et al., arXiv 1911.04252)."""

from verglas.batch import Labelled, Unlabelled
from verglas.errors import check_range
from verglas.losses import Loss
from verglas.ssl._base import Network, Step, together
from verglas.ssl.fixmatch import PseudoLabelling, disagreement, kept
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

    def step(
        self,
        student: Network,
        teacher: Network | None,
        labelled: Labelled,
        unlabelled: Unlabelled | None,
        progress: float,
    ) -> Step:
        """Return the loss on labels and on pseudo-labels."""
        if unlabelled is None:
            return self.labels_only(student, labelled)
        target, weight = self.labelled_from(teacher, labelled, unlabelled, progress)
        logits, views = together(student, labelled, unlabelled.strong)
        agree = disagreement(views, unlabelled.seen(target), unlabelled.seen(weight), unlabelled.seen(unlabelled.valid))
        return self.total(self.supervised(logits, labelled), agree, progress, **kept(target, weight, unlabelled.valid))
