"""Learn mixed tiles with the teacher's probabilities as targets: no threshold, and so nothing to be biased by one."""

from jaxtyping import Float
from torch import Tensor

from verglas.batch import Labelled, Unlabelled
from verglas.losses import Loss
from verglas.ssl._base import Consistent, Network, Step, belief_of, together


class SoftTeacher(Consistent):
    """The loss of the labels, on CutMix views (arXiv 1905.04899, 1906.01916) with soft targets."""

    name, teacher, strong_views = "soft_teacher", "average", 1

    def __init__(self, loss: Loss, *, weight: float = 1.0, ramp_until: float = 0.3, cutmix: float = 0.5) -> None:
        super().__init__(loss, weight=weight, ramp_until=ramp_until, cutmix=cutmix)

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
        """Return the loss on labels and on the teacher's beliefs."""
        if unlabelled is None:
            return self.labels_only(student, labelled)
        belief = unlabelled.seen(belief_of(teacher, unlabelled.weak))
        logits, views = together(student, labelled, unlabelled.strong)
        agree = self.loss(views[0], belief[0], unlabelled.seen(unlabelled.valid)[0])
        return self.total(self.supervised(logits, labelled), agree, progress)
