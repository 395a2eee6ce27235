"""Learn mixed tiles with the teacher's probabilities as targets: no threshold, and so nothing to be biased by one."""

from jaxtyping import Bool, Float
from torch import Tensor

from verglas.losses import Loss
from verglas.ssl.mean_teacher import SoftTargets


class SoftTeacher(SoftTargets):
    """The loss of the labels, on CutMix views (arXiv 1905.04899, 1906.01916) with soft targets."""

    name, teacher, strong_views = "soft_teacher", "average", 1

    def __init__(self, loss: Loss, *, weight: float = 1.0, ramp_until: float = 0.3, cutmix: float = 0.5) -> None:
        super().__init__(loss, weight=weight, ramp_until=ramp_until, cutmix=cutmix)

    def apart(
        self, views: Float[Tensor, "v b 1 p q"], belief: Float[Tensor, "v b 1 p q"], valid: Bool[Tensor, "v b 1 p q"]
    ) -> Float[Tensor, ""]:
        """Return the loss of the labels, with beliefs in their place."""
        return self.loss(views[0], belief[0], valid[0])
