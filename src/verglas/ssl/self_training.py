"""Learn from the picks of the model that labels alone made, as a new student (Xie et al., arXiv 1911.04252)."""

from jaxtyping import Bool, Float
from torch import Tensor

from verglas.errors import check_range
from verglas.losses import Loss, bce, masked_mean
from verglas.ssl.mean_teacher import SoftTargets


class SelfTraining(SoftTargets):
    """The unlabelled micrographs are picked, and a student that begins anew learns these picks beside the labels.

    Picks are peaks of the mean map over all orientations that suppress each other, so they are particles, one disc
    each, where a map is only pixels; the core of each has its score as target, the ring around it does not count, and
    all else is background. This is done ``rounds`` times, each time by the student before.

    Where labels leave particles out, it is the labelled micrographs that are picked, and the student learns from these
    alone, its labels completed by the picks. Picks of unlabelled ones beside them added nothing.
    """

    name, teacher, strong_views, partial = "self_training", "picks", 1, True

    def __init__(
        self, loss: Loss, *, rounds: int = 1, weight: float = 1.0, ramp_until: float = 0.0, cutmix: float = 0.0
    ) -> None:
        check_range("algorithm.options", 1, 100, rounds=rounds)
        super().__init__(loss, weight=weight, ramp_until=ramp_until, cutmix=cutmix)
        self.rounds = rounds

    def pseudo_label(self, belief: Float[Tensor, "*s"]) -> None:
        """Make none of a map: what teaches are the picks."""

    def apart(
        self, views: Float[Tensor, "v b 1 p q"], belief: Float[Tensor, "v b 1 p q"], valid: Bool[Tensor, "v b 1 p q"]
    ) -> Float[Tensor, ""]:
        """Return the mean cross-entropy: the loss of the labels has a Dice term, which wants labels of 0 or 1."""
        return masked_mean(bce(views, belief), valid)
